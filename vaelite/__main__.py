"""The command line: the same functions the notebooks call. `vaelite --help` lists the commands."""
from __future__ import annotations

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path

from .errors import VaeliteError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it did what it says, 1 with one message on standard error when it could not."""
    options = parser().parse_args(arguments)
    try:
        options.command(options)
        print(end="", flush=True)                            # so that a closed pipe shows here, and not when Python ends
    except VaeliteError as error:
        print(f"vaelite: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:                                  # `| head` has read enough; what Python's documentation advises,
        if sys.stdout is sys.__stdout__:                     # so that the flush at the end does not fail too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.filename is None:                           # no file that a user could mend: show where it happened
            raise
        print(f"vaelite: {error.filename}: {error.strerror}. Check the name, its permissions and the disk.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("vaelite: stopped; finished stages are kept.", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="vaelite", description="Medical image translation through a shared latent space. "
                                  "For research and teaching; not a medical device.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(command=function)
        return sub

    for name, help in (("vae", "stage 1: train the shared VAE"), ("mapper", "stage 2: train the latent mapper"),
                       ("finetune", "stage 3: fine-tune the decoder, choose it per direction on validation"),
                       ("unet", "train the image-space baseline for as long as the three stages took"),
                       ("control", "train stage 3 without latents for as long as the three stages took")):
        sub = command(name, train_stage, help)
        sub.set_defaults(stage=name)
        sub.add_argument("--profile", default="laptop", help="smoke, laptop or paper")
        sub.add_argument("--data", required=True, type=Path, help="data set folder (holds dataset.json)")
        sub.add_argument("--run", required=True, type=Path, help="run folder")
        sub.add_argument("--devices", default=1, type=int, help="GPUs, or processes on CPUs, that share each batch on a node")
        sub.add_argument("--nodes", default=1, type=int, help="nodes that run this same command, under srun or torchrun")
        sub.add_argument("--set", nargs="*", default=[], metavar="KNOB=VALUE", help="change single knobs, e.g. vae.factor=16")

    sub = command("evaluate", evaluate_run, "judge a finished run on its test patients and write report.json")
    sub.add_argument("run", type=Path)
    sub.add_argument("--data", required=True, type=Path)

    sub = command("translate", translate_file, "translate one NIfTI volume; the result has the same grid and affine")
    sub.add_argument("run", type=Path)
    sub.add_argument("input", type=Path)
    sub.add_argument("output", type=Path)
    sub.add_argument("--source", required=True, help="modality of the input: CBCT, CT, T1c or T2w")
    sub.add_argument("--target", required=True, help="modality of the output")
    sub.add_argument("--also", nargs="*", default=[], metavar="MODALITY=FILE",
                     help="further sources on the same grid, e.g. T1c=t1c.nii.gz")
    sub.add_argument("--interval", type=Path, metavar="FILE",
                     help="also write half the width of the interval that held 80 %% of the validation patients' body")
    sub.add_argument("--method", default="vaelite", help="vaelite, unet, ridge, ...")

    sub = command("check", check_data, "read a data set to the last byte and say what is wrong with it, or that it is sound")
    sub.add_argument("data", type=Path)

    sub = command("report", print_report, "print the tables of a run's report.json as Markdown")
    sub.add_argument("run", type=Path)
    sub.add_argument("--into", type=Path, help="write them into this file instead, between <!-- summary:RUN --> and <!-- end -->; "
                     "and between <!-- times:RUN --> and <!-- end --> what each lesson took")

    sub = command("config", print_config, "print a profile's knobs as JSON, or the value of one knob")
    sub.add_argument("profile", nargs="?", default="laptop")
    sub.add_argument("knob", nargs="?")

    sub = command("copies", copy_lessons, "write the lessons as .ipynb to hand out, without their solutions")
    sub.add_argument("folder", type=Path)
    sub.add_argument("--solutions", action="store_true", help="with them")

    sub = command("run-all", run_all, "execute the four notebooks in order and leave a report")
    sub.add_argument("--profile", default="laptop")
    sub.add_argument("--data", required=True, type=Path)
    sub.add_argument("--run", required=True, type=Path)
    return top


def train_stage(options: argparse.Namespace) -> None:
    from . import stages
    from .data.cases import load_cases
    from .profiles import profile
    from .runs import open_run
    from .scale import launch

    functions = {"vae": stages.train_vae, "mapper": stages.train_mapper,
                 "finetune": stages.finetune_decoder}
    functions |= {name: partial(stages.train_baseline, name) for name in ("unet", "control")}
    cfg = profile(options.profile, **dict(knob_and_value(text) for text in options.set))
    launch(options.devices, options.nodes, stages.resolve_device(cfg.device))
    functions[options.stage](cfg, load_cases(options.data), open_run(options.run))


def knob_and_value(text: str) -> tuple[str, object]:
    """'vae.factor=16' -> ("vae.factor", 16); values are JSON, anything else is a string."""
    knob, equals, value = text.partition("=")
    if not equals:
        raise VaeliteError(f"--set takes KNOB=VALUE, got '{text}'.")
    try:
        return knob, json.loads(value)
    except json.JSONDecodeError:
        return knob, value


def evaluate_run(options: argparse.Namespace) -> None:
    from .data.cases import load_cases
    from .report import report_tables
    from .runs import open_run
    from .stages import evaluate

    print(report_tables(evaluate(load_cases(options.data), open_run(options.run))))


def translate_file(options: argparse.Namespace) -> None:
    from .data.volumes import load_volume, save_volume
    from .runs import open_run
    from .stages import load_translator
    from .translate import translate, translate_interval

    translator = load_translator(open_run(options.run))
    sources, paths = [options.source], [options.input]
    for text in options.also:
        modality, equals, path = text.partition("=")
        if not equals:
            raise VaeliteError(f"--also takes MODALITY=FILE, got '{text}'.")
        sources.append(modality)
        paths.append(Path(path))
    volumes = [load_volume(path, modality) for path, modality in zip(paths, sources)]
    if options.interval is None:
        save_volume(translate(volumes, tuple(sources), options.target, translator, options.method), options.output)
    elif options.method != "vaelite":
        raise VaeliteError("--interval knows the error of the method 'vaelite' alone. Leave out --method.")
    else:
        drawn, half_width = translate_interval(volumes, tuple(sources), options.target, translator)
        save_volume(drawn, options.output)
        save_volume(half_width, options.interval)
    together = ", taken to be registered" if len(sources) > 1 else ""    # an equal grid does not prove one patient
    print(f"{options.output}: {options.target} from {' and '.join(sources)}{together}; {options.method}. "
          f"Research and teaching only.")


def check_data(options: argparse.Namespace) -> None:
    from .data.cases import data_fingerprint, load_cases

    cases = load_cases(options.data)
    print(f"{'case':<16}{'split':<12}{'modalities':<22}{'spacing z y x [mm]':<22}structures")
    for case in cases:
        spacing = " ".join(f"{s:.2f}" for s in case.spacing_mm)
        print(f"{case.name:<16}{case.split:<12}{' '.join(case.modalities):<22}{spacing:<22}{len(case.structure_names)}")
    print(f"{len(cases)} cases, no problem found. Fingerprint {data_fingerprint(options.data)[:12]}.")


def print_report(options: argparse.Namespace) -> None:
    from .report import fill, put, report_tables
    from .runs import open_run

    run = open_run(options.run)
    report = run.report()
    if not options.into:
        print(report_tables(report))
        return
    if not options.into.is_file():
        raise VaeliteError(f"{options.into} is no file. Give one that holds the line <!-- summary:{report['run']} -->.")
    text = options.into.read_text(encoding="utf-8")
    if f":{report['run']} -->" not in text:
        raise VaeliteError(f"{options.into} has no place for this run: no line <!-- summary:{report['run']} --> in it.")
    if f"<!-- times:{run.name} -->" in text:
        from .notebooks import times_table

        text = put(text, f"times:{run.name}", times_table(run))
    options.into.write_text(fill(text, report), encoding="utf-8")


def print_config(options: argparse.Namespace) -> None:
    from .profiles import knobs, profile

    values = knobs(profile(options.profile))
    if options.knob is None:
        print(json.dumps(values, indent=1))
    elif options.knob in values:
        print(values[options.knob])
    else:
        raise VaeliteError(f"There is no knob called '{options.knob}'. `vaelite config {options.profile}` lists them.")


def copy_lessons(options: argparse.Namespace) -> None:
    from .notebooks import write_copies

    for path in write_copies(options.folder, solutions=options.solutions):
        print(path)


def run_all(options: argparse.Namespace) -> None:
    from .data.cases import read_manifest
    from .notebooks import PROJECT, run_notebooks
    from .profiles import profile
    from .runs import open_run

    profile(options.profile)                                 # what is refused at all is refused before a kernel starts
    read_manifest(options.data)
    open_run(options.run)
    data, run = (path if not path.is_absolute() and Path.cwd() == PROJECT else path.resolve()
                 for path in (options.data, options.run))    # relative names stay short in the executed pages
    run_notebooks(None, {"profile_name": options.profile, "data_dir": str(data), "run_dir": str(run)}, run)


if __name__ == "__main__":
    sys.exit(main())
