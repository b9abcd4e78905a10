"""CTs altered on purpose: the bulk densities a clinic falls back on, and errors whose kind and size are known.

All are (z, y, x) in HU, inside the boolean mask `body`; what lies outside it stays. Tissues by the HU of the CT given:
air below -200, bone above 250, as in `metrics.tissue_mae_hu`. Nothing is random but `noise`, which takes a seed.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import VaeliteError
from ..evaluation.metrics import AIR_BELOW_HU, BONE_ABOVE_HU

WATER_HU, AIR_HU = 0.0, -1000.0


def water(ct_hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    """The whole body as water: what a plan without any CT but an outline would assume."""
    return _changed(ct_hu, body, lambda tissue: np.full_like(tissue, WATER_HU))


def bulk_density(ct_hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    """Water with the bone and the air of this CT, each at its mean HU: the best that three densities can do.

    Our choice: a clinic without a CT would have to find bone and air elsewhere, and give them values from a book.
    """
    def three_densities(tissue: np.ndarray) -> np.ndarray:
        bulk = np.full_like(tissue, WATER_HU)
        for part in (tissue < AIR_BELOW_HU, tissue > BONE_ABOVE_HU):
            bulk[part] = tissue[part].mean(dtype=np.float64) if part.any() else WATER_HU
        return bulk

    return _changed(ct_hu, body, three_densities)


BULK = {"water": water, "bulk": bulk_density}               # the clinic's own baselines, by their name in the report


# ---------------------------------------------------------------- errors of known size

def shifted(ct_hu: np.ndarray, body: np.ndarray, hu: float) -> np.ndarray:
    """The same number of HU too many everywhere in the body: a wrong calibration, or shading."""
    return _changed(ct_hu, body, lambda tissue: tissue + hu)


def bone_scaled(ct_hu: np.ndarray, body: np.ndarray, percent: float) -> np.ndarray:
    """Every bone at `percent` of its HU."""
    return _changed(ct_hu, body, lambda tissue: np.where(tissue > BONE_ABOVE_HU, tissue * percent / 100, tissue))


def cavities_filled(ct_hu: np.ndarray, body: np.ndarray, percent: float) -> np.ndarray:
    """Every air cavity brought `percent` of the way to water: a nose or throat that a network has closed."""
    def filled(tissue: np.ndarray) -> np.ndarray:
        return np.where(tissue < AIR_BELOW_HU, tissue + (WATER_HU - tissue) * percent / 100, tissue)

    return _changed(ct_hu, body, filled)


def truncated(ct_hu: np.ndarray, body: np.ndarray, cut_mm: float, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Air beyond a cylinder along z, `cut_mm` narrower in radius than the narrowest around the body's axis that holds it."""
    z, y, x = np.nonzero(_checked(ct_hu, body)[1])
    dy, dx = spacing_mm[1:]
    radius_mm = np.hypot((y - y.mean()) * dy, (x - x.mean()) * dx)
    beyond = radius_mm > radius_mm.max() - cut_mm
    image = np.array(ct_hu, np.float32)
    image[z[beyond], y[beyond], x[beyond]] = AIR_HU
    return image


def noise(ct_hu: np.ndarray, body: np.ndarray, mae_hu: float, seed: int = 0) -> np.ndarray:
    """White Gaussian noise with a mean absolute value of `mae_hu` [HU]."""
    sd_hu = mae_hu * np.sqrt(np.pi / 2)                      # E|x| = sd * sqrt(2 / pi)
    return _changed(ct_hu, body, lambda tissue: tissue + np.random.default_rng(seed).normal(0, sd_hu, tissue.shape))


@dataclass(frozen=True)
class Sweep:
    """One kind of error, made in several sizes; `none` is the size that changes nothing."""

    alter: Callable[..., np.ndarray]                         # (ct_hu, body, amount, spacing_mm) -> ct_hu
    unit: str
    amounts: tuple[float, ...]
    none: float = 0.0


# Our choice of sizes: from what a good synthesis leaves to what nobody would accept.
SWEEPS = {
    "uniform HU bias": Sweep(lambda ct, body, hu, _: shifted(ct, body, hu), "HU", (-100, -50, -20, 20, 50, 100)),
    "bone HU": Sweep(lambda ct, body, percent, _: bone_scaled(ct, body, percent), "% of the true HU", (50, 75, 125, 150), 100),
    "air cavities filled": Sweep(lambda ct, body, percent, _: cavities_filled(ct, body, percent), "% of the way to water",
                                 (25, 50, 100)),
    "field of view cut": Sweep(truncated, "mm of its radius", (20, 40, 60)),
}


def _changed(ct_hu: np.ndarray, body: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A copy of the CT, float32, with `change` applied to the HU inside the body (n,)."""
    image, body = _checked(ct_hu, body)
    image[body] = change(image[body])
    return image


def _checked(ct_hu: np.ndarray, body: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    image = np.array(ct_hu, np.float32)
    if body is None or not np.any(body):
        raise VaeliteError("No body contour: pass the mask of the patient's outline, within which the CT is to be altered.")
    if image.shape != np.shape(body):
        raise VaeliteError(f"The CT has {image.shape} voxels, the body mask {np.shape(body)}: resample one of them.")
    if not np.isfinite(image).all():
        raise VaeliteError(f"{np.count_nonzero(~np.isfinite(image))} voxels of the CT are not finite: repair it first.")
    return image, np.asarray(body, bool)
