"""Two processes on one CPU, joined by Lightning Fabric, train what one process trains. This file is also their program."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vaelite.__main__ import main
from vaelite.errors import VaeliteError
from vaelite.runs import open_run
from vaelite.scale import launch, processes, rank, share
from vaelite.training.resume import Resume
from vaelite.training.train import FitConfig, fit

ROOT = Path(__file__).resolve().parents[1]
FLOAT32 = ("device=cpu", "data.size=32", "decoder.stem=1", "control.stem=1", "mapper.depth=1",
           *(f"{stage}_fit.{knob}" for stage in ("vae", "mapper", "decoder") for knob in ("steps=8", "bf16=false")))


def train(command: str, data: Path, run: Path, *options: str, knobs: tuple[str, ...] = FLOAT32) -> list[str]:
    return [command, "--profile", "smoke", "--data", str(data), "--run", str(run), *options, "--set", *knobs]


def three_stages(data: Path, run: Path, devices: int) -> None:
    for command in ("vae", "mapper", "finetune"):
        assert main(train(command, data, run, "--devices", str(devices))) == 0


def fit_line(config: FitConfig, stop_at: int | None = None, broken: bool = False, state: Path | None = None) -> dict:
    """Fit a line from another start in each process. stop_at: the step to be interrupted at; broken: the last process's loss
    is no number at step 3."""
    torch.manual_seed(rank())
    model, generator, calls = torch.nn.Linear(3, 1), torch.Generator().manual_seed(1), iter(range(10**9))

    def batch_loss():
        call = next(calls)
        if call == stop_at:
            raise KeyboardInterrupt
        x = share(torch.randn(4, 3, generator=generator))
        loss = (model(x) - x.sum(1, keepdim=True)).square().mean()
        return {"loss": loss * float("nan") if broken and call == 3 and rank() == 1 else loss}

    resume = Resume(state, {}, generator, every_s=0.0) if state else None
    try:
        steps = fit(model, batch_loss, config, resume=resume).steps
    except (KeyboardInterrupt, VaeliteError) as error:
        return {"error": str(error)}
    return {"steps": steps, "weights": model.weight.tolist(), "resumed": resume.found if resume else False}


def program(data: Path, folder: Path) -> None:
    """What each of the two processes does; its share of the results goes to <rank>.json."""
    three_stages(data, folder / "two", 2)
    config = FitConfig(steps=20, bf16=False)
    results = {"processes": processes(), "straight": fit_line(config), "broken": fit_line(config, broken=True),
               "timed": fit_line(FitConfig(processor_seconds=0.2, bf16=False))}
    fit_line(config, stop_at=7, state=folder / "state")
    results["resumed"] = fit_line(config, state=folder / "state")
    (folder / f"{rank()}.json").write_text(json.dumps(results))
    torch.distributed.barrier()                              # the program ends with the first process: let both have written


def python(*arguments: str) -> subprocess.CompletedProcess:
    """A Python of its own, as a user starts it; it starts its sibling."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "data_scripts"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run([sys.executable, *arguments], env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                          capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def folder(tiny_set, tmp_path_factory) -> Path:
    """Runs `one` and `two`, and the results of each of two processes."""
    folder = tmp_path_factory.mktemp("scale")
    done = python(__file__, str(tiny_set), str(folder))
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    three_stages(tiny_set, folder / "one", 1)
    return folder


@pytest.fixture(scope="module")
def results(folder) -> list[dict]:
    return [json.loads((folder / f"{number}.json").read_text()) for number in range(2)]


@pytest.mark.parametrize("stage", ["vae", "mapper", "decoder"])
def test_two_processes_train_the_network_of_one(folder, stage):
    """They differ in the order of float32 sums alone: 4e-7 of the weights' norm after 8 steps; gradients that are not averaged,
    other noise or the same rows twice give 1e-2. The U-Net of stage 3 has weights without effect (a bias before a norm), whose
    gradient is rounding that AdamW makes as large as any other: there the losses of the first steps are compared, less strictly
    (gradients that are not averaged put them apart by 1e-2 and more)."""
    one, two = (open_run(folder / name).load_stage(stage) for name in ("one", "two"))
    assert (one.record["processes"], two.record["processes"]) == (1, 2)
    first, second = (torch.cat([w.double().flatten() for w in run.weights.values()]) for run in (one, two))
    assert stage == "decoder" or float((first - second).norm() / first.norm()) < 1e-5
    losses = [[entry["loss"] for entry in run.record["history"]] for run in (one, two)]
    steps, apart = (3, 1e-4) if stage == "decoder" else (None, 1e-5)
    assert losses[1][:steps] == pytest.approx(losses[0][:steps], rel=apart)  # of the whole batch, not of one share


def test_one_process_prints_and_writes(folder):
    printed = (folder / "printed").read_text()
    assert [printed.count(f"{name}  step      8") for name in ("vae", "mapper", "decoder")] == [1, 1, 1]
    files = sorted(path.name.split("-")[0] for path in (folder / "two").iterdir())
    assert files == ["decoder", "manifest.json", "mapper", "vae"]


def test_a_stage_of_two_processes_is_kept_by_one(folder, tiny_set, capsys):
    assert main(train("vae", tiny_set, folder / "two")) == 0
    assert "vae: kept" in capsys.readouterr().out


def test_processes_start_alike_and_stay_alike(results):
    assert [result["processes"] for result in results] == [2, 2]
    assert results[0]["straight"] == results[1]["straight"]


def test_all_processes_stop_at_the_same_step_of_a_time_budget(results):
    assert results[0]["timed"]["steps"] > 1 and results[0]["timed"] == results[1]["timed"]


def test_a_loss_that_is_no_number_in_one_process_stops_all(results):
    assert "is nan at step 3" in results[0]["broken"]["error"] and results[0]["broken"] == results[1]["broken"]


def test_two_stopped_processes_go_on_bit_for_bit(results):
    for result in results:
        assert result["resumed"] == result["straight"] | {"resumed": True}


def test_a_batch_without_equal_shares_is_refused(tiny_set, tmp_path):
    refused = python("-m", "vaelite", *train("vae", tiny_set, tmp_path / "run", "--devices", "2",
                                             knobs=(*FLOAT32, "vae_fit.batch=7")))
    assert refused.returncode == 1
    assert "vaelite: A batch of 7 has no equal shares for 2 processes" in refused.stderr and "vae_fit.batch=8" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_without_fabric_one_line_says_what_to_install(tiny_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)           # as if it were not installed
    assert main(train("vae", tiny_set, tmp_path / "run", "--devices", "2")) == 1
    assert 'pip install "vaelite[scale]"' in capsys.readouterr().err


LEAVES_AT_ONCE = """
import atexit, sys, torch, torch.distributed as dist
from vaelite.scale import leave
dist.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
atexit.register(leave)
for _ in range(300):
    dist.broadcast(torch.zeros(10), src=0)
"""


def test_processes_that_leave_at_once_after_a_message_end_well(tmp_path):
    """Without `leave` a fifth of them abort: gloo's threads still hold a tensor when Python ends."""
    for number in range(3):
        pair = [subprocess.Popen([sys.executable, "-c", LEAVES_AT_ONCE, str(tmp_path / f"meet{number}"), str(rank)], cwd=ROOT)
                for rank in (0, 1)]
        assert [process.wait(120) for process in pair] == [0, 0]


@pytest.mark.parametrize(("devices", "nodes", "device"),
                         [(1000, 1, "cuda"), (0, 1, "cpu"), (-1, -1, "cpu"), (2, 1, "cuda:1")])
def test_devices_that_cannot_be_are_refused(devices, nodes, device):
    with pytest.raises(VaeliteError):
        launch(devices, nodes, device)


if __name__ == "__main__":
    program(Path(sys.argv[1]), Path(sys.argv[2]))
