"""Distances between sets of images where the truth is known: the same law, shifted Gaussians, blur."""
from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy import linalg, ndimage

from vaelite.errors import VaeliteError
from vaelite.evaluation.distribution import (
    Extractor,
    encoder_extractor,
    frechet_distance,
    frechet_name,
    inception_extractor,
    kid,
    same_law_null,
    texture_extractor,
)
from vaelite.evaluation.images import distribution_rows
from vaelite.evaluation.tables import distribution_table
from vaelite.models.vae import VAE, VAEConfig

HAS_TORCHVISION = importlib.util.find_spec("torchvision") is not None


def crowd(rng, patients: int, slices: int = 8, d: int = 16, shift: float = 0.0) -> tuple[np.ndarray, list[str]]:
    """Features of patients who differ more than their slices do."""
    centre = rng.normal(size=(patients, 1, d))
    x = centre + 0.5 * rng.normal(size=(patients, slices, d)) + shift
    return x.reshape(-1, d), [f"p{i}" for i in range(patients) for _ in range(slices)]


def test_kid_is_the_unbiased_estimate_of_gretton_2012():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 5)), rng.normal(0.3, 1, size=(9, 5))

    def k(a, b):
        return (a @ b / 5 + 1) ** 3

    inside = np.mean([k(a, b) for i, a in enumerate(x) for j, b in enumerate(x) if i != j])
    inside += np.mean([k(a, b) for i, a in enumerate(y) for j, b in enumerate(y) if i != j])
    assert kid(x, y)[0] == pytest.approx(inside - 2 * np.mean([k(a, b) for a in x for b in y]), rel=1e-9)


def test_the_same_law_is_zero_within_its_error_and_on_average():
    rng = np.random.default_rng(0)
    found = np.array([kid(*rng.normal(size=(2, 40, 16))) for _ in range(150)])
    assert abs(found[:, 0].mean()) < 3 * found[:, 0].std() / np.sqrt(150)
    assert np.mean(np.abs(found[:, 0]) < 2 * found[:, 1]) > 0.9
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.4)       # the jackknife knows its own spread


def test_slices_of_one_patient_do_not_pass_for_many_images():
    """Made slices of the same law, of the same patients: by patient 0 on average; counting slices, far from it."""
    rng, right, wrong = np.random.default_rng(1), [], []
    for _ in range(60):
        (x, names), (y, _) = crowd(rng, 6), crowd(rng, 6)
        right.append(kid(x, y, names, names)[0])
        wrong.append(kid(x, y)[0])
    assert abs(np.mean(right)) < 3 * np.std(right) / np.sqrt(60)
    assert np.mean(wrong) > 6 * np.std(wrong) / np.sqrt(60)


def test_a_shift_is_found():
    rng = np.random.default_rng(2)
    (x, names), (y, _) = crowd(rng, 12), crowd(rng, 12, shift=1.0)
    value, error = kid(x, y, names, names)
    assert value > 5 * error and value > max(same_law_null(x, names))


def test_a_perfect_copy_is_at_zero():
    x, names = crowd(np.random.default_rng(3), 5)
    assert kid(x, x, names, names)[0] == pytest.approx(0, abs=1e-12)


def test_the_null_is_centred_and_needs_four_patients():
    x, names = crowd(np.random.default_rng(4), 6)
    null = same_law_null(x, names)
    assert len(null) == 20 and abs(np.mean(null)) < 1e-9     # all 20 splits of 6: every pair of patients as often together as apart
    many, its_names = crowd(np.random.default_rng(5), 14)
    assert len(same_law_null(many, its_names)) == 200
    with pytest.raises(VaeliteError, match="at least 4 patients"):
        same_law_null(x[:24], names[:24])
    with pytest.raises(VaeliteError, match="two patients"):
        kid(x[:8], x[8:], names[:8], names[8:])


def gaussian_sample(rng, n: int, mean: np.ndarray, covariance: np.ndarray) -> np.ndarray:
    """n points with exactly this mean and covariance."""
    white = rng.normal(size=(n, len(mean)))
    white -= white.mean(0)
    white = white @ np.linalg.inv(linalg.sqrtm(np.atleast_2d(np.cov(white.T))).real)
    return white @ linalg.sqrtm(covariance).real + mean


def test_frechet_distance_is_the_closed_form():
    rng = np.random.default_rng(0)
    a, b = (m @ m.T + 0.1 * np.eye(6) for m in rng.normal(size=(2, 6, 6)))
    shift = rng.normal(size=6)
    expected = (shift**2).sum() + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    found = frechet_distance(gaussian_sample(rng, 200, np.zeros(6), a), gaussian_sample(rng, 300, shift, b))
    assert found == pytest.approx(expected, rel=1e-6)
    one_axis = frechet_distance(gaussian_sample(rng, 50, np.zeros(1), np.eye(1)), gaussian_sample(rng, 50, np.full(1, 3.0), 4 * np.eye(1)))
    assert one_axis == pytest.approx(3.0**2 + (2 - 1) ** 2, rel=1e-6)


def test_frechet_distance_of_the_same_law_falls_with_n_and_is_never_zero():
    """A bias of order d / N: halve it by twice the images, never by a better model."""
    rng = np.random.default_rng(0)
    share = [frechet_distance(*rng.normal(size=(2, n, 64))) / 64 for n in (50, 250, 500)]    # of the total variance
    assert share[0] > 0.4 and share[2] > 0.05
    assert share[1] / share[2] == pytest.approx(2, rel=0.15)
    with pytest.raises(VaeliteError, match="two images"):
        frechet_distance(np.zeros((1, 3)), np.zeros((5, 3)))


@pytest.mark.parametrize("distance", [kid, frechet_distance])
def test_features_that_cannot_be_compared_are_refused(distance):
    with pytest.raises(VaeliteError, match="one extractor"):
        distance(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(VaeliteError, match="NaN or infinite"):
        distance(np.full((4, 3), np.nan), np.zeros((4, 3)))


def test_every_image_needs_a_patient():
    with pytest.raises(VaeliteError, match="patient labels"):
        kid(np.zeros((4, 3)), np.zeros((4, 3)), ["a", "b"], ["a", "b", "c", "d"])


def pictures(n: int, size: int = 64, sigma: float = 1.0, seed: int = 0) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(size=(n, size, size))
    smooth = ndimage.gaussian_filter(noise, (0, sigma, sigma))
    return torch.from_numpy(0.3 * smooth / smooth.std()).clamp(-1, 1).float()


def test_textures_tell_blur_from_the_same_law():
    texture = texture_extractor()
    real, alike, blurred = (texture(pictures(24, sigma=s, seed=seed)) for s, seed in ((1, 0), (1, 1), (1.2, 2)))
    assert real.shape == (24, 64) and np.isfinite(real).all()
    same, error = kid(real, alike)
    assert abs(same) < 3 * error and kid(real, blurred)[0] > 10 * max(abs(same), error)


@pytest.mark.parametrize("size", [32, 128])
def test_textures_ignore_brightness_and_turn_with_the_picture(size):
    texture, x = texture_extractor(), pictures(4, size)
    np.testing.assert_allclose(texture(0.5 * x + 0.2), texture(0.5 * x), atol=1e-4)
    turned = texture(x.rot90(1, (1, 2))).reshape(4, 4, 2, 8)  # levels, statistics, (0, 45, 90, 135 degrees) x (edge, line)
    as_it_was = texture(x).reshape(4, 4, 2, 8)
    np.testing.assert_allclose(turned[..., [4, 5, 6, 7, 0, 1, 2, 3]], as_it_was, atol=1e-4)
    assert np.isfinite(texture(torch.full((1, size, size), -1.0))).all()         # a slice of nothing but air


def test_our_own_encoder_warns_that_it_is_circular():
    extractor = encoder_extractor(VAE(VAEConfig()).eval())
    with pytest.warns(UserWarning, match="circular"):
        assert extractor(pictures(3)).shape == (3, 32)


def test_only_inception_may_be_called_fid(tmp_path):
    assert frechet_name(texture_extractor(), "axial", 300) == "FD-texture(axial, N=300)"
    assert frechet_name(Extractor("x", lambda x: x, fid=True), "axial", 9) == "FID-x(axial, N=9)"
    with pytest.raises(VaeliteError, match="does not exist"):
        inception_extractor(tmp_path / "none.safetensors")


@pytest.mark.skipif(HAS_TORCHVISION, reason="torchvision is there")
def test_without_torchvision_one_sentence_says_so(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(VaeliteError, match="need torchvision"):
        inception_extractor(tmp_path / "weights.safetensors")


@pytest.mark.skipif(not HAS_TORCHVISION, reason="torchvision is not part of the kit")
def test_inception_gives_the_features_of_its_last_pooling(tmp_path):
    from torchvision.models import inception_v3
    network = inception_v3(weights=None, init_weights=False, transform_input=False)
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    extractor = inception_extractor(tmp_path / "weights.safetensors")
    assert extractor(pictures(2)).shape == (2, 2048) and extractor.fid
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(VaeliteError, match="does not hold Inception-v3"):
        inception_extractor(tmp_path / "other.safetensors")


def test_the_report_says_how_far_real_images_are_from_each_other():
    rng = np.random.default_rng(0)
    x, _ = crowd(rng, 6)
    y, _ = crowd(rng, 6, shift=3.0)
    crowds = {key: {f"p{i}": part for i, part in enumerate(np.split(features, 6))}
              for key, features in ((("real", "CT", "CT"), x), (("vaelite", "CBCT", "CT"), y))}
    null, made = distribution_rows(crowds)
    assert null["method"] == "real" and made["mean"] > 3 * null["sd"] and made["se"] > 0 and made["n"] == 6
    text = distribution_table({"rows": [null, made]})
    assert "N=48" in text and "FID" in text and "FD-" not in text
    few = {key: dict(list(crowd.items())[:1]) for key, crowd in crowds.items()}
    assert distribution_rows(few) == []                      # one patient says nothing about a law
