"""Run folders and profiles: nothing half-written, nothing stale, every refusal says what to do."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vaelite import runs
from vaelite.errors import VaeliteError
from vaelite.profiles import PROFILES, from_knobs, knobs, profile
from vaelite.runs import open_run, write_atomically


def test_a_stage_survives_the_round_trip_bit_for_bit(tmp_path):
    run = open_run(tmp_path / "run")
    weights = {"w": torch.randn(3, 4), "b": torch.arange(5)}
    run.save_stage("vae", weights, {"config": {"seed": 0}})
    stage = open_run(tmp_path / "run").load_stage("vae")
    assert all(torch.equal(stage.weights[name], value) for name, value in weights.items())
    assert stage.record["config"] == {"seed": 0}


@pytest.mark.parametrize(("stage", "notebook", "command"), [
    ("vae", "01_vae", "vae"), ("mapper", "02_latent_mapper", "mapper"), ("decoder", "03_decoder_finetune", "finetune"),
    ("unet", "03_decoder_finetune", "unet")])
def test_a_missing_stage_names_the_notebook_and_the_command(tmp_path, stage, notebook, command):
    expected = rf"has no '{stage}' stage.*{notebook}.*`vaelite {command} .*--data .*--run {tmp_path}`"
    with pytest.raises(VaeliteError, match=expected):
        open_run(tmp_path).load_stage(stage)


def test_a_run_folder_that_is_not_there_is_said(tmp_path):
    for ask in (lambda run: run.load_stage("decoder"), lambda run: run.report()):
        with pytest.raises(VaeliteError, match="typo does not exist"):
            ask(open_run(tmp_path / "typo"))


def test_a_missing_report_names_a_command_that_can_be_given(tmp_path):
    with pytest.raises(VaeliteError, match=f"report.json.*`vaelite evaluate {tmp_path} --data "):
        open_run(tmp_path).report()


def test_a_mapper_is_refused_once_its_vae_was_trained_again(tmp_path):
    run = open_run(tmp_path)
    run.save_stage("vae", {"w": torch.zeros(1)}, {})
    run.save_stage("mapper", {"w": torch.zeros(1)}, {}, needs=("vae",))
    run.load_stage("mapper")
    run.save_stage("vae", {"w": torch.ones(1)}, {})
    with pytest.raises(VaeliteError, match="another 'vae'.*02_latent_mapper"):
        run.load_stage("mapper")


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_weights_are_refused(tmp_path, damage):
    run = open_run(tmp_path)
    run.save_stage("vae", {"w": torch.randn(100)}, {})
    file = run.file_of("vae")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    {"truncate": lambda: file.write_bytes(content[:50]), "flip": lambda: file.write_bytes(content),
     "remove": file.unlink}[damage]()
    with pytest.raises(VaeliteError, match="01_vae"):
        open_run(tmp_path).load_stage("vae")


def test_an_unreadable_manifest_is_refused_and_kept(tmp_path):
    (tmp_path / "manifest.json").write_text("{ half")
    with pytest.raises(VaeliteError, match="manifest.json"):
        open_run(tmp_path)
    assert (tmp_path / "manifest.json").read_text() == "{ half"


def test_a_crash_while_writing_keeps_the_old_file(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")

    def crash(temporary: str) -> None:
        with open(temporary, "w") as half:
            half.write("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, crash)
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_keeps_the_old_file_and_is_said(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("old")
    with pytest.raises(VaeliteError, match="a.json: cannot be written .*room"):
        write_atomically(file, lambda _: Path("/dev/full").write_text("new"))
    assert file.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_that_cannot_be_written_is_said_before_the_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(VaeliteError, match="cannot be written"):
        open_run(tmp_path / "file" / "run").require_writable()
    open_run(tmp_path / "new" / "run").require_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"], "asking leaves nothing behind"


def test_a_crash_between_weights_and_manifest_keeps_the_old_stage(tmp_path, monkeypatch):
    run = open_run(tmp_path)
    run.save_stage("vae", {"w": torch.zeros(3)}, {})
    real = runs.write_json
    monkeypatch.setattr(runs, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run.save_stage("vae", {"w": torch.ones(3)}, {})
    monkeypatch.setattr(runs, "write_json", real)
    assert torch.equal(open_run(tmp_path).load_stage("vae").weights["w"], torch.zeros(3))


def test_looking_at_a_run_that_is_not_there_makes_no_folder(tmp_path):
    with pytest.raises(VaeliteError, match="report.json"):
        open_run(tmp_path / "typo").report()
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_survives_its_record_in_the_manifest(name):
    cfg = profile(name)
    assert from_knobs(json.loads(json.dumps(knobs(cfg)))) == cfg


def test_profiles_differ_only_in_numbers():
    assert profile("laptop").data.size == 128 and profile("smoke").data.size == 64 and profile("paper").data.size == 256
    paper = profile("paper").vae
    assert (paper.factor, paper.latent_channels) == (16, 16)             # KL-16


@pytest.mark.parametrize(("knob", "value", "message"), [
    ("vae.factor", 2, "decoder_widths"), ("data.size", 80, "multiple of 32"), ("data.size", 32, "at least 64"),
    ("vae_fit.steps", 0, "at least 1"),
    ("vae.factr", 8, "vae.factor"), ("vae.factor", "8", "is an int"), ("vae_fit.steps", 1.5, "int"), ("nothing", 1, "no knob"),
    ("device", 0, "is a str")])
def test_a_wrong_knob_is_refused_with_its_neighbour(knob, value, message):
    with pytest.raises(VaeliteError, match=message):
        profile("smoke", **{knob: value})


def test_an_unknown_profile_lists_the_known():
    with pytest.raises(VaeliteError, match="smoke"):
        profile("smok")
