"""One function per stage, called alike by the notebooks, the command line and the tests."""
from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .data.cases import Case, data_fingerprint
from .data.intensity import MODALITIES
from .data.slices import SliceSet, every_nth, load_slices, thinned
from .dose.evaluation import doses_file, evaluate_dose, prescriptions
from .errors import VaeliteError
from .evaluation.images import build_report, evaluate_images
from .models.adversarial import Adversary
from .models.baselines import BASELINES, NoLatentControl, count_parameters
from .models.decoder import DecoderConfig, GuidedDecoder
from .models.layers import subset
from .models.losses import image_loss, kl_divergence, laplace_nll
from .models.mapper import LatentMapper, MapperConfig
from .models.masked import MaskedMapper
from .models.unet import UNetConfig
from .models.vae import VAE, VAEConfig
from .profiles import Config, from_knobs, knobs, like
from .runs import Run
from .scale import processes, share
from .training.resume import Resume
from .training.train import FitResult, PrintProgress, clocks, directions, draw_slices, draw_tasks, fit, has_bf16, tasks
from .translate import COVERAGE, Translator, task_name

# The error's scale learns beside the image; so small a weight does not change what is drawn (validation). Our choice.
SCALE_WEIGHT = 2e-2
LEAST_LOG_SCALE = -7.0                                       # air has next to no error: b must not shrink to nothing there
OnStep = Callable[[str, int, float, dict[str, float]], None]


def train_vae(cfg: Config, cases: list[Case], run: Run, on_step: OnStep | None = None) -> VAE:
    """Stage 1: PCA in closed form, then the residual networks. Saves and returns the VAE.

    cases: of all splits; training uses "train", the reported reconstruction quality "validation".
    """
    if is_finished("vae", cfg, cases, run):
        return load_vae(run, cfg)
    device, generator = seeded(cfg, "vae")
    slices = stage_slices(cfg, cases, "train")
    held_out = stage_slices(cfg, cases, "validation")        # before training: a missing split costs nothing
    start = clocks(resolve_device(cfg.device))
    vae = VAE(cfg.vae).to(device)
    some = draw_slices(slices, min(600, 4 * len(slices)), generator, device)
    vae.fit_pca(some)
    if vae.codebook:
        vae.codebook.fit(vae.encode(some[:100]).mean.detach(), generator)
    adversary = adversary_of(cfg, device)

    def batch_loss() -> dict[str, Tensor]:
        x = share(draw_slices(slices, cfg.vae_fit.batch, generator, device))
        reconstruction, posterior = vae(x, generator)
        image = image_loss(reconstruction, x, cfg.loss.ssim)
        judged = adversary.loss(reconstruction, x) if adversary else {}
        loss = image + sum(judged.values())
        if vae.codebook:
            quantisation = vae.codebook.loss(posterior.mean)
            return {"loss": loss + cfg.loss.quantisation * quantisation, "image": image, "quantisation": quantisation} | judged
        kl_per_latent = kl_divergence(posterior.mean, posterior.logvar).mean() / posterior.mean[0].numel()
        return {"loss": loss + cfg.loss.kl * kl_per_latent, "image": image, "kl_per_latent": kl_per_latent} | judged

    resume = resumable("vae", cfg, cases, run, generator)
    result = fit(vae, batch_loss, cfg.vae_fit, on_step or PrintProgress(), "vae", resume, adversary)
    metrics = {"psnr_db": reconstruction_psnr(vae, held_out), "kl_per_channel": kl_per_channel(vae, held_out)}
    run.save_stage("vae", vae.state_dict(), record(cfg, cases, vae, asdict(cfg.vae), result, start, metrics))
    resume.finish()
    return vae


def train_mapper(cfg: Config, cases: list[Case], run: Run, on_step: OnStep | None = None) -> LatentMapper:
    """Stage 2: ridge regression in closed form for each task, then the transformer on what it leaves over."""
    if is_finished("mapper", cfg, cases, run):
        return load_mapper(run, cfg)
    vae = load_vae(run, cfg)
    require_same_data(run, cases, cfg)
    device, generator = seeded(cfg, "mapper")
    slices = stage_slices(cfg, cases, "train")
    start = clocks(resolve_device(cfg.device))
    latents = encode_slices(vae, slices, cfg.vae_fit.bf16)   # encoded once, plain and mirrored
    config = MapperConfig(**asdict(cfg.mapper) | {"latent_channels": vae.config.latent_channels})
    if config.masked and processes() > 1:
        raise VaeliteError("Masked training draws its masks for one process. Leave --devices at 1, or mapper.masked at false.")
    mapper = build_mapper(config).to(device)
    sample = some_of_each(slices.have, 800, generator)
    mapper.fit_ridge(latents[:, sample].flatten(0, 1).to(device), slices.have[sample].repeat(2, 1).to(device))

    def batch_loss() -> dict[str, Tensor]:
        rows, given, target, mirror = draw_share(slices, cfg.mapper_fit.batch, generator, cfg.data.fused)
        z, wanted = (latents[mirror, rows].float().to(device), latents[mirror, rows, target].float().to(device))
        return {"loss": mapper.loss(z, given.to(device), target.to(device), wanted, generator)}

    resume = resumable("mapper", cfg, cases, run, generator)
    result = fit(mapper, batch_loss, cfg.mapper_fit, on_step or PrintProgress(), "mapper", resume)
    run.save_stage("mapper", mapper.state_dict(), record(cfg, cases, mapper, asdict(config), result, start)
                   | {"tasks": named(tasks(slices.have)), "modalities": present(slices)}, needs=("vae",))
    resume.finish()
    return mapper


def finetune_decoder(cfg: Config, cases: list[Case], run: Run, on_step: OnStep | None = None) -> Translator:
    """Stage 3: a decoder learns to draw from mapped latents and sources; the saved VAE and mapper stay as they are.

    It can hurt where source and target nearly agree, so the stage-1 decoder, and the blend in closed form, are kept, and the
    best of the three is chosen for each direction by the mean absolute error on validation.
    """
    if is_finished("decoder", cfg, cases, run):
        return load_translator(run, cfg)
    vae, mapper = load_vae(run, cfg), load_mapper(run, cfg)
    require_same_data(run, cases, cfg)
    device, generator = seeded(cfg, "decoder")
    slices = stage_slices(cfg, cases, "train")
    held_out = thinned(stage_slices(cfg, cases, "validation"), 60)
    names, judged = named(tasks(slices.have)), named(tasks(held_out.have))
    start = clocks(resolve_device(cfg.device))
    if unjudged := [name for name in names if "+" not in name and name not in judged]:
        raise VaeliteError(f"No validation patient can judge {', '.join(unjudged)}, so no decoder could be chosen. Put a "
                           f"patient who has both modalities into the validation split of dataset.json.")
    latents = encode_slices(vae, slices, cfg.vae_fit.bf16)
    decoder = GuidedDecoder(cfg.decoder, vae.decoder, mapper).to(device).requires_grad_(True)
    mapper = decoder.mapper or mapper                        # end to end: the copy that goes on learning
    adversary = adversary_of(cfg, device)

    def mapped_task(rows: Tensor, given: Tensor, target: Tensor, mirror: Tensor) -> tuple[Tensor, ...]:
        """Mapped latents, their linear decode, all slices and the wanted slices of a batch."""
        x = mirrored(slices.x[rows], mirror).to(device)
        with torch.set_grad_enabled(cfg.decoder.end_to_end):
            mapped = mapper(latents[mirror, rows].float().to(device), given.to(device), target.to(device))
        return mapped, vae.linear_decode(mapped), x, x[torch.arange(len(x)), target][:, None]

    with torch.no_grad():                                    # closed form, before any step
        for rows, given, target in sample_tasks(slices, generator):
            mapped, linear, x, wanted = mapped_task(rows, given, target, torch.zeros_like(rows))
            mask = slices.mask[rows].to(device)
            decoder.fit_blend(decoder.draft(mapped, linear), x, wanted, mask, given[0].to(device), int(target[0]))

    def batch_loss() -> dict[str, Tensor]:
        rows, given, target, mirror = draw_share(slices, cfg.decoder_fit.batch, generator, cfg.data.fused)
        mapped, linear, x, wanted = mapped_task(rows, given, target, mirror)
        drawn, log_scale = decoder(mapped, linear, x, given.to(device), target.to(device))
        image, nll = image_loss(drawn, wanted, cfg.loss.ssim), laplace_nll((drawn - wanted).detach(), log_scale.clamp_min(LEAST_LOG_SCALE))
        judged = adversary.loss(drawn, wanted) if adversary else {}
        return {"loss": image + SCALE_WEIGHT * nll + sum(judged.values()), "image": image, "laplace_nll": nll} | judged

    resume = resumable("decoder", cfg, cases, run, generator)
    result = fit(decoder, batch_loss, cfg.decoder_fit, on_step or PrintProgress(), "decoder", resume, adversary)
    translator = Translator(vae, load_mapper(run, cfg), decoder, cfg.data.size, present(slices), names)
    choice, errors, widths = choose_decoders(translator, held_out)
    run.save_stage("decoder", decoder.state_dict(), record(
        cfg, cases, decoder, asdict(cfg.decoder), result, start, {"validation_mae_unit": errors})
        | {"choice": choice, "tasks": names, "modalities": present(slices), "widths": widths}, needs=("vae", "mapper"))
    resume.finish()
    return load_translator(run, cfg)


def train_baseline(name: str, cfg: Config, cases: list[Case], run: Run, on_step: OnStep | None = None) -> torch.nn.Module:
    """An image-space rival, trained for as many processor seconds as the three stages took, on the same slices and tasks.

    name: "unet", or "control" for stage 3 without latents.
    """
    run.require("vae", "mapper", "decoder")
    if is_finished(name, cfg, cases, run):
        return load_translator(run, cfg).baselines[name]
    require_same_data(run, cases, cfg)
    device, generator = seeded(cfg, name)
    slices = stage_slices(cfg, cases, "train")
    start = clocks(resolve_device(cfg.device))
    shape, recipe = getattr(cfg, name), getattr(cfg, f"{name}_fit")
    network = BASELINES[name](shape).to(device)
    budget = sum(run.stages[stage]["processor_seconds"] * run.stages[stage]["processes"]
                 for stage in ("vae", "mapper", "decoder")) / processes()
    if name == "control":
        fit_control(network, slices, generator, device)

    def batch_loss() -> dict[str, Tensor]:
        rows, given, target, mirror = draw_share(slices, recipe.batch, generator, cfg.data.fused)
        x = mirrored(slices.x[rows], mirror).to(device)
        wanted = x[torch.arange(len(x)), target][:, None]
        return {"loss": image_loss(network(x, given.to(device), target.to(device)), wanted, cfg.loss.ssim)}

    resume = resumable(name, cfg, cases, run, generator, budget)
    left = budget - (clocks(device)[1] - start[1])           # a closed form is training too; stage 3's took longer
    result = fit(network, batch_loss, replace(recipe, processor_seconds=left), on_step or PrintProgress(), name, resume)
    run.save_stage(name, network.state_dict(), record(cfg, cases, network, asdict(shape), result, start),
                   needs=("vae", "mapper", "decoder"))      # their seconds are its budget
    resume.finish()
    return network


def evaluate(cases: list[Case], run: Run, on_case: Callable[[str], None] = print, anew: bool = True) -> dict[str, Any]:
    """Judge a finished run on the test patients: images, then dose. Writes and returns report.json.

    The configuration is the run's own, so the same run gives the same report wherever it is asked for. anew=False returns the
    report that is there if it is whole and neither data, stages nor code have changed since.
    """
    run.require("vae", "mapper", "decoder")
    cfg = from_knobs(run.stages["decoder"]["config"])
    require_same_data(run, cases, cfg)
    planned = [case for case in split(cases, "test") if prescriptions(case)][:cfg.dose.cases]    # a wrong one shows before hours
    if not anew and (kept := kept_report(run, cases, planned, cfg)):
        return kept
    translator = load_translator(run, cfg)
    rows = evaluate_images(translator, split(cases, "test"), on_case)
    run.write_report(build_report(run, cases, rows, cfg.seed))    # kept should the dose fail
    rows += evaluate_dose(translator, planned, cfg.dose, run, on_case)
    report = build_report(run, cases, rows, cfg.seed)
    run.write_report(report)
    return report


def kept_report(run: Run, cases: list[Case], planned: list[Case], cfg: Config) -> dict[str, Any] | None:
    """report.json if `evaluate` would write the same again: its header is today's, and the doses it judged are there."""
    if not (run.path / "report.json").exists():
        return None
    report, header = run.report(), json.loads(json.dumps(build_report(run, cases, [], cfg.seed)))
    judged = {name for row in report["rows"] if row["table"] == "dose" for name in row["cases"]}
    whole = judged == {case.name for case in planned} and all(doses_file(run, name).exists() for name in judged)
    return report if whole and report | {"rows": []} == header else None


# ---------------------------------------------------------------------------------------------- loading what a run holds
def load_vae(run: Run, cfg: Config | None = None) -> VAE:
    """The VAE of a run, on the device of `cfg` (default: the CPU), ready to encode and decode."""
    stage = run.load_stage("vae")
    return restore(VAE(rebuild(VAEConfig, stage.record["model"])), stage.weights, run, "vae", cfg)


def build_mapper(config: MapperConfig) -> LatentMapper:
    return (MaskedMapper if config.masked else LatentMapper)(config)


def load_mapper(run: Run, cfg: Config | None = None) -> LatentMapper:
    """The latent mapper of a run; refused if the VAE was trained again since."""
    stage = run.load_stage("mapper")
    return restore(build_mapper(rebuild(MapperConfig, stage.record["model"])), stage.weights, run, "mapper", cfg)


def load_translator(run: Run, cfg: Config | None = None) -> Translator:
    """All stages of a run, with the baselines that were trained."""
    stage = run.load_stage("decoder")
    vae, mapper = load_vae(run, cfg), load_mapper(run, cfg)
    guided = GuidedDecoder(rebuild(DecoderConfig, stage.record["model"]), vae.decoder, mapper)
    guided = restore(guided, stage.weights, run, "decoder", cfg)
    baselines = {}
    for name, kind in BASELINES.items():
        if run.is_current(name):                             # a baseline of other stages had another budget
            saved = run.load_stage(name)
            baselines[name] = restore(kind(rebuild(UNetConfig, saved.record["model"])), saved.weights, run, name, cfg)
    size, modalities = stage.record["config"]["data.size"], tuple(stage.record["modalities"])
    return Translator(vae, mapper, guided, size, modalities, tuple(stage.record["tasks"]), stage.record["choice"], baselines,
                      stage.record["widths"])


def load_mapped(run: Run, cfg: Config | None = None) -> Translator:
    """Stages 1 and 2 alone: a translator for the methods "copy", "ridge" and "mapped", before stage 3 exists."""
    record = run.load_stage("mapper").record
    vae, mapper = load_vae(run, cfg), load_mapper(run, cfg)
    return Translator(vae, mapper, None, record["config"]["data.size"], tuple(record["modalities"]), tuple(record["tasks"]))


def restore(model: torch.nn.Module, weights: dict[str, Tensor], run: Run, name: str, cfg: Config | None) -> Any:
    """Load the weights; evaluation mode; no gradients. Raises VaeliteError if they do not fit the model."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise VaeliteError(f"{run.file_of(name)} does not fit its configuration in manifest.json. "
                           f"Train the stage again. ({str(error).splitlines()[0]})") from error
    return model.to(resolve_device(cfg.device if cfg else "cpu")).eval().requires_grad_(False)


def rebuild(kind: type, values: dict[str, Any]) -> Any:
    """A configuration dataclass from its JSON record (lists become tuples again)."""
    default = kind()
    return kind(**{key: like(getattr(default, key), value, key) for key, value in values.items()})


# ---------------------------------------------------------------------------------------------------------- small pieces
@torch.no_grad()
def encode_slices(vae: VAE, slices: SliceSet, bf16: bool = False, batch: int = 32) -> Tensor:
    """Posterior means of all slices, plain and mirrored: (2, n, m, k, h, w) float16 on the CPU; absent modalities 0."""
    device = vae.patch_mean.device
    f, k, size = vae.config.factor, vae.config.latent_channels, slices.x.shape[-1]
    latents = torch.zeros(2, *slices.x.shape[:2], k, size // f, size // f, dtype=torch.float16)
    for rows in torch.arange(len(slices)).split(batch):
        have = slices.have[rows]
        x = slices.x[rows][have][:, None].float().to(device)
        for mirror, image in enumerate((x, x.flip(-1))):
            part = torch.zeros(*have.shape, *latents.shape[3:], dtype=torch.float16)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16 and has_bf16(device.type)):
                part[have] = vae.encode(image).mean.half().cpu()
            latents[mirror, rows] = part
    return latents


def draw_share(slices: SliceSet, batch: int, generator: torch.Generator, fused: float) -> tuple[Tensor, ...]:
    """This process's share of a batch of tasks: rows, given modalities and targets as `draw_tasks`, and mirrors (b,) 0 or 1."""
    rows, given, target = draw_tasks(slices.have, batch, generator, fused)
    mirror = torch.randint(2, rows.shape, generator=generator)
    return tuple(map(share, (rows, given, target, mirror)))


@torch.no_grad()
def reconstruction_psnr(vae: VAE, slices: SliceSet, batch: int = 32) -> dict[str, float]:
    """PSNR [dB] of decode(encode(x)) per modality: whole slices in [-1, 1], range 2, one MSE over all slices."""
    device, squared, count = next(vae.parameters()).device, torch.zeros(len(MODALITIES)), torch.zeros(len(MODALITIES))
    for rows in torch.arange(len(slices)).split(batch):
        for m in range(len(MODALITIES)):
            x = slices.x[rows][slices.have[rows, m], m][:, None].float().to(device)
            if len(x):
                error = vae.decode(vae.encode(x).mean).clamp(-1, 1) - x
                squared[m] += error.square().sum().cpu()
                count[m] += x.numel()
    return {name: float(10 * torch.log10(4 * count[m] / squared[m])) for m, name in enumerate(MODALITIES) if count[m] > 0}


def some_of_each(have: Tensor, at_most: int, generator: torch.Generator) -> Tensor:
    """Random rows of have (n, m), at most so many of each set of modalities: a rare pair has its ridge too."""
    patterns, pattern_of = have.unique(dim=0, return_inverse=True)
    rows = [(pattern_of == i).nonzero()[:, 0] for i in range(len(patterns))]
    return torch.cat([of[torch.randperm(len(of), generator=generator)[:at_most]] for of in rows])


def sample_tasks(slices: SliceSet, generator: torch.Generator, at_most: int = 32) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """For every task some random slices that can serve it: rows (b,), given (b, m), target (b,)."""
    for number, t in tasks(slices.have):
        given, target = subset(number), torch.tensor(t)
        rows = slices.have[:, given | F.one_hot(target, len(given)).bool()].all(1).nonzero()[:, 0]
        rows = rows[torch.randperm(len(rows), generator=generator)[:at_most]]
        yield rows, given.expand(len(rows), -1), target.expand(len(rows))


def fit_control(network: NoLatentControl, slices: SliceSet, generator: torch.Generator, device: str) -> None:
    """The control's linear start, in closed form like the one of stage 3."""
    for rows, given, target in sample_tasks(slices, generator):
        x = slices.x[rows].float().to(device)
        network.fit_blend(x, x[:, target[0]][:, None], slices.mask[rows].to(device), given[0].to(device), int(target[0]))


@torch.no_grad()
def kl_per_channel(vae: VAE, slices: SliceSet, at_most: int = 60) -> list[float]:
    """KL of each latent channel [nat per latent], mean over slices and places. Near 0: the channel has collapsed, its
    posterior is the prior and it says nothing of the slice (posterior collapse; Burda et al. 2016 count such units)."""
    some = thinned(slices, at_most)
    posterior = vae.encode(some.x[some.have][:, None].float().to(vae.patch_mean.device))
    mean, logvar = (part.transpose(0, 1) for part in (posterior.mean, posterior.logvar))     # k b h w: one channel a row
    return (kl_divergence(mean, logvar) / mean[0].numel()).tolist()


def choose_decoders(translator: Translator, slices: SliceSet,
                    ) -> tuple[dict[str, str], dict[str, dict[str, float]], dict[str, float]]:
    """On these (validation) slices, for each direction and for all sources together: the decoder with the lowest mean absolute
    error of whole slices (in the body alone, one that leaves the CBCT's noise in air would win by a hair); the errors of all; and
    how many predicted scales wide an interval must be to hold COVERAGE of the body's pixels (were the error exactly Laplace
    with the predicted scale: ln 5 = 1.61 for 80 %)."""
    choice, errors, widths = {}, {}, {}
    for sources, target in [*(((s,), t) for s, t in translator.directions()), *translator.fusions()]:
        s, t = [MODALITIES.index(source) for source in sources], MODALITIES.index(target)
        rows = slices.have[:, [*s, t]].all(1)
        if rows.any():
            drawn, scale = translator.drawings(slices.x[rows][:, s], sources, target)
            wanted, mask, name = slices.x[rows, t].float(), slices.mask[rows], task_name(sources, target)
            error = {method: (image[:, 0] - wanted).abs() for method, image in drawn.items()}
            errors[name] = {method: float(values.mean()) for method, values in error.items()}
            choice[name] = min(errors[name], key=errors[name].get)
            widths[name] = float(np.quantile((error[choice[name]] / scale[:, 0])[mask].numpy(), COVERAGE))
    return choice, errors, widths


def stage_slices(cfg: Config, cases: list[Case], name: str) -> SliceSet:
    """Every n-th slice of one split, n = data.slice_step: the same slices for every network."""
    return every_nth(load_slices(split(cases, name), cfg.data.size), cfg.data.slice_step)


def mirrored(x: Tensor, mirror: Tensor) -> Tensor:
    """Slices (b, m, h, w) as float, left-right mirrored where `mirror` is 1."""
    x = x.float()
    return torch.where(mirror.bool()[:, None, None, None], x.flip(-1), x)


def named(numbers: list[tuple[int, int]]) -> tuple[str, ...]:
    """Tasks by numbers (of the set of sources, of the target) -> by names, "CBCT+T1c>CT"."""
    return tuple(task_name(tuple(m for m, one in zip(MODALITIES, subset(number)) if one), MODALITIES[t]) for number, t in numbers)


def present(slices: SliceSet) -> tuple[str, ...]:
    """The modalities that take part in at least one direction."""
    used = {m for direction in directions(slices.have) for m in direction}
    return tuple(name for m, name in enumerate(MODALITIES) if m in used)


def require_same_data(run: Run, cases: list[Case], cfg: Config) -> None:
    """Raise VaeliteError unless the run's VAE was trained on these very cases, splits and slice size.

    Another split could make a training patient a test patient, and nothing would look wrong.
    """
    trained = run.stages["vae"]
    if trained["data"] != data_fingerprint(cases[0].folder.parent):
        raise VaeliteError(f"{cases[0].folder.parent} is not the data set that {run.path} was trained on (files, patients or "
                           f"splits differ). Give that data set, or train in another run folder.")
    if trained["config"]["data.size"] != cfg.data.size:
        raise VaeliteError(f"{run.path} was trained on slices of {trained['config']['data.size']} pixels, and data.size is "
                           f"{cfg.data.size}. Use one size for all stages of a run.")


def is_finished(name: str, cfg: Config, cases: list[Case], run: Run) -> bool:
    """Whether the run already holds this stage, trained with the same configuration, data, code and earlier stages.

    Such a stage is kept: an interrupted run goes on where it was, and a lesson can be opened again without training.
    The knobs of the dose are no part of a training: a kept stage records today's, for `evaluate`.
    """
    dose = {knob: value for knob, value in run.stages.get(name, {}).get("config", {}).items() if knob.startswith("dose.")}
    same = run.holds(name, {"config": knobs(cfg) | dose, "data": data_fingerprint(cases[0].folder.parent)})
    if same:
        run.amend_stage(name, {"config": knobs(cfg)})
        print(f"{name}: kept from {run.path}, trained with the same configuration, data and code")
    return same


def resumable(name: str, cfg: Config, cases: list[Case], run: Run, generator: torch.Generator, budget: float = 0.0) -> Resume:
    """Where the training of a stage keeps its state: beside the stages, for the same configuration, data and earlier stages."""
    run.require_writable()
    earlier = {stage: run.hash_of(stage) for stage in run.stages if stage != name}
    facts = {"config": knobs(cfg), "data": data_fingerprint(cases[0].folder.parent), "budget": budget, "stages": earlier}
    return Resume(run.path / f"{name}.unfinished.safetensors", facts, generator)


def split(cases: list[Case], name: str) -> list[Case]:
    """The cases of one split. Raises VaeliteError if there are none."""
    chosen = [case for case in cases if case.split == name]
    if not chosen:
        raise VaeliteError(f"The data set has no case in the '{name}' split. Add one to dataset.json.")
    return chosen


def seeded(cfg: Config, stage: str) -> tuple[str, torch.Generator]:
    """Device and random generator of a stage; weights are drawn from the same seed."""
    seed = cfg.seed * 1000 + ("vae", "mapper", "decoder", *BASELINES).index(stage)
    torch.manual_seed(seed)                                  # layer initialisation has no generator argument
    return resolve_device(cfg.device), torch.Generator().manual_seed(seed)


def adversary_of(cfg: Config, device: str) -> Adversary | None:
    """The discriminator of an image-drawing stage, if one of its losses has a weight."""
    return Adversary(cfg.loss.gan, cfg.loss.features, device) if cfg.loss.gan or cfg.loss.features else None


def resolve_device(name: str) -> str:
    """The device to compute on. Raises VaeliteError for one that the kit does not support or that is not here."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = re.fullmatch(r"cpu|cuda(:(\d+))?", name)
    if not known:
        raise VaeliteError(f"device must be 'auto', 'cpu', 'cuda' or one of several GPUs, as 'cuda:1'; not '{name}'.")
    if name != "cpu" and int(known[2] or 0) >= torch.cuda.device_count():
        raise VaeliteError(f"device is '{name}', and PyTorch finds {torch.cuda.device_count()} CUDA GPUs here. Set device to "
                           f"'auto' or 'cpu' (after a command: --set device=auto), or use a computer that has it.")
    return name


def record(cfg: Config, cases: list[Case], model: torch.nn.Module, model_config: dict[str, Any], result: FitResult,
           start: tuple[float, float], metrics: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the manifest keeps of a finished stage. start: the clocks when its slices were loaded."""
    device = resolve_device(cfg.device)
    seconds, used = (before + now - begun for before, now, begun in zip(result.before, clocks(device), start))
    every = max(1, len(result.history) // 200)               # 200 points draw the same curve as 50,000
    return {"config": knobs(cfg), "model": model_config, "seed": cfg.seed, "device": device,
            "processes": processes(), "data": data_fingerprint(cases[0].folder.parent),
            "seconds": seconds, "processor_seconds": used, "steps": result.steps, "bf16": result.bf16,
            "parameters": count_parameters(model),
            "history": result.history[::-every][::-1], "metrics": metrics or {}}
