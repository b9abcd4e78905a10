"""The four lessons, run headlessly in order at smoke on a phantom cohort made for it, as `make run-all` does."""
from __future__ import annotations

import json

import nbformat
import pytest

from vaelite.errors import VaeliteError
from vaelite.evaluation.rows import rows_of
from vaelite.notebooks import run_notebooks
from vaelite.runs import open_run

LESSONS = ("01_vae", "02_latent_mapper", "03_decoder_finetune", "04_eval_dosimetry")


@pytest.mark.parametrize("name", LESSONS)
def test_the_lesson_ran_without_an_error_and_left_a_page(finished, name):
    lesson = nbformat.read(finished / "notebooks" / f"{name}.ipynb", 4)
    outputs = [output for cell in lesson.cells for output in cell.get("outputs", [])]
    assert not [output for output in outputs if output.output_type == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    assert "widgets" not in lesson.metadata                  # megabytes of state, useless without a kernel
    assert (finished / "notebooks" / f"{name}.html").stat().st_size > 100_000


@pytest.mark.parametrize("name", LESSONS)
def test_every_check_was_run_on_the_stub_and_on_the_solution(finished, name):
    lesson = nbformat.read(finished / "notebooks" / f"{name}.ipynb", 4)
    for tag, word in (("check", "not attempted yet"), ("solution", "correct")):
        cells = [cell for cell in lesson.cells if tag in cell.metadata.get("tags", [])]
        assert cells and all(word in "".join(o.get("text", "") for o in cell.outputs) for cell in cells)


def test_the_report_covers_the_paper_s_table(finished):
    report = open_run(finished).report()
    for method in ("vaelite", "unet", "ridge", "copy"):
        rows = rows_of(report, table="translation", method=method, metric="SSIM")
        assert len({(row["source"], row["target"]) for row in rows}) == 12
    assert {row["source"] for row in rows_of(report, table="gamma", method="vaelite")} == {"CBCT", "T1c", "T2w"}
    assert len({row["target"] for row in rows_of(report, table="reconstruction")}) == 4
    assert report["data"]["sources"] == ["procedural phantom, not a patient"]


def test_a_second_run_keeps_what_is_trained(finished, cohort):
    """Lesson 01 again: same configuration, data and code, so the VAE stays and the lesson takes seconds."""
    before = json.loads((finished / "manifest.json").read_text())["stages"]["vae"]
    run_notebooks(["01_vae"], {"profile_name": "smoke", "data_dir": str(cohort), "run_dir": str(finished)}, finished)
    assert json.loads((finished / "manifest.json").read_text())["stages"]["vae"] == before


@pytest.mark.parametrize(("name", "advice"), [("02_latent_mapper", "01_vae"), ("03_decoder_finetune", "02_latent_mapper"),
                                              ("04_eval_dosimetry", "03_decoder_finetune")])
def test_a_lesson_without_the_one_before_says_what_to_run(cohort, tmp_path, name, advice):
    with pytest.raises(VaeliteError, match=advice):
        run_notebooks([name], {"profile_name": "smoke", "data_dir": str(cohort), "run_dir": str(tmp_path)}, tmp_path)


def test_an_unknown_parameter_is_refused_before_anything_runs(cohort, tmp_path):
    with pytest.raises(VaeliteError, match="profil_name"):
        run_notebooks(["01_vae"], {"profil_name": "smoke"}, tmp_path)
    assert not list(tmp_path.rglob("*.ipynb"))
