"""Planning CT: partial volume, noise that grows with attenuation, and the streaks of dental metal.

Noise and streaks are made in the projections and filtered back, so that they look as they do in life: noise is
correlated and runs in bands along the patient's longest paths, streaks join the fillings. The scanner is the cone beam
of `conebeam.py` with its source infinitely far away: what a modern scanner's rebinned data amount to.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from phantom.beam import Beam
from phantom.composition import CT_KVP, FILTER_MM_AL, STORED_HU, check_kvp, split_materials
from phantom.conebeam import ConeBeam, Surroundings, forward_project, reconstruct_fdk, surroundings_paths

FAR_AWAY_MM = 1e7
LOWEST_HU = -1024.0
TOOTH_HU = 2000.0  # what the image shows of a filled tooth before the metal is added (our choice)


@dataclass(frozen=True)
class CtSettings:
    """A diagnostic scanner at 120 kVp. All values our choice; a pair (low, high) is drawn evenly for each scan.

    The photons give 5-10 HU of noise (standard deviation) in the middle of a head, at 2 x 2 x 3.75 mm.
    """

    kvp: float = CT_KVP
    filter_mm_al: float = FILTER_MM_AL
    views: int = 180  # over half a turn
    photons_log10: tuple[float, float] = (4.2, 4.8)  # per view and mm2
    fewest_photons: float = 20.0  # per pixel: behind metal and shoulders the machine filters what falls below
    hann_cutoff: float = 1.0  # of the reconstruction filter, x Nyquist of the voxels
    blur_voxels: tuple[float, float, float] = (0.25, 0.45, 0.45)  # (z, y, x) standard deviation: the scanner's aperture
    noise: bool = True
    streaks: bool = True

    def __post_init__(self):
        check_kvp(self.kvp)
        if self.views < 1:
            raise ValueError(f"CT views = {self.views}: at least 1")


@dataclass(frozen=True)
class CtScan:
    """One scan, (z, y, x) [HU], and the noise and what metal adds in it."""

    noise: np.ndarray
    streaks: np.ndarray
    hu: np.ndarray


def scan_ct(hu: np.ndarray, spacing_mm: tuple[float, float, float], random: int | np.random.Generator = 0,
            settings: CtSettings = CtSettings(), surroundings: Surroundings | None = None,
            device: str | None = None) -> np.ndarray:
    """Ideal HU (z, y, x), metal marked with METAL_HU, spacing (dz, dy, dx) -> CT (z, y, x) float32 [HU], -1024..3071.

    surroundings: the patient beyond the volume, for the noise behind shoulders.
    """
    return acquire_ct(hu, spacing_mm, random, settings, surroundings, device).hu


def acquire_ct(hu: np.ndarray, spacing_mm: tuple[float, float, float], random: int | np.random.Generator = 0,
               settings: CtSettings = CtSettings(), surroundings: Surroundings | None = None,
               device: str | None = None) -> CtScan:
    """`scan_ct` with its parts."""
    generator = np.random.default_rng(random)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    parts = split_materials(hu)
    filled = parts[2] > 0
    tissue = gaussian_filter(np.where(filled, np.minimum(hu, TOOTH_HU), hu), settings.blur_voxels).astype(np.float32)
    scan = parallel_beam(hu.shape, spacing_mm, settings)
    photons = 10 ** generator.uniform(*settings.photons_log10) * scan.pixel_u_mm * scan.pixel_v_mm
    path_mm = smooth_paths(torch.from_numpy(parts[0] + parts[1]).to(device), spacing_mm, scan, surroundings)
    slices = np.flatnonzero(filled.any(axis=(1, 2)))
    streaks = np.zeros(hu.shape, np.float32)
    if settings.streaks and len(slices):
        here = torch.from_numpy(parts[:, slices]).to(device)
        with_metal_mm, without_mm = metal_paths(here, spacing_mm, scan, photons, settings)
        error_mm = with_metal_mm - without_mm
        streaks[slices] = 1000 * back_project(error_mm, spacing_mm, hu.shape, scan, settings)
        path_mm[:, slices] += error_mm
    noise = np.zeros(hu.shape, np.float32)
    if settings.noise:
        noise_mm = noise_of(path_mm, photons, generator, settings)
        noise = 1000 * back_project(noise_mm, spacing_mm, hu.shape, scan, settings)
    return CtScan(noise, streaks, np.clip(tissue + noise + streaks, LOWEST_HU, STORED_HU).astype(np.float32))


def parallel_beam(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float],
                  settings: CtSettings) -> ConeBeam:
    """Half a turn with a detector as fine as the voxels, wide enough for the corners of the volume."""
    n_z, n_y, n_x = shape
    dz, dy, dx = spacing_mm
    pixel_mm = min(dy, dx)
    n_u = 4 * math.ceil((math.hypot(n_y * dy, n_x * dx) / pixel_mm + 2) / 4)
    # the arc's surplus over 180 degrees is the fan angle of a source at FAR_AWAY_MM, and far below one view
    return ConeBeam(settings.views, n_u, n_z, pixel_mm, dz, FAR_AWAY_MM, arc_degree=180.01)


def smooth_paths(attenuation: Tensor, spacing_mm: tuple[float, float, float], scan: ConeBeam,
                 surroundings: Surroundings | None) -> Tensor:
    """Water paths (view, z, u) [mm], for the noise only: from voxels of twice the width, which is fine enough."""
    dz, dy, dx = spacing_mm
    coarse = F.avg_pool2d(attenuation[None], 2, ceil_mode=True, count_include_pad=False)  # 1 z y x
    half = replace(scan, n_u=scan.n_u // 2, pixel_u_mm=2 * scan.pixel_u_mm)
    paths = forward_project(coarse, (dz, 2 * dy, 2 * dx), half, scan.n_u * scan.pixel_u_mm / 2)
    paths = F.interpolate(paths, size=(scan.n_v, scan.n_u), mode="bilinear", align_corners=False)
    if surroundings is not None:
        around = torch.from_numpy(1 + np.clip(surroundings.hu, -1000, STORED_HU).astype(np.float32) / 1000)[None]
        box_mm = tuple(n * step for n, step in zip(attenuation.shape, spacing_mm, strict=True))
        paths += surroundings_paths(around.to(paths.device), surroundings, box_mm, scan, (0.0, 0.0, 0.0),
                                    range(scan.n_views))
    return paths[:, 0]


def metal_paths(parts: Tensor, spacing_mm: tuple[float, float, float], scan: ConeBeam, photons: float,
                settings: CtSettings) -> tuple[Tensor, Tensor]:
    """What the scanner takes for water paths (view, z, u) [mm], with and without the metal.

    A polychromatic beam, few photons left behind metal: the two do not differ by the metal's own path alone, and that
    is what makes streaks.  parts: (3, z, y, x) of the slices that hold metal.
    """
    here = replace(scan, n_v=parts.shape[1])
    paths = forward_project(parts, spacing_mm, here, scan.n_u * scan.pixel_u_mm / 2)
    beam, no_bowtie = Beam(settings.kvp, settings.filter_mm_al), torch.zeros(scan.n_u, device=parts.device)
    seen = (beam.transmit(p, no_bowtie).clamp(min=settings.fewest_photons / photons) for p in (paths, paths[:, :2]))
    with_metal, without = (beam.water_path(signal, no_bowtie) for signal in seen)
    return with_metal, without


def noise_of(path_mm: Tensor, photons: float, generator: np.random.Generator, settings: CtSettings) -> Tensor:
    """Photon noise of the measured water paths [mm]: standard deviation 1 / sqrt(photons left) in the logarithm."""
    beam = Beam(settings.kvp, settings.filter_mm_al, polychromatic=False)
    per_mm = beam.slab_attenuation(1.0)
    left = (photons * torch.exp(-per_mm * path_mm)).clamp(min=settings.fewest_photons)
    white = torch.from_numpy(generator.standard_normal(tuple(path_mm.shape), dtype=np.float32)).to(path_mm.device)
    return white / (per_mm * torch.sqrt(left))


def back_project(path_mm: Tensor, spacing_mm: tuple[float, float, float], shape: tuple[int, int, int], scan: ConeBeam,
                 settings: CtSettings) -> np.ndarray:
    """Filtered back-projection of water paths (view, z, u) -> (z, y, x) [water = 1]."""
    n_z = path_mm.shape[1]
    here = replace(scan, n_v=n_z)
    return reconstruct_fdk(path_mm, spacing_mm, (n_z, *shape[1:]), here, settings.hann_cutoff).cpu().numpy()
