"""The four scans of one case: from ideal anatomy to CT, CBCT, T1c and T2w on one grid."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from phantom.anatomy import Anatomy, build_anatomy
from phantom.cbct import CbctSettings, simulate_cbct
from phantom.contours import body_mask, draw_structures
from phantom.grid import Grid, Streams
from phantom.mri import acquire
from phantom.tissues import TISSUE_ID, texture_strength
from phantom.traits import Pose, Traits, draw_traits, draw_treatment_pose

VOID_MM = 6.0  # reach of the susceptibility void around a filling: our choice
BONE_TISSUES = ("cortical bone", "spongy bone")


@dataclass(frozen=True)
class Case:
    """volumes: {modality: (z, y, x) float32}, HU for CT and CBCT, arbitrary units for MR."""

    grid: Grid
    traits: Traits
    volumes: dict[str, np.ndarray]
    mask: np.ndarray
    structures: dict[str, np.ndarray]
    has_fillings: bool


def make_case(seed: int, index: int, size: int) -> Case:
    """Case `index` of the cohort `seed` at `size` x `size` x `size` / 2 voxels; depends on nothing else."""
    streams = Streams(seed, index)
    grid = Grid.of_size(size)
    traits = draw_traits(streams)
    planned = build_anatomy(grid, traits, Pose(), streams)
    treated = build_anatomy(grid, traits, draw_treatment_pose(streams), streams)
    texture = hu_texture(grid, streams)
    volumes = {
        "CBCT": scan_cbct(treated, texture, grid, streams),
        "CT": scan_ct(planned, texture, grid, streams("CT noise")),
        **scan_mr(planned, grid, streams),
    }
    return Case(grid, traits, volumes, body_mask(planned), draw_structures(planned, grid), planned.metal is not None)


def hu_texture(grid: Grid, streams: Streams) -> dict[str, np.ndarray]:
    """Fields that make HU vary inside a tissue: fine grain and slow drift. They have no part in the MR signal."""
    return {name: grid.smooth_noise(streams(f"HU {name}"), wavelength)
            for name, wavelength in (("fine", 9), ("medium", 17), ("slow", 60))}


def textured_hu(anatomy: Anatomy, texture: dict[str, np.ndarray]) -> np.ndarray:
    """Ideal HU with texture: bone density drifts by 8 %, the parotid has fatty lobules."""
    strength = texture_strength()[anatomy.label]
    hu = anatomy.values[0] + strength * (0.7 * texture["fine"] + 0.4 * texture["medium"] + 0.5 * texture["slow"])
    bone = np.isin(anatomy.label, [TISSUE_ID[name] for name in BONE_TISSUES])
    hu += bone * 0.08 * hu * texture["slow"]
    lobules = anatomy.label == TISSUE_ID["parotid"]
    hu -= lobules * 22 * np.abs(texture["fine"])
    return np.where(anatomy.body > 0, anatomy.values[0], hu).astype(np.float32)


def scan_ct(anatomy: Anatomy, texture: dict[str, np.ndarray], grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Planning CT [HU]: slight blur, band-passed noise of 7-13 HU, stored range -1024..3071."""
    white = generator.standard_normal(grid.shape, dtype=np.float32)
    noise = gaussian_filter(white, (0.3, 0.75, 0.75)) - gaussian_filter(white, (0.3, 2.2, 2.2))
    noise *= generator.uniform(7, 13) / noise.std()
    hu = gaussian_filter(textured_hu(anatomy, texture), (0.25, 0.45, 0.45)) + noise
    return np.clip(hu, -1024, 3071).astype(np.float32)


def scan_cbct(anatomy: Anatomy, texture: dict[str, np.ndarray], grid: Grid, streams: Streams) -> np.ndarray:
    """CBCT of the treatment day [HU]: another pose, slightly misregistered, dose and scatter different per case."""
    g = streams("CBCT")
    hu = shift_smoothly(textured_hu(anatomy, texture)[None], grid, streams("CBCT registration"), 0.35, 0.3, 0.3)[0]
    photons, scatter, scatter_left = 10 ** g.uniform(4.4, 4.9), g.uniform(0.3, 0.7), g.uniform(0.08, 0.25)
    settings = replace(CbctSettings(), photons=float(photons), scatter_to_primary=float(scatter),
                       scatter_left=float(scatter_left))
    return simulate_cbct(hu, grid.spacing_mm, g, settings)


def scan_mr(anatomy: Anatomy, grid: Grid, streams: Streams) -> dict[str, np.ndarray]:
    """T1c and T2w [arbitrary units]: own texture, voids around fillings, slight misregistration to the CT."""
    signals = anatomy.values[1:].copy()
    fine, slow = (grid.smooth_noise(streams(f"MR {name}"), mm) for name, mm in (("fine", 9), ("slow", 40)))
    signals *= 1 + 0.04 * fine + 0.03 * slow
    if anatomy.metal is not None:
        signals *= 1 - np.exp(-anatomy.metal ** 2 / (2 * VOID_MM ** 2))
    signals = shift_smoothly(signals, grid, streams("MR registration"), 0.6, 0.4, 0.4)
    return {modality: acquire(signal, grid, streams(f"{modality} scan"))
            for modality, signal in zip(("T1c", "T2w"), signals, strict=True)}


def shift_smoothly(volumes: np.ndarray, grid: Grid, generator: np.random.Generator, warp_mm: float, shift_mm: float,
                   turn_degree: float) -> np.ndarray:
    """Residual misregistration: (c, z, y, x) resampled under a small random shift, turn and smooth warp."""
    z, y, x = grid.mesh()
    dz, dy, dx = generator.normal(0, shift_mm, size=3)
    angle = np.radians(generator.normal(0, turn_degree))
    warp_z, warp_y, warp_x = (warp_mm * grid.smooth_noise(generator, 90) for _ in range(3))
    at = (z + dz + warp_z,
          y * np.cos(angle) - x * np.sin(angle) + dy + warp_y,
          y * np.sin(angle) + x * np.cos(angle) + dx + warp_x)
    unit = [2 * (position - axis[0]) / (axis[-1] - axis[0]) - 1
            for position, axis in zip(at, (grid.z_mm, grid.y_mm, grid.x_mm), strict=True)]
    where = torch.from_numpy(np.stack(unit[::-1], axis=-1).astype(np.float32))[None]
    moved = torch.nn.functional.grid_sample(torch.from_numpy(np.ascontiguousarray(volumes))[None], where,
                                            align_corners=True, padding_mode="border")
    return moved[0].numpy()
