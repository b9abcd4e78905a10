"""The harness of the studies: the same tasks and test patients for every method, pairs spoilt where and as far as it is asked."""
from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from skimage.registration import phase_cross_correlation

from tests.benchmarks.compare_methods import METHODS, add_pairs, compare, misregistered
from vaelite.data.cases import load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import load_slices
from vaelite.errors import VaeliteError
from vaelite.runs import open_run
from vaelite.stages import split

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def result(cohort, tmp_path_factory) -> dict:
    """All methods but the U-Nets of one direction, trained for moments."""
    run = open_run(tmp_path_factory.mktemp("runs") / "run")
    return compare(cohort, run, 64, 10.0, 0, 2, [method for method in METHODS if method != "pairs"])


def test_every_method_is_judged_on_every_task_it_can_do(result):
    for method, tasks in result["scores"].items():
        fusions = [task for task in tasks if "+" in task]
        assert len(tasks) - len(fusions) == 12 and len(fusions) == (0 if method == "copy" else 4)
    assert result["paired"] == 2 and result["budget"] >= result["seconds"] * 0.9


def test_copying_scores_what_numpy_says(result, cohort):
    test = load_slices(split(load_cases(cohort), "test"), 64)
    x = test.x.float().numpy()
    difference = x[:, MODALITIES.index("CT")] - x[:, MODALITIES.index("T1c")]
    errors = [np.abs(difference[test.case.numpy() == patient]) for patient in range(len(test.names))]
    found = result["scores"]["copy"]["CT>T1c"]
    assert found["mae"] == pytest.approx(np.mean([error.mean() / 2 for error in errors]), abs=1e-5)
    assert found["psnr"] == pytest.approx(np.mean([10 * np.log10(4 / (error**2).mean()) for error in errors]), abs=1e-3)


def test_u_nets_of_one_direction_join_a_finished_result(result, cohort):
    joined = add_pairs(cohort, result)
    assert set(joined["scores"]["pairs"]) == set(result["scores"]["copy"])
    assert {method: joined["scores"][method] for method in result["scores"]} == result["scores"]


def test_too_little_time_for_the_closed_forms_is_said(cohort, tmp_path):
    with pytest.raises(VaeliteError, match="too few"):
        compare(cohort, open_run(tmp_path / "run"), 64, 0.5, 0, 0, ["vaelite"])


def test_misregistration_moves_the_training_pairs_alone_and_as_far_as_asked(cohort, tmp_path):
    residual_mm = 8.0
    moved = load_cases(misregistered(cohort, tmp_path / "moved", residual_mm, 0))
    for before, after in zip(load_cases(cohort), moved, strict=True):
        for modality in before.modalities:
            a, b = (nib.load(case.path(modality)) for case in (before, after))
            if modality == "CT" or before.split == "test":
                assert np.array_equal(a.get_fdata(), b.get_fdata())
            else:
                voxels, _, _ = phase_cross_correlation(b.get_fdata(), a.get_fdata(), upsample_factor=20)
                dx, dy, dz = voxels * a.header.get_zooms()
                assert np.hypot(dx, dy) == pytest.approx(residual_mm, rel=0.1) and dz == 0
