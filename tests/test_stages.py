"""The whole chain on a tiny data set: stages, translation of a file, report, command line."""
from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, replace

import nibabel as nib
import numpy as np
import pytest
import torch
from conftest import ROOT, write_nifti

from vaelite.__main__ import main
from vaelite.data.cases import load_cases
from vaelite.data.slices import load_slices
from vaelite.data.volumes import load_volume
from vaelite.dose.altered_ct import SWEEPS
from vaelite.dose.evaluation import load_doses, plan_of_case
from vaelite.dose.tables import sensitivity_curves
from vaelite.errors import VaeliteError
from vaelite.evaluation.images import judge_interval
from vaelite.evaluation.probes import decode_truth
from vaelite.evaluation.rows import rows_of
from vaelite.models.losses import laplace_nll
from vaelite.profiles import PROFILES, TOKENIZERS, profile
from vaelite.report import report_tables
from vaelite.runs import open_run
from vaelite.stages import (
    choose_decoders,
    evaluate,
    finetune_decoder,
    load_mapper,
    load_translator,
    named,
    some_of_each,
    train_baseline,
    train_mapper,
    train_vae,
)
from vaelite.training.resume import Resume
from vaelite.training.train import FitConfig, draw_pairs, draw_tasks, fit, has_bf16, tasks
from vaelite.translate import translate, translate_interval

KNOBS = {"data.size": 32, "decoder.stem": 1, "control.stem": 1, "mapper.depth": 1,
         "vae_fit.steps": 8, "mapper_fit.steps": 8, "decoder_fit.steps": 8,
         "decoder.features": (8, 8, 8, 8, 8, 8), "unet.features": (8, 8, 8, 8, 8, 8), "control.features": (8, 8, 8, 8, 8, 8),
         "dose.bixel_mm": 15.0, "dose.grid_mm": 6.0, "dose.n_fields": 3}


@pytest.fixture(scope="module")
def finished(tiny_set, tmp_path_factory):
    """(cases, run) with all stages and the report."""
    cfg, cases = profile("smoke", **KNOBS), load_cases(tiny_set)
    run = open_run(tmp_path_factory.mktemp("runs") / "tiny")
    train_vae(cfg, cases, run)
    train_mapper(cfg, cases, run)
    finetune_decoder(cfg, cases, run)
    train_baseline("unet", cfg, cases, run)
    evaluate(cases, run)
    return cases, run


def test_report_is_complete(finished):
    report = finished[1].report()
    translation = rows_of(report, table="translation")
    assert {(r["source"], r["target"]) for r in translation} == {
        (s, t) for s in ("CBCT", "CT", "T1c", "T2w") for t in ("CBCT", "CT", "T1c", "T2w") if s != t}
    assert {r["method"] for r in translation} == {"vaelite", "unet", "ridge", "copy"}
    assert len(translation) == 12 * 4 * 3 * 2                # directions x methods x metrics x conventions
    for row in report["rows"]:
        assert row["split"] == "test" and row["convention"] and row["unit"]
        assert len(row["values"]) == len(row["cases"]) and (row["n"] == len(row["values"]) or None in row["values"])
    criteria = {r["metric"] for r in rows_of(report, table="gamma")}
    assert criteria == {"gamma 3%/3mm", "gamma 2%/2mm", "gamma 1%/1mm"}
    for row in rows_of(report, table="gamma"):
        assert {"dose_percent", "distance_mm", "mode", "cutoff_percent", "reference", "interpolation"} <= set(row["parameters"])
        assert set(row["cases"]) == set(row["n_voxels"]) == set(row["spacing_mm"]) == set(row["normalisation_gy"])


def test_the_copy_row_is_the_error_between_the_files(finished):
    """Oracle: the two volumes on disk, CBCT clipped to the window of model space."""
    cases, run = finished
    case = cases[-1]
    cbct, ct, mask = np.clip(case.volume("CBCT"), -1000, 2000), case.volume("CT"), case.mask()
    expected = np.abs(ct.astype(np.float64) - cbct)[mask].mean()
    (row,) = rows_of(run.report(), table="translation", method="copy", source="CBCT", target="CT", metric="MAE",
                     convention="synthrad2023")
    assert row["values"] == [pytest.approx(expected, rel=1e-5)] and row["mean"] == pytest.approx(expected, rel=1e-5)


def test_the_vaelite_row_is_the_error_of_translate(finished):
    cases, run = finished
    case = cases[-1]
    sct = translate(load_volume(case.path("CBCT"), "CBCT"), "CBCT", "CT", load_translator(run)).data
    expected = np.abs(case.volume("CT") - sct)[case.mask()].mean()
    (row,) = rows_of(run.report(), table="translation", method="vaelite", source="CBCT", target="CT", metric="MAE",
                     convention="synthrad2023")
    assert row["mean"] == pytest.approx(expected, rel=1e-4)


def test_doing_nothing_does_not_resample(finished):
    """On a grid of another size than the models', the copy is still the source, voxel by voxel."""
    unit = np.random.default_rng(0).uniform(-1, 1, (3, 44, 36)).astype(np.float32)
    assert np.array_equal(load_translator(finished[1]).volume_unit(unit, "CBCT", "CT", "copy"), unit)


def test_a_dvh_row_is_the_difference_of_the_kept_doses(finished):
    cases, run = finished
    case, doses = cases[-1], load_doses(run, cases[-1].name)
    target = case.structures()["PTV"] & case.mask()
    (row,) = rows_of(run.report(), table="dvh", method="vaelite", source="T1c", metric="PTV D95")
    difference = np.percentile(doses["vaelite/T1c"][target], 5) - np.percentile(doses["CT"][target], 5)
    assert row["mean"] == pytest.approx(difference, abs=1e-3)


def test_other_splits_of_the_same_files_are_refused(finished, tiny_set, tmp_path):
    """A training patient must not become a test patient behind the run's back."""
    cases, run = finished
    folder = tmp_path / "other"
    shutil.copytree(tiny_set, folder)
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["cases"][0]["split"], manifest["cases"][-1]["split"] = "test", "train"
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(VaeliteError, match="not the data set"):
        evaluate(load_cases(folder), run)


def test_a_baseline_of_older_stages_is_left_out(finished, tmp_path):
    cases, run = finished
    shutil.copytree(run.path, tmp_path / "copy")
    again = open_run(tmp_path / "copy")
    assert "unet" in load_translator(again).baselines
    finetune_decoder(profile("smoke", **KNOBS | {"decoder_fit.steps": 9}), cases, again)
    assert "unet" not in load_translator(again).baselines


def test_only_test_patients_are_reported(finished):
    cases, run = finished
    test = {case.name for case in cases if case.split == "test"}
    assert {name for row in run.report()["rows"] for name in row["cases"]} == test


def test_evaluate_again_gives_the_same_bytes(finished):
    """With the plans the run has kept, and with plans made anew."""
    cases, run = finished
    before, (plan,) = (run.path / "report.json").read_bytes(), (run.path / "dose").glob("*.plan.npz")
    made = plan.stat().st_mtime_ns
    evaluate(cases, open_run(run.path))
    assert (run.path / "report.json").read_bytes() == before and plan.stat().st_mtime_ns == made
    plan.unlink()
    evaluate(cases, open_run(run.path))
    assert (run.path / "report.json").read_bytes() == before and plan.exists()


def test_a_kept_report_is_returned_only_while_nothing_changed(finished, tmp_path):
    cases, run = finished
    shutil.copytree(run.path, tmp_path / run.name)
    again, told = open_run(tmp_path / run.name), []
    assert evaluate(cases, again, told.append, anew=False) == run.report() and not told
    (doses,) = (again.path / "dose").glob("[!.]*[0-9].npz")
    doses.unlink()
    evaluate(cases, again, told.append, anew=False)
    assert told and doses.exists(), "a lesson would have shown the doses"
    told.clear()
    finetune_decoder(profile("smoke", **KNOBS | {"decoder_fit.steps": 9}), cases, again)
    evaluate(cases, again, told.append, anew=False)
    assert told, "another decoder was judged"


def test_a_plan_is_made_again_only_for_another_plan(finished, tmp_path):
    """Another gamma criterion needs no plan; another beam, another prescription or another CT does."""
    (case,), run = [case for case in finished[0] if case.split == "test"], open_run(tmp_path)
    config = profile("smoke", **KNOBS).dose
    made = plan_of_case(case, config, run)
    (file,) = (tmp_path / "dose").iterdir()
    plan_of_case(case, replace(config, gamma_criteria=((5.0, 5.0),), gamma_mode="local", cutoff_percent=20.0), run)
    assert list((tmp_path / "dose").iterdir()) == [file]
    assert len(plan_of_case(case, replace(config, n_fields=4), run).gantry_deg) == 4
    assert not file.exists(), "the older plan is gone"
    lower = replace(case, info=case.info | {"prescription_gy": {"PTV": 60.0}})
    assert plan_of_case(lower, config, run).prescription_gy == 60 != made.prescription_gy


def test_doses_of_the_clinic_s_own_baselines_are_reported(finished):
    report = finished[1].report()
    for table in ("dose", "gamma", "dvh", "stand-in"):
        assert {("water", "CT"), ("bulk", "CT"), ("copy", "CBCT"), ("vaelite", "T1c")} <= {
            (row["method"], row["source"]) for row in rows_of(report, table=table)}
    text = report_tables(report)
    assert "| raw CBCT |" in text and "| water + bone + air |" in text and "our choice" in text
    assert [c for c in ("PTV D98", "PTV D95", "PTV D50", "PTV D2", "PTV V95", "SpinalCord Dmax") if c not in text] == []


def test_known_errors_of_no_size_leave_the_dose_alone(finished):
    for name, curve in sensitivity_curves(finished[1].report()).items():
        none = curve["amount"].index(SWEEPS[name].none)
        assert len(curve["amount"]) == len(SWEEPS[name].amounts) + 1
        assert curve["MAE"][none] == curve["ME_target"][none] == 0 and curve["gamma 1%/1mm"][none] == 100
    bias = sensitivity_curves(finished[1].report())["uniform HU bias"]
    assert np.all(np.diff(bias["amount"]) > 0) and np.all(np.diff(bias["ME_target"]) < 0), "the denser, the less gets through"


def test_tables_show_every_method_with_its_convention(finished):
    text = report_tables(finished[1].report())
    for wanted in ("U-Net", "ridge", "copy", "synthrad2023", "mr1_grid", "21.60 ± 8.80", "not comparable", "1%/1mm"):
        assert wanted in text


def test_the_unet_gets_the_method_s_processor_seconds(finished):
    stages = finished[1].stages
    budget = sum(stages[name]["processor_seconds"] for name in ("vae", "mapper", "decoder"))
    assert stages["unet"]["history"][-2]["processor_seconds"] < budget <= stages["unet"]["processor_seconds"], "not one step more"


def test_the_control_starts_at_its_blend_and_gets_the_same_seconds_closed_form_included(finished, tmp_path):
    cases, run = finished
    shutil.copytree(run.path, tmp_path / "copy")
    again = open_run(tmp_path / "copy")
    network = train_baseline("control", profile("smoke", **KNOBS), cases, again)
    stages = again.stages
    budget = sum(stages[name]["processor_seconds"] for name in ("vae", "mapper", "decoder"))
    assert stages["control"]["history"][-2]["processor_seconds"] < budget <= stages["control"]["processor_seconds"]
    fitted = network.guided.blend_kernel[1, 1]               # CT from CBCT: draft and absent slots say nothing
    assert float(fitted[0].abs().max()) > 0 and float(fitted[1:].abs().max()) == 0
    translator, x = load_translator(again), torch.rand(1, 1, 32, 32) * 2 - 1
    assert translator.slices(x, "CBCT", "CT", "control").shape == x.shape and "control" not in load_translator(run).baselines


@pytest.mark.parametrize("name", PROFILES)
def test_the_control_differs_from_stage_3_in_its_latents_alone(name):
    """Shape and recipe are those of stage 3; its time is the whole method's."""
    cfg = profile(name)
    assert asdict(cfg.control).items() <= asdict(cfg.decoder).items()
    assert replace(cfg.control_fit, steps=0) == replace(cfg.decoder_fit, steps=0)


def test_training_twice_gives_the_same_weights(finished, tiny_set, tmp_path):
    cases, run = finished
    again = open_run(tmp_path / "again")
    train_vae(profile("smoke", **KNOBS), cases, again)
    first, second = run.load_stage("vae").weights, again.load_stage("vae").weights
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_finished_stage_is_kept_and_another_configuration_trains_again(finished, tiny_set, tmp_path, capsys):
    cases, run = finished
    before = run.stages["vae"]["written"], run.hash_of("vae")
    train_vae(profile("smoke", **KNOBS), cases, run)
    assert "kept" in capsys.readouterr().out and (run.stages["vae"]["written"], run.hash_of("vae")) == before
    other = open_run(tmp_path / "other")
    train_vae(profile("smoke", **KNOBS), cases, other)
    first = other.hash_of("vae")
    train_vae(profile("smoke", **KNOBS, seed=3), cases, other)
    assert other.hash_of("vae") != first


def test_another_gamma_criterion_trains_nothing(finished, tmp_path):
    """Neither a stage nor a plan is made again, and the report has the new criterion; the command line then finds it too."""
    cases, run = finished
    shutil.copytree(run.path, tmp_path / run.name)
    again = open_run(tmp_path / run.name)
    (plan,) = (again.path / "dose").glob("*.plan.npz")
    made = plan.stat().st_mtime_ns
    finetune_decoder(profile("smoke", **KNOBS | {"dose.gamma_criteria": ((5.0, 5.0),)}), cases, again)
    assert again.stages["decoder"]["files"] == run.stages["decoder"]["files"]
    report = evaluate(cases, open_run(again.path), lambda line: None)
    assert {row["metric"] for row in rows_of(report, table="gamma")} == {"gamma 5%/5mm"} and plan.stat().st_mtime_ns == made


def test_choice_is_the_better_decoder_on_validation(finished):
    cases, run = finished
    held_out = load_slices([case for case in cases if case.split == "validation"], 32)
    translator = load_translator(run)
    choice, errors, widths = choose_decoders(translator, held_out)
    assert (choice, widths) == (run.stages["decoder"]["choice"], run.stages["decoder"]["widths"])
    assert len(choice) == 12 + 4                             # four with all sources at once
    assert all(errors[d][method] == min(errors[d].values()) for d, method in choice.items())
    both = held_out.have[:, [0, 1]].all(1)                   # of whole slices: noise left in air counts
    drawn = translator.slices(held_out.x[both][:, [0]], "CBCT", "CT", "finetuned")[:, 0]
    assert errors["CBCT>CT"]["finetuned"] == pytest.approx(float((drawn - held_out.x[both, 1].float()).abs().mean()), rel=1e-5)


def test_stage_3_draws_better_from_the_target_s_own_latents(finished):
    cases, run = finished
    translator, held_out = load_translator(run), load_slices([case for case in cases if case.split == "validation"], 32)
    wanted = held_out.x[:, 1].float()
    from_truth = decode_truth(translator, held_out.x[:, 2:3], "T1c", wanted, "CT")
    from_mapped = translator.slices(held_out.x[:, 2:3], "T1c", "CT", "finetuned")[:, 0]
    assert (from_truth - wanted).abs().mean() < (from_mapped - wanted).abs().mean()


def test_a_retrained_vae_invalidates_the_mapper(finished, tmp_path):
    cases, _ = finished
    run, cfg = open_run(tmp_path / "r"), profile("smoke", **KNOBS)
    train_vae(cfg, cases, run)
    train_mapper(cfg, cases, run)
    train_vae(profile("smoke", **KNOBS, seed=1), cases, run)
    with pytest.raises(VaeliteError, match="another 'vae'"):
        load_mapper(run)


def test_finetuning_leaves_encoder_and_mapper_bit_for_bit(finished, tmp_path):
    """What stage 3 fine-tunes are copies: the files of stages 1 and 2 stay as they are, and its mapper moves only if asked to."""
    cases, run = finished
    shutil.copytree(run.path, tmp_path / "copy")
    again = open_run(tmp_path / "copy")
    files = [again.file_of(name) for name in ("vae", "mapper")]
    before = [file.read_bytes() for file in files]
    for fine_tune, end_to_end in ((True, True), (True, False), (False, False)):
        knobs = {"decoder.fine_tune": fine_tune, "decoder.end_to_end": end_to_end, "decoder_fit.steps": 3}    # another stage 3
        translator = finetune_decoder(profile("smoke", **KNOBS | knobs), cases, again)
        assert [again.file_of(name) for name in ("vae", "mapper")] == files and [file.read_bytes() for file in files] == before
        for was, copy, learns in ((translator.mapper, translator.decoder.mapper, end_to_end),
                                  (translator.vae.decoder, translator.decoder.decoder, fine_tune)):
            assert (copy is not None) == learns
            assert not learns or any(not torch.equal(a, b) for a, b in zip(was.parameters(), copy.parameters(), strict=True))
        trained = {name.split(".")[0] for name in again.load_stage("decoder").weights} - {"blend_kernel", "log_error"}
        copies = ({"decoder"} if fine_tune else set()) | ({"mapper"} if end_to_end else set())
        assert trained == {"guidance", "unet"} | copies      # and no encoder


def test_mapper_before_vae_says_what_to_run(tiny_set, tmp_path):
    with pytest.raises(VaeliteError, match="01_vae"):
        train_mapper(profile("smoke", **KNOBS), load_cases(tiny_set), open_run(tmp_path / "empty"))


@pytest.mark.parametrize("axes", [((0, 1, 2), (-1, -1, 1)), ((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (1, -1, -1))])
def test_translate_keeps_grid_affine_and_orientation(finished, tmp_path, axes):
    """A file in any axis order comes back in that order, and shows the same anatomy."""
    cases, run = finished
    order, signs = axes
    image = nib.load(cases[-1].path("CBCT"))
    ornt = np.array([[o, s] for o, s in zip(order, signs)], float)
    turned = image.as_reoriented(ornt)
    nib.save(turned, tmp_path / "cbct.nii.gz")
    assert main(["translate", str(run.path), str(tmp_path / "cbct.nii.gz"), str(tmp_path / "sct.nii.gz"),
                 "--source", "CBCT", "--target", "CT"]) == 0
    sct = nib.load(tmp_path / "sct.nii.gz")
    assert sct.shape == turned.shape
    np.testing.assert_allclose(sct.affine, turned.affine, atol=1e-6)
    straight = translate(load_volume(cases[-1].path("CBCT"), "CBCT"), "CBCT", "CT", load_translator(run))
    np.testing.assert_allclose(load_volume(tmp_path / "sct.nii.gz").data, straight.data, atol=1e-2)


def test_translate_takes_another_grid_size(finished, tmp_path):
    _, run = finished
    rng = np.random.default_rng(0)
    volume = np.full((5, 44, 36), -1000.0)
    volume[:, 10:34, 8:28] = rng.normal(40, 20, (5, 24, 20))
    loaded = load_volume(write_nifti(tmp_path / "ct.nii.gz", volume.astype(np.int16)), "CT")
    assert translate(loaded, "CT", "T2w", load_translator(run)).data.shape == (5, 44, 36)


def test_unknown_directions_and_methods_are_refused(finished):
    translator = load_translator(finished[1])
    x = torch.zeros(1, 1, 32, 32)
    for arguments in (("CT", "CT"), ("CT", "PET"), ("CT", "T1c", "magic")):
        with pytest.raises(VaeliteError):
            translator.slices(x, *arguments)


def test_copy_hands_back_the_source(finished):
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    assert torch.equal(load_translator(finished[1]).slices(x, "CT", "T1c", "copy"), x)


def test_pairs_are_drawn_evenly_and_only_where_both_exist():
    have = torch.tensor([[True, True, False, True]] * 5 + [[True, False, True, False]] * 5)
    rows, source, target = draw_pairs(have, 4000, torch.Generator().manual_seed(0))
    assert bool((have[rows, source] & have[rows, target]).all()) and bool((source != target).all())
    counts = torch.bincount(source * 4 + target, minlength=16)
    assert set(counts.nonzero()[:, 0].tolist()) == {1, 3, 4, 7, 12, 13, 2, 8}      # no pair of T1c with CT or T2w exists
    assert counts[counts > 0].min() > 0.7 * 4000 / 8


def test_tasks_are_drawn_with_further_sources_never_the_target_and_only_what_a_slice_has():
    have = torch.tensor([[True, True, True, True]] * 5 + [[True, False, True, True]] * 5 + [[True, False, True, False]] * 5)
    rows, given, target = draw_tasks(have, 8000, torch.Generator().manual_seed(0), fused=0.5)
    assert not bool((given & ~have[rows]).any()) and bool(given.any(1).all())
    assert not bool(given[torch.arange(8000), target].any())
    for modalities, expected in ((4, [0.5, 0.25, 0.25]), (3, [0.5, 0.5, 0.0]), (2, [1.0, 0.0, 0.0])):    # one, two, three sources
        of_these = have[rows].sum(1) == modalities
        share = torch.bincount(given[of_these].sum(1), minlength=4)[1:] / of_these.sum()
        torch.testing.assert_close(share, torch.tensor(expected), atol=0.04, rtol=0)
    _, given, target = draw_tasks(have[:5], 8000, torch.Generator().manual_seed(0), fused=1.0)
    two = (given.sum(1) == 2) & (target == 0)                                    # of three sources each pair is as frequent
    torch.testing.assert_close(given[two].float().mean(0), torch.tensor([0.0, 2 / 3, 2 / 3, 2 / 3]), atol=0.05, rtol=0)
    _, given, _ = draw_tasks(have, 400, torch.Generator().manual_seed(0), fused=0.0)
    assert bool((given.sum(1) == 1).all())


def test_tasks_of_a_cohort_with_gaps():
    have = torch.tensor([[True, True, True, False], [False, True, False, True]])
    names = named(tasks(have))
    assert "CBCT+CT>T1c" in names and "CT>T2w" in names
    assert not any(name in names for name in ("CBCT>T2w", "CBCT+CT>T2w", "T1c+T2w>CT"))    # no slice has them all


def test_a_cohort_with_gaps_is_judged_in_what_it_was_trained_for(tiny_set, tmp_path):
    data = shutil.copytree(tiny_set, tmp_path / "gaps")
    manifest = json.loads((data / "dataset.json").read_text())
    for number, missing in enumerate((("t1c", "t2w"), ("cbct", "t2w"))):             # the training patients'; test has all four
        for stem in missing:
            (data / f"tiny_{number:02d}" / f"{stem}.nii.gz").unlink()
            del manifest["cases"][number]["sha256"][f"{stem}.nii.gz"]
    (data / "dataset.json").write_text(json.dumps(manifest))
    cfg, cases, run = profile("smoke", **KNOBS), load_cases(data), open_run(tmp_path / "run")
    train_vae(cfg, cases, run)
    train_mapper(cfg, cases, run)
    assert finetune_decoder(cfg, cases, run).modalities == ("CBCT", "CT", "T1c")
    report = evaluate(cases, run)
    judged = {(row["source"], row["target"]) for row in rows_of(report, table="translation", method="vaelite")}
    assert judged == {("CBCT", "CT"), ("CT", "CBCT"), ("CT", "T1c"), ("T1c", "CT")}
    assert {row["source"] for row in rows_of(report, table="dose", method="vaelite")} == {"CBCT", "T1c"}


def test_the_ridge_of_a_rare_pair_is_fitted_too():
    have = torch.ones(5_000, 4, dtype=torch.bool)
    have[:-3, 3] = False                                     # three slices of 5,000 have all four
    rows = some_of_each(have, 800, torch.Generator().manual_seed(0))
    assert rows.unique().numel() == len(rows) == 803 and set(rows.tolist()) >= {4_997, 4_998, 4_999}


def test_a_blend_is_applied_to_the_draft_it_was_fitted_on(tiny_set, tmp_path):
    """With a codebook and a decoder to fine-tune: the mapped latents stay as they are, unquantised, wherever they are drawn."""
    cfg = profile("smoke", **KNOBS | TOKENIZERS["VQ-16"] | {"decoder.fine_tune": True, "decoder_fit.steps": 1,
                                                           "decoder_fit.learning_rate": 0.0})
    cases, run = load_cases(tiny_set), open_run(tmp_path / "run")
    train_vae(cfg, cases, run)
    train_mapper(cfg, cases, run)
    translator = finetune_decoder(cfg, cases, run)           # untrained, stage 3 is its blend
    x = load_slices([case for case in cases if case.split == "test"], 32).x[:, :1]
    drawn, _ = translator.drawings(x, "CBCT", "CT", ("blended", "finetuned"))
    assert torch.allclose(drawn["blended"], drawn["finetuned"], atol=1e-3)


def test_a_fusion_is_its_own_row_and_order_does_not_matter(finished):
    cases, run = finished
    fused = rows_of(run.report(), table="fusion", metric="MAE", convention="synthrad2023")
    assert {(r["source"], r["target"]) for r in fused} == {("CBCT+T1c+T2w", "CT"), ("CT+T1c+T2w", "CBCT")}
    assert {r["method"] for r in fused} == {"vaelite", "unet", "ridge"}
    case, translator = cases[-1], load_translator(run)
    names = ("T2w", "CBCT", "T1c")
    sct = translate([load_volume(case.path(m), m) for m in names], names, "CT", translator, mask=case.mask())
    expected = np.abs(case.volume("CT") - sct.data)[case.mask()].mean()
    (row,) = (r for r in fused if r["target"] == "CT" and r["method"] == "vaelite")
    assert row["mean"] == pytest.approx(expected, rel=1e-4)


def test_intervals_hold_what_they_promise_where_they_were_calibrated(finished):
    cases, run = finished
    held_out = load_slices([case for case in cases if case.split == "validation"], 32)
    translator = load_translator(run)
    drawn, half = translator.interval(held_out.x[:, :1], "CBCT", "CT")
    inside = ((drawn[:, 0] - held_out.x[:, 1].float()).abs() <= half[:, 0])[held_out.mask]
    assert float(inside.float().mean()) == pytest.approx(0.8, abs=0.005)
    assert torch.equal(drawn, translator.slices(held_out.x[:, :1], "CBCT", "CT"))
    rows = rows_of(run.report(), table="uncertainty")
    assert {r["metric"] for r in rows} == {"coverage", "spearman"} and len(rows) == 12 * 3


def test_translate_writes_the_interval_beside_the_result(finished, tmp_path, capsys):
    cases, run = finished
    sct, interval = tmp_path / "sct.nii.gz", tmp_path / "interval.nii.gz"
    arguments = ["translate", str(run.path), str(cases[-1].path("CBCT")), str(sct), "--source", "CBCT", "--target", "CT"]
    more = ["--also", *(f"{m}={cases[-1].path(m)}" for m in ("T1c", "T2w"))]
    assert main([*arguments, *more, "--interval", str(interval)]) == 0
    assert "taken to be registered" in capsys.readouterr().out, "an equal grid does not show it"
    half = load_volume(interval).data
    assert half.shape == load_volume(sct).data.shape and (half > 0).all()
    volume = load_volume(cases[-1].path("CBCT"), "CBCT")
    with pytest.raises(VaeliteError, match="knows no 'PET'"):
        translate_interval(volume, "CBCT", "PET", load_translator(run))


def test_an_interval_is_judged_by_ranks_only_where_there_are_patches_to_rank():
    """A width that grows with the error ranks it perfectly; a body smaller than a patch, or one width for all, ranks nothing."""
    error = np.random.default_rng(0).random((2, 32, 32))
    small, whole = np.zeros((2, 2, 32, 32), dtype=bool)
    small[:, 10:15, 10:15], whole[:] = True, True
    ranks = ("spearman", "1", "8 x 8 pixels"), ("spearman", "1", "8 x 8 pixels in the body")
    cases = (whole, 2 * error, [1, 1]), (small, 2 * error, [1, None]), (whole, 0 * error + 2, [None, None])
    for mask, width, expected in cases:
        found = judge_interval(error, 0 * error, width, mask)
        assert [found[key] for key in ranks] == [None if rank is None else pytest.approx(rank) for rank in expected]
        assert found["coverage", "%", "body mask"] == 100


def test_sources_on_different_grids_are_refused(finished, tmp_path):
    cases, run = finished
    cbct, t1c = (load_volume(cases[-1].path(m), m) for m in ("CBCT", "T1c"))
    moved = replace(t1c, affine=t1c.affine + np.array([[0, 0, 0, 5.0], [0] * 4, [0] * 4, [0] * 4]))
    with pytest.raises(VaeliteError, match="different grids"):
        translate([cbct, moved], ("CBCT", "T1c"), "CT", load_translator(run))


def test_the_laplace_scale_that_fits_best_is_the_mean_absolute_error():
    errors = torch.randn(1, 1, 50, 50, generator=torch.Generator().manual_seed(0))
    best = float(errors.abs().mean())
    losses = {b: float(laplace_nll(errors, torch.full_like(errors, math.log(b)))) for b in (0.8 * best, best, 1.25 * best)}
    assert min(losses, key=losses.get) == best


def test_a_stopped_training_goes_on_bit_for_bit(tmp_path):
    """Stopped after step 7 of 20: the state of step 6 was the last one kept, and the end is the same as without a stop."""
    def train(stop_at: int | None, resume: Resume | None, generator: torch.Generator) -> torch.nn.Linear:
        torch.manual_seed(0)
        model, calls = torch.nn.Linear(3, 1), iter(range(1000))

        def batch_loss():
            if next(calls) == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(4, 3, generator=generator)
            return {"loss": (model(x) - x.sum(1, keepdim=True) - torch.randn(4, 1)).square().mean()}

        history = fit(model, batch_loss, FitConfig(steps=20, bf16=False), resume=resume).history
        assert [entry["step"] for entry in history] == list(range(1, 21))
        return model

    def generator() -> torch.Generator:
        return torch.Generator().manual_seed(1)

    straight = train(None, None, generator())
    for facts, same in (({"seed": 0}, True), ({"seed": 1}, False)):          # the state of other facts is left alone
        first, second = generator(), generator()
        with pytest.raises(KeyboardInterrupt):
            train(7, Resume(tmp_path / "state.safetensors", {"seed": 0}, first, every_s=0.0), first)
        torch.manual_seed(99)
        resume = Resume(tmp_path / "state.safetensors", facts, second)
        again = train(None, resume, second)
        assert torch.equal(again.weight, straight.weight)
        assert resume.found == same


def test_fit_stops_at_a_loss_that_is_no_number():
    model = torch.nn.Linear(1, 1)
    steps = iter(range(100))

    def batch_loss():
        loss = model(torch.ones(1, 1)).square().sum()
        return {"loss": loss * float("nan") if next(steps) == 3 else loss}

    with pytest.raises(VaeliteError, match="step 3"):
        fit(model, batch_loss, FitConfig(steps=10))
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("wanted", [True, False])
def test_fit_records_whether_it_computed_in_bfloat16(wanted):
    """Only where it was asked for and the processor can."""
    model = torch.nn.Linear(1, 1)
    result = fit(model, lambda: {"loss": model(torch.ones(1, 1)).square().sum()}, FitConfig(steps=1, bf16=wanted))
    assert result.bf16 == (wanted and has_bf16("cpu"))


def test_command_line_reports_one_line_for_bad_input(tmp_path, capsys):
    assert main(["check", str(tmp_path / "nothing")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vaelite: ") and "no such folder" in error


@pytest.mark.parametrize(("device", "said"), [
    ("gpu", "'auto', 'cpu', 'cuda'"), ("cuda:99", "--set device=auto"),
    pytest.param("cuda", "finds 0 CUDA GPUs", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"))])
def test_a_device_that_is_not_there_is_refused_before_the_data_are_read(tmp_path, capsys, device, said):
    command = ["vae", "--profile", "smoke", "--data", str(tmp_path / "none"), "--run", str(tmp_path / "run")]
    assert main([*command, "--set", f"device={device}"]) == 1
    assert said in capsys.readouterr().err


def test_a_wrong_profile_or_folder_is_refused_before_a_kernel_starts(tiny_set, tmp_path, capsys):
    for profile_name, data, said in (("smok", tiny_set, "no profile 'smok'"), ("smoke", tmp_path, "dataset.json: no such file")):
        command = ["run-all", "--profile", profile_name, "--data", str(data), "--run", str(tmp_path / "run")]
        assert main(command) == 1 and said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_missing_or_in_the_way_is_one_line(finished, tmp_path, capsys):
    file = tmp_path / "notes.md"
    file.write_text("")
    for command, said in ((["report", str(finished[1].path), "--into", str(tmp_path / "none.md")], "none.md is no file"),
                          (["copies", str(file)], "notes.md is a file"),
                          (["copies", str(file / "copies")], "notes.md/copies: Not a directory")):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith("vaelite: ") and said in error and error.count("\n") == 1


def test_a_reader_who_has_seen_enough_is_no_error(finished):
    """As `vaelite report RUN | head`: the pipe is closed before the report is written."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        told = subprocess.run([sys.executable, "-m", "vaelite", "report", str(finished[1].path)], cwd=ROOT, stdout=closed,
                              stderr=subprocess.PIPE, text=True)
    assert told.returncode == 1 and told.stderr == ""


def test_command_line_checks_a_sound_data_set(tiny_set, capsys):
    assert main(["check", str(tiny_set)]) == 0
    assert "4 cases, no problem found" in capsys.readouterr().out


def test_config_knobs_can_be_asked_for(capsys):
    assert main(["config", "paper", "data.size"]) == 0
    assert capsys.readouterr().out.strip() == "256"
    assert main(["config", "smoke"]) == 0
    assert json.loads(capsys.readouterr().out)["data.size"] == 64
