"""Metrics against independent implementations: scikit-image, and the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.signal import fftconvolve
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from vaelite.errors import VaeliteError
from vaelite.evaluation import metrics


def head_pair(shape=(24, 40, 36), seed=0, noise_hu=60.0):
    """(reference, prediction, mask): a textured body in air with bone, and the same blurred by noise [HU]."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    mask = (x / 0.7) ** 2 + (y / 0.85) ** 2 < 1
    tissue = 40 + 150 * np.sin(9 * x) * np.cos(7 * y + 5 * z) + 1500 * (np.hypot(x, y) > 0.6) - 900 * (np.abs(x) < 0.1)
    reference = np.where(mask, tissue, -1000) + rng.normal(0, 10, shape)
    predicted = reference + rng.normal(0, noise_hu, shape) + 30 * z
    return reference.astype(np.float32), predicted.astype(np.float32), mask


@pytest.fixture(scope="module")
def pair():
    return head_pair()


def cropped_mean(similarity_map, mask, pad=3):
    inner = (slice(pad, -pad),) * 3
    return similarity_map[inner][mask[inner]].mean()


def prepared(pair, low, high):
    reference, predicted, mask = pair
    clipped = [np.clip(volume.astype(np.float64), low, high) for volume in (reference, predicted)]
    return *(np.where(mask, volume, low) - low for volume in clipped), mask


def test_mae_is_the_mean_over_the_body_unclipped(pair):
    reference, predicted, mask = pair
    predicted = predicted.copy()
    predicted[np.argwhere(mask)[0][0], 20, 18] = 30000.0  # metal
    difference = np.abs(reference.astype(np.float64) - predicted.astype(np.float64))
    expected = (difference * mask).sum() / mask.sum()
    assert metrics.mae_hu(reference, predicted, mask) == pytest.approx(expected, rel=1e-12)


def test_psnr_2023_agrees_with_skimage_in_the_mask(pair):
    reference, predicted, mask = (pair[0].astype(np.float64), pair[1].astype(np.float64), pair[2])
    expected = peak_signal_noise_ratio(
        np.clip(reference, -1024, 3000)[mask], np.clip(predicted, -1024, 3000)[mask], data_range=4024
    )
    assert metrics.psnr_db(*pair, "synthrad2023") == pytest.approx(expected, rel=1e-9)
    expected = peak_signal_noise_ratio(
        np.clip(reference, -1024, 3071)[mask], np.clip(predicted, -1024, 3071)[mask], data_range=4095
    )
    assert metrics.psnr_db(*pair, "synthrad2025") == pytest.approx(expected, rel=1e-9)


def test_ssim_2023_agrees_with_skimage_as_the_organisers_call_it(pair):
    reference, predicted, mask = prepared(pair, -1024.0, 3000.0)
    _, similarity_map = structural_similarity(reference, predicted, data_range=4024, full=True)
    assert metrics.ssim(*pair, "synthrad2023") == pytest.approx(cropped_mean(similarity_map, mask), rel=1e-6)


def test_grid_is_skimage_without_a_mask(pair):
    reference, predicted = (np.clip(volume.astype(np.float64), -1024, 3000) + 1024 for volume in pair[:2])
    assert metrics.ssim(*pair, "grid") == pytest.approx(
        structural_similarity(reference, predicted, data_range=4024), rel=1e-6
    )
    assert metrics.psnr_db(*pair, "grid") == pytest.approx(
        peak_signal_noise_ratio(reference, predicted, data_range=4024), rel=1e-9
    )


@pytest.mark.parametrize("convention, whole_grid", [("mr1", False), ("mr1_grid", True)])
def test_mr1_agrees_with_skimage_gaussian_window(pair, convention, whole_grid):
    reference, predicted, mask = pair
    reference, predicted = (volume.astype(np.float64) + 2000.0 for volume in (reference, predicted))
    low, high = np.percentile(reference[mask], (0.5, 99.5))
    mapped = [(np.clip(volume, low, high) - low) / (high - low) for volume in (reference, predicted)]
    _, similarity_map = structural_similarity(
        *mapped, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    region = np.ones_like(mask) if whole_grid else mask
    expected = similarity_map[region].mean()
    assert metrics.ssim(reference, predicted, mask, convention) == pytest.approx(expected, rel=1e-6)
    expected = peak_signal_noise_ratio(mapped[0][region], mapped[1][region], data_range=1.0)
    assert metrics.psnr_db(reference, predicted, mask, convention) == pytest.approx(expected, rel=1e-9)
    values = metrics.image_metrics(reference, predicted, mask, "T2w")
    assert values[convention, "MAE"] == pytest.approx(np.abs(mapped[0] - mapped[1])[region].mean(), rel=1e-9)
    assert values[convention, "SSIM"] == pytest.approx(similarity_map[region].mean(), rel=1e-6)


def test_ms_ssim_2025_agrees_with_its_definition(pair):
    reference, predicted, mask = prepared(pair, -1024.0, 3071.0)
    padding = [((97 - n) // 2, 97 - n - (97 - n) // 2) for n in mask.shape]
    reference, predicted, mask = (np.pad(volume, padding, mode="edge") for volume in (reference, predicted, mask))
    expected = 1.0
    for weight in (0.0448, 0.2856, 0.3001, 0.2363, 0.1333):
        _, similarity_map = structural_similarity(reference, predicted, data_range=4095, full=True)
        expected *= cropped_mean(np.clip(similarity_map, 0, None) ** weight, mask)
        smooth = [fftconvolve(volume, np.full((2, 2, 2), 1 / 8), mode="same") for volume in (reference, predicted)]
        reference, predicted, mask = (volume[::2, ::2, ::2] for volume in (*smooth, mask))
    assert metrics.ssim(*pair, "synthrad2025") == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("convention", ["synthrad2023", "mr1"])
def test_bounding_box_gives_what_the_full_grid_gives(convention):
    reference, predicted, mask = head_pair((30, 48, 44))
    mask &= np.linspace(-1, 1, 44) > 0.2  # a small region away from most faces
    mask[:9] = False
    spec = metrics.CONVENTIONS[convention]
    clipped = metrics._in_range(*metrics._checked(reference, predicted, mask)[:2], mask, spec)
    r, p = (volume * mask for volume in clipped[:2]) if spec.blank_outside else clipped[:2]
    similarity_map = metrics._ssim_map(r, p, clipped[2], spec.gaussian)
    full = similarity_map[mask].mean() if spec.gaussian else cropped_mean(similarity_map, mask)
    assert metrics.ssim(reference, predicted, mask, convention) == pytest.approx(full, rel=1e-10)


@pytest.mark.parametrize("convention", metrics.CONVENTIONS)
def test_a_perfect_prediction_has_ssim_one_and_infinite_psnr(pair, convention):
    reference, _, mask = pair
    assert metrics.ssim(reference, reference, mask, convention) == pytest.approx(1.0, abs=1e-12)
    assert metrics.psnr_db(reference, reference, mask, convention) == math.inf
    assert metrics.mae_hu(reference, reference, mask) == 0.0


@pytest.mark.parametrize("convention", metrics.CONVENTIONS)
def test_more_noise_is_worse(convention):
    pairs = [head_pair(noise_hu=noise) for noise in (10.0, 60.0, 240.0)]
    for metric in (metrics.psnr_db, metrics.ssim):
        good, middling, bad = (metric(*volumes, convention) for volumes in pairs)
        assert good > middling > bad


def test_the_same_error_is_smaller_over_the_whole_grid(pair):
    reference, _, mask = pair
    predicted = reference + 100.0 * mask
    assert metrics.mae_hu(reference, predicted, mask) == pytest.approx(100.0, rel=1e-5)
    on_grid = metrics.image_metrics(reference, predicted, mask, "CT")["grid", "MAE"]
    assert on_grid == pytest.approx(100.0 * mask.mean(), rel=1e-5)


def test_mr1_does_not_forgive_a_wrong_contrast(pair):
    reference, _, mask = pair
    assert metrics.psnr_db(reference, 2.0 * reference + 500.0, mask, "mr1") < 20.0


def test_tissues_partition_the_mask(pair):
    reference, predicted, mask = pair
    by_tissue = metrics.tissue_mae_hu(reference, predicted, mask)
    shares = {"air": (reference < -200)[mask].mean(), "bone": (reference > 250)[mask].mean()}
    shares["soft"] = 1.0 - shares["air"] - shares["bone"]
    total = sum(shares[tissue] * by_tissue[tissue] for tissue in shares)
    assert total == pytest.approx(metrics.mae_hu(reference, predicted, mask), rel=1e-9)
    no_air = mask & (reference >= -200)
    assert metrics.tissue_mae_hu(reference, predicted, no_air)["air"] is None


@pytest.mark.parametrize("modality, conventions", [("CT", ("synthrad2023", "grid")), ("CBCT", ("synthrad2023", "grid")),
                                                    ("T1c", ("mr1", "mr1_grid")), ("T2w", ("mr1", "mr1_grid"))])
def test_image_metrics_are_the_single_metrics(pair, modality, conventions):
    reference, predicted, mask = pair
    values = metrics.image_metrics(reference, predicted, mask, modality)
    assert set(values) == {(convention, metric) for convention in conventions for metric in ("MAE", "PSNR", "SSIM")}
    for convention in conventions:
        assert values[convention, "PSNR"] == pytest.approx(metrics.psnr_db(*pair, convention), rel=1e-12)
        assert values[convention, "SSIM"] == pytest.approx(metrics.ssim(*pair, convention), rel=1e-10)
    if modality == "CT":
        assert values["synthrad2023", "MAE"] == pytest.approx(metrics.mae_hu(*pair), rel=1e-12)


def test_every_convention_is_the_single_metrics_and_moves_psnr_by_several_db(pair):
    values = metrics.every_convention(*pair)
    assert set(values) == set(metrics.CONVENTIONS)
    for name, found in values.items():
        assert found["PSNR"] == metrics.psnr_db(*pair, name) and found["SSIM"] == metrics.ssim(*pair, name)
    assert values["synthrad2023"]["MAE"] == values["synthrad2025"]["MAE"] == metrics.mae_hu(*pair)
    assert values["mr1"]["MAE"] == metrics.image_metrics(*pair, "T2w")["mr1", "MAE"]
    assert max(v["PSNR"] for v in values.values()) - min(v["PSNR"] for v in values.values()) > 3


SPACING_MM = (3.0, 1.5, 2.0)


def test_dice_agrees_with_counting_sets_of_voxels(pair):
    reference, predicted, mask = pair
    found = metrics.dice_hu(*pair, SPACING_MM)
    for shape, a, b in (("bone", reference > 250, predicted > 250), ("air", reference < -200, predicted < -200)):
        a, b = ({tuple(voxel) for voxel in np.argwhere(where & mask)} for where in (a, b))
        assert found[shape] == pytest.approx(2 * len(a & b) / (len(a) + len(b)), rel=1e-12)
    assert metrics.dice_hu(reference, reference, mask, SPACING_MM) == {"air": 1.0, "bone": 1.0, "edge": 1.0}
    water = np.zeros_like(reference)
    assert metrics.dice_hu(reference, water, mask, SPACING_MM) == {"air": 0.0, "bone": 0.0, "edge": 0.0}
    assert metrics.dice_hu(water, water, mask, SPACING_MM) == {"air": None, "bone": None, "edge": None}


def test_an_edge_is_a_step_of_250_hu_wherever_the_voxels_are_wide_or_narrow():
    mask = np.ones((2, 60, 60), bool)
    for spacing_mm in ((3.0, 1.0, 1.0), (3.0, 0.5, 0.5)):
        step = np.where(np.arange(60) < 30, 0.0, 1.0) * np.ones((2, 60, 1))
        counts = [metrics._edges(step * height, spacing_mm)[:, 20:40, 20:40].sum() for height in (200.0, 240.0, 260.0, 1000.0)]
        assert counts[0] == counts[1] == 0 and 0 < counts[2] < counts[3]
    gradient = np.hypot(*np.gradient(ndimage.gaussian_filter(1000 * step[0], 4), 0.5))       # 2 mm, by differences
    np.testing.assert_array_equal(metrics._edges(1000 * step, (3.0, 0.5, 0.5))[0], gradient >= 250 / (np.sqrt(2 * np.pi) * 2))
    shifted = metrics.dice_hu(1000 * step, 1000 * np.roll(step, 1, 2), mask, (3.0, 1.0, 1.0))["edge"]
    assert 0.5 < shifted < 1                                 # an edge 1 mm off overlaps partly, not wholly


def test_slice_consistency_is_the_formulas_in_float64(pair):
    reference, predicted, mask = (pair[0].astype(np.float64), pair[1].astype(np.float64), pair[2])
    found = metrics.slice_consistency(*pair, "CT")
    both = mask[1:] & mask[:-1]
    jump, other = reference[1:] - reference[:-1], predicted[1:] - predicted[:-1]
    assert found["jump ratio"] == pytest.approx(np.abs(other[both]).mean() / np.abs(jump[both]).mean(), rel=1e-9)
    assert found["MAE of jumps"] == pytest.approx(np.abs(jump - other)[both].mean(), rel=1e-9)
    similarity, clipped = np.empty(mask.shape), [np.clip(volume, -1024, 3000) + 1024 for volume in (reference, predicted)]
    for y, x in np.ndindex(mask.shape[1:]):                  # each profile along z is an image of one dimension
        similarity[:, y, x] = structural_similarity(clipped[0][:, y, x], clipped[1][:, y, x], data_range=4024, full=True)[1]
    assert found["SSIM along z"] == pytest.approx(similarity[3:-3][mask[3:-3]].mean(), rel=1e-6)


def test_flicker_and_smoothing_have_opposite_signs(pair):
    reference, _, mask = pair
    assert metrics.slice_consistency(reference, reference, mask, "CT") == pytest.approx(
        {"jump ratio": 1.0, "MAE of jumps": 0.0, "SSIM along z": 1.0})
    flicker = reference + 40 * (np.arange(24) % 2)[:, None, None]
    smooth = ndimage.uniform_filter(reference, (5, 1, 1))
    assert metrics.slice_consistency(reference, flicker, mask, "CT")["jump ratio"] > 1.05
    assert metrics.slice_consistency(reference, smooth, mask, "T1c")["jump ratio"] < 0.9
    with pytest.raises(VaeliteError, match="no jump"):
        metrics.slice_consistency(np.broadcast_to(reference[:1], reference.shape), reference, mask, "CT")


EVERY_METRIC = {
    "mae_hu": metrics.mae_hu,
    "tissue_mae_hu": metrics.tissue_mae_hu,
    "psnr_db": lambda *volumes: metrics.psnr_db(*volumes, "synthrad2023"),
    "ssim": lambda *volumes: metrics.ssim(*volumes, "synthrad2025"),
    "image_metrics": lambda *volumes: metrics.image_metrics(*volumes, "T1c"),
    "dice_hu": lambda *volumes: metrics.dice_hu(*volumes, (3.0, 1.0, 1.0)),
    "slice_consistency": lambda *volumes: metrics.slice_consistency(*volumes, "CT"),
    "every_convention": metrics.every_convention,
}


@pytest.mark.parametrize("name", EVERY_METRIC)
def test_no_metric_answers_where_none_is_defined(pair, name):
    metric = EVERY_METRIC[name]
    reference, predicted, mask = pair
    with pytest.raises(VaeliteError, match="mask is empty"):
        metric(reference, predicted, np.zeros_like(mask))
    for bad_value in (np.nan, np.inf):
        damaged = predicted.copy()
        damaged[0, 0, 0] = bad_value  # outside the mask: still a fault
        with pytest.raises(VaeliteError, match="1 voxels of the prediction"):
            metric(reference, damaged, mask)
    with pytest.raises(VaeliteError, match="one grid"):
        metric(reference, predicted[1:], mask)
    with pytest.raises(VaeliteError, match="0 and 1 only"):
        metric(reference, predicted, mask * 0.5)


def test_a_reference_without_range_is_refused_for_mr(pair):
    _, predicted, mask = pair
    for function in (metrics.psnr_db, metrics.ssim):
        with pytest.raises(VaeliteError, match="no range"):
            function(np.full_like(predicted, 7.0), predicted, mask, "mr1")


@pytest.mark.parametrize("hu", [7.0, 4000.0])
def test_a_constant_ct_is_no_picture(pair, hu):
    _, predicted, mask = pair
    for function in (metrics.psnr_db, metrics.ssim):
        for convention in ("synthrad2023", "synthrad2025", "grid"):
            with pytest.raises(VaeliteError, match="no picture to compare with"):
                function(np.full_like(predicted, hu), predicted, mask, convention)


def test_unknown_convention_and_too_few_slices_are_named(pair):
    with pytest.raises(VaeliteError, match="synthrad2023, synthrad2025, grid, mr1, mr1_grid"):
        metrics.psnr_db(*pair, "ssim2004")
    with pytest.raises(VaeliteError, match="CBCT, CT, T1c, T2w"):
        metrics.image_metrics(*pair, "PET")
    for metric in (lambda *v: metrics.ssim(*v, "synthrad2023"), lambda *v: metrics.slice_consistency(*v, "CT")):
        with pytest.raises(VaeliteError, match="more slices"):
            metric(*(volume[:6] for volume in pair))


def test_summary_is_over_patients():
    assert metrics.summarise([1.0, 2.0, 3.0]) == {"mean": 2.0, "sd": 1.0, "n": 3}
    assert metrics.summarise([5.0, None]) == {"mean": 5.0, "sd": None, "n": 1}
    for values, message in (([], "No values"), ([None], "No values"), ([1.0, math.nan], "NaN"), ([math.inf], "inf")):
        with pytest.raises(VaeliteError, match=message):
            metrics.summarise(values)
