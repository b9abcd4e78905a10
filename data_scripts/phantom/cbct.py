"""From a CT in HU to the cone-beam CT of the same patient: beam hardening, scatter, lag, noise, FDK.

`simulate_cbct` works on any (z, y, x) grid in HU, of the phantom or of a real patient's CT.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor

from phantom.conebeam import ConeBeam, forward_project, reconstruct_fdk

# Mass attenuation [cm2/g] of liquid water and ICRU-44 cortical bone: NIST XCOM tables (Hubbell and Seltzer 1995).
# The weights imitate a filtered 120 kVp spectrum as an energy-integrating detector sees it: our choice.
ENERGY_KEV = (40.0, 50.0, 60.0, 80.0, 100.0)
WATER_CM2_G = (0.2683, 0.2269, 0.2059, 0.1837, 0.1707)
BONE_CM2_G = (0.6655, 0.4242, 0.3148, 0.2229, 0.1855)
SPECTRUM_WEIGHT = (0.12, 0.22, 0.28, 0.28, 0.10)
HARDENING_DEPTH_MM = 180.0  # a head's width: sets the effective energy at which HU are defined

BONE_STARTS_HU, BONE_IS_PURE_HU = 100.0, 1600.0  # between them a voxel is part water, part bone (our choice)
METAL_HU = 8000.0  # fillings attenuate beyond a scanner's 3071 HU (our choice)


@dataclass(frozen=True)
class CbctSettings:
    """A linac's or dental C-arm's scan, roughly. All values our choice.

    They are set so that the raw CBCT of the phantom lies 60-90 HU (MAE in the body) from its CT, inside the
    33-100 HU published for head-and-neck CBCT before correction.
    """

    views: int = 200
    source_isocentre_mm: float = 1000.0
    source_detector_mm: float = 1536.0
    photons: float = 4.0e4  # per detector pixel and view in the open beam
    electronic_noise: float = 4.0  # standard deviation, in photons
    scatter_to_primary: float = 0.5  # behind the middle of the patient
    scatter_left: float = 0.15  # what the imperfect correction leaves of it
    scatter_width_mm: float = 70.0  # at the detector
    lag: float = 0.03  # the share of each view that the next one still shows
    detector_pixel: float = 0.5  # width at the isocentre, in voxels
    hann_cutoff: float = 1.2  # of the reconstruction filter, x Nyquist of the detector
    beam_hardening: bool = True
    noise: bool = True


def simulate_cbct(ct_hu: np.ndarray, spacing_mm: tuple[float, float, float],
                  random: int | np.random.Generator = 0, settings: CbctSettings = CbctSettings()) -> np.ndarray:
    """Scan a CT volume with a cone beam and reconstruct it.

    ct_hu: (z, y, x) [HU], z the axis of rotation; spacing_mm = (dz, dy, dx); `random`: a seed or a generator
    -> (z, y, x) float32 [HU] on the same grid. Outside the circle that the detector sees, air.
    """
    generator = np.random.default_rng(random)
    water, bone = split_water_and_bone(ct_hu)
    radius_mm = patient_radius_mm(ct_hu, spacing_mm)
    scan = scan_for(ct_hu.shape, spacing_mm, radius_mm, settings)
    paths_mm = forward_project(torch.from_numpy(np.stack([water, bone])), spacing_mm, scan, radius_mm)
    primary = transmit(paths_mm[:, 0], paths_mm[:, 1], settings.beam_hardening)
    scatter = scatter_behind(primary, scan, settings)
    counts = detect(primary + scatter, generator, settings)
    water_path_mm = to_water_path(counts - (1 - settings.scatter_left) * scatter, settings)
    relative = reconstruct_fdk(water_path_mm, spacing_mm, ct_hu.shape, scan, settings.hann_cutoff).numpy()
    hu = np.clip((relative - 1) * 1000, -1000, 3071)
    hu[:, in_plane_radius_mm(ct_hu.shape, spacing_mm) > field_radius_mm(scan)] = -1000
    return hu.astype(np.float32)


def split_water_and_bone(ct_hu: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """HU -> water-like and bone-like part, each as attenuation relative to water [1]; their sum is 1 + HU / 1000."""
    hu = np.clip(ct_hu, -1000, METAL_HU).astype(np.float32)
    relative = 1 + hu / 1000
    bone_share = np.clip((hu - BONE_STARTS_HU) / (BONE_IS_PURE_HU - BONE_STARTS_HU), 0, 1)
    return relative * (1 - bone_share), relative * bone_share


def scan_for(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], radius_mm: float,
             settings: CbctSettings) -> ConeBeam:
    """A detector that sees the patient (radius_mm) from side to side, and every slice of the volume at every angle."""
    dz, dy, dx = spacing_mm
    distance = settings.source_isocentre_mm
    half_u_mm = radius_mm / math.sqrt(1 - (radius_mm / distance) ** 2)
    half_v_mm = shape[0] * dz / 2 * distance / (distance - radius_mm)
    pixel_u_mm = settings.detector_pixel * min(dy, dx)
    return ConeBeam(settings.views, 2 * math.ceil(half_u_mm / pixel_u_mm), 2 * math.ceil(half_v_mm / dz), pixel_u_mm,
                    dz, distance)


def in_plane_radius_mm(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Distance of each (y, x) from the axis of rotation [mm]."""
    y_mm = (np.arange(shape[1]) - (shape[1] - 1) / 2) * spacing_mm[1]
    x_mm = (np.arange(shape[2]) - (shape[2] - 1) / 2) * spacing_mm[2]
    return np.hypot(y_mm[:, None], x_mm[None, :])


def patient_radius_mm(ct_hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Radius of the circle around the axis that holds the patient, plus a margin; the table outside it is not seen."""
    occupied = (ct_hu > -700).any(axis=0)
    radius = in_plane_radius_mm(ct_hu.shape, spacing_mm)
    return float(radius[occupied].max(initial=50.0)) + 6.0


def field_radius_mm(scan: ConeBeam) -> float:
    """Radius that every view covers."""
    half_u_mm = scan.n_u * scan.pixel_u_mm / 2
    return half_u_mm / math.sqrt(1 + (half_u_mm / scan.source_isocentre_mm) ** 2)


def attenuation_per_mm() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(weight, water, bone) per energy bin: attenuation of 1 mm of water, and of as much bone as attenuates like it."""
    weight = np.array(SPECTRUM_WEIGHT)
    water = np.array(WATER_CM2_G) / 10
    bone = np.array(BONE_CM2_G) / 10
    hardened = weight * np.exp(-water * HARDENING_DEPTH_MM)
    hardened /= hardened.sum()
    return weight, water, bone * (hardened @ water) / (hardened @ bone)


def transmit(water_mm: Tensor, bone_mm: Tensor, beam_hardening: bool) -> Tensor:
    """Water and bone paths [mm of water] -> detected share of the open beam [1], summed over the spectrum."""
    weight, water, bone = attenuation_per_mm()
    if not beam_hardening:
        return torch.exp(-effective_water_per_mm() * (water_mm + bone_mm))
    return sum(w * torch.exp(-mu_water * water_mm - mu_bone * bone_mm)
               for w, mu_water, mu_bone in zip(weight.tolist(), water.tolist(), bone.tolist(), strict=True))


def effective_water_per_mm() -> float:
    weight, water, _ = attenuation_per_mm()
    hardened = weight * np.exp(-water * HARDENING_DEPTH_MM)
    return float(hardened @ water / hardened.sum())


def scatter_behind(primary: Tensor, scan: ConeBeam, settings: CbctSettings) -> Tensor:
    """Scattered share of the open beam on the detector [1].

    The forward-scatter potential I ln(1 / I) of each ray, spread wide (Ohnesorge, Flohr, Klingenbeck-Regn 1999),
    scaled to `scatter_to_primary` where the patient is thickest. Computed on every fourth pixel: it is smooth.
    """
    if settings.scatter_to_primary == 0:
        return torch.zeros_like(primary)
    potential = primary * -torch.log(primary.clamp(min=1e-6))
    coarse = F.avg_pool2d(potential[:, None], 4, ceil_mode=True, count_include_pad=False)[:, 0].numpy()
    magnification = settings.source_detector_mm / settings.source_isocentre_mm
    sigma = [settings.scatter_width_mm / magnification / (4 * pixel) for pixel in (scan.pixel_v_mm, scan.pixel_u_mm)]
    spread = torch.from_numpy(gaussian_filter(coarse, (0, *sigma), mode="nearest"))
    spread = F.interpolate(spread[:, None], size=primary.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    thickest = primary <= torch.quantile(primary[::8].flatten()[::7], 0.05)
    return spread * settings.scatter_to_primary * (primary[thickest].mean() / spread[thickest].mean())


def detect(signal: Tensor, generator: np.random.Generator, settings: CbctSettings) -> Tensor:
    """Detector lag, then photon and electronic noise. Share of the open beam in and out [1]."""
    before = torch.roll(signal, 1, dims=0)  # the ghost of the view before
    signal = (1 - settings.lag) * signal + settings.lag * before
    if not settings.noise:
        return signal
    photons = generator.poisson(signal.numpy() * settings.photons).astype(np.float32)
    photons += settings.electronic_noise * generator.standard_normal(photons.shape, dtype=np.float32)
    return torch.from_numpy(photons / np.float32(settings.photons))


def to_water_path(counts: Tensor, settings: CbctSettings) -> Tensor:
    """Detected share of the open beam -> mm of water, by the calibration that the machine makes with water slabs."""
    counts = counts.clamp(min=2 / settings.photons)  # photon starvation behind metal
    if not settings.beam_hardening:
        return -torch.log(counts) / effective_water_per_mm()
    path_mm = torch.linspace(0, 1200, 2401, dtype=torch.float64)
    measured = -torch.log(transmit(path_mm, torch.zeros_like(path_mm), beam_hardening=True))
    return torch.from_numpy(np.interp(-np.log(counts.numpy()), measured.numpy(), path_mm.numpy()).astype(np.float32))
