"""From a CT in HU to the cone-beam CT of the same patient, as a linac's on-board imager takes it.

`simulate_cbct` works on any (z, y, x) grid in HU, of the phantom or of a real patient's CT; `acquire_cbct` also returns
what lies between: projections, scatter, what the detector counted, the corrected data.

One view is: line integrals through water, bone and metal -> a polychromatic beam behind a bowtie -> plus scatter ->
detector (lag, photon and electronic noise, pixels of unequal gain) -> minus the scatter as the machine estimates it ->
logarithm and water calibration -> FDK.  Motion and truncation come in where they do in life, in the line integrals.
"""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_fill_holes, gaussian_filter
from torch import Tensor

from phantom.beam import Beam
from phantom.composition import check_kvp, split_materials
from phantom.conebeam import (
    EVERYWHERE,
    ConeBeam,
    Surroundings,
    forward_project,
    reconstruct_fdk,
    surroundings_paths,
)

SLAB_MM = 180.0  # of water, a head's width: there the scatter-to-primary ratio is defined
TISSUE_HU = 40.0  # what fills the throat during a swallow
SWALLOW_HEIGHT_MM = 30.0  # of the throat is shut (our choice)


@dataclass(frozen=True)
class CbctSettings:
    """A linac's head scan: 100 kVp, full fan with bowtie, 200 degrees (the head protocol of a Varian OBI, roughly).

    Geometry as of that machine: source 1000 mm from the axis and 1500 mm from a detector 397 mm wide, 148 mm aside in a
    half-fan scan. In z the detector covers the whole volume (our choice; the real one covers 17 cm). All other values
    our choice, set against the real scan in compare_catphan.py and for a cohort whose raw CBCTs lie, on average, inside
    the 33-100 HU (MAE in the body) in print for head and neck; PHANTOM.md has the measured figures. A pair (low, high)
    is drawn evenly for each scan.
    """

    fan: str = "full"  # "full", or "half": detector aside, full circle, wide field
    arc_degree: float = 200.0  # 360, or a short scan of at least 180 + fan angle with Parker weights
    views: int = 150
    kvp: float = 100.0
    filter_mm_al: float = 4.0
    bowtie_mm_al: float = 28.0  # at the detector's edge, 0 in the middle
    source_isocentre_mm: float = 1000.0
    source_detector_mm: float = 1500.0
    detector_width_mm: float = 397.0
    half_fan_offset_mm: float = 148.0
    detector_pixel: float = 0.6  # width at the isocentre, in voxels
    photons_log10: tuple[float, float] = (4.6, 5.2)  # per view and mm2 at the isocentre, before the bowtie
    electronic_noise: float = 4.0  # standard deviation per pixel, in photons
    scatter_to_primary: tuple[float, float] = (0.25, 0.6)  # behind a wide slab of SLAB_MM of water
    scatter_left: tuple[float, float] = (0.03, 0.15)  # share that the imperfect correction leaves
    scatter_width_mm: float = 70.0  # at the detector
    lag: float = 0.03  # share of the signal that is read out later
    lag_decay: float = 0.75  # of that rest, from view to view
    ring_gain: float = 0.001  # standard deviation of the pixels' gain after flat-field correction
    drift_mm: tuple[float, float] = (0.0, 0.6)  # standard deviation of the patient's place between quarters of the scan
    swallow_chance: float = 0.3  # the throat is shut during `swallow_share` of the views
    swallow_share: float = 0.12
    hann_cutoff: float = 1.8  # of the reconstruction filter, x Nyquist of the detector
    beam_hardening: bool = True
    noise: bool = True

    def __post_init__(self):
        if self.fan not in ("full", "half"):
            raise ValueError(f'CBCT fan "{self.fan}": expected "full" or "half"')
        if self.fan == "half" and self.arc_degree < 360:
            raise ValueError(f"CBCT: a half-fan scan needs arc_degree = 360, not {self.arc_degree:g}")
        if self.views < 1:
            raise ValueError(f"CBCT views = {self.views}: at least 1")
        if self.detector_pixel <= 0:
            raise ValueError(f"CBCT detector_pixel = {self.detector_pixel:g}: expected more than 0 voxels")
        check_kvp(self.kvp)

    @property
    def beam(self) -> Beam:
        return Beam(self.kvp, self.filter_mm_al, self.beam_hardening)


# a scan without imperfections but its geometry: CbctSettings(**IDEAL)
IDEAL = {"beam_hardening": False, "noise": False, "scatter_to_primary": (0.0, 0.0), "lag": 0.0, "ring_gain": 0.0,
         "drift_mm": (0.0, 0.0), "swallow_chance": 0.0}


@dataclass(frozen=True)
class CbctScan:
    """One scan and all that came before its picture. Tensors (view, v, u).

    paths_mm (view, 3, v, u): line integrals of the parts that `split_materials` tells apart; primary and scatter: share
    of the beam before the bowtie; counts: what the detector gave; water_path_mm: after all corrections; hu: (z, y, x).
    """

    geometry: ConeBeam
    photons: float
    scatter_to_primary: float
    scatter_left: float
    paths_mm: Tensor
    primary: Tensor
    scatter: Tensor
    counts: Tensor
    water_path_mm: Tensor
    hu: np.ndarray


def simulate_cbct(ct_hu: np.ndarray, spacing_mm: tuple[float, float, float],
                  random: int | np.random.Generator = 0, settings: CbctSettings = CbctSettings(),
                  surroundings: Surroundings | None = None, device: str | None = None) -> np.ndarray:
    """Scan a CT volume with a cone beam and reconstruct it.

    ct_hu: (z, y, x) [HU], z the axis of rotation; spacing_mm = (dz, dy, dx); `random`: a seed or a generator;
    surroundings: the patient beyond the volume, without which it goes on above and below as its end slices do, and has
    nothing at its sides; device: "cuda", "cpu", by default a GPU if there is one
    -> (z, y, x) float32 [HU] on the same grid. Outside the circle that the detector sees, air.
    """
    return acquire_cbct(ct_hu, spacing_mm, random, settings, surroundings, device).hu


def acquire_cbct(ct_hu: np.ndarray, spacing_mm: tuple[float, float, float],
                 random: int | np.random.Generator = 0, settings: CbctSettings = CbctSettings(),
                 surroundings: Surroundings | None = None, device: str | None = None) -> CbctScan:
    """`simulate_cbct` with all intermediate results."""
    generator = np.random.default_rng(random)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    photons = 10 ** generator.uniform(*settings.photons_log10)
    scatter_to_primary, scatter_left = (generator.uniform(*pair)
                                        for pair in (settings.scatter_to_primary, settings.scatter_left))
    scan = scan_for(ct_hu.shape, spacing_mm, patient_radius_mm(ct_hu, spacing_mm), settings)
    paths_mm = line_integrals(ct_hu, spacing_mm, scan, generator, settings, surroundings, device)
    beam, bowtie_mm = settings.beam, bowtie_of(scan, settings).to(device)
    primary = beam.transmit(paths_mm, bowtie_mm)
    scatter = scatter_to_primary * scatter_behind(primary, beam.transmit(None, bowtie_mm), scan, settings)
    pixel_photons = photons * scan.pixel_u_mm * scan.pixel_v_mm
    counts = detect(primary + scatter, pixel_photons, generator, settings)
    corrected = (counts - (1 - scatter_left) * scatter).clamp(min=2 / pixel_photons)  # photon starvation
    water_path_mm = beam.water_path(corrected, bowtie_mm)
    relative = reconstruct_fdk(water_path_mm, spacing_mm, ct_hu.shape, scan, settings.hann_cutoff).cpu().numpy()
    hu = np.clip((relative - 1) * 1000, -1000, 3071).astype(np.float32)
    return CbctScan(scan, float(photons), float(scatter_to_primary), float(scatter_left), paths_mm, primary, scatter,
                    counts, water_path_mm, hu)


def scan_for(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], radius_mm: float,
             settings: CbctSettings) -> ConeBeam:
    """The detector, no wider than the patient (radius_mm) needs, high enough for every slice at every angle."""
    dz, dy, dx = spacing_mm
    distance = settings.source_isocentre_mm
    if radius_mm >= distance:
        raise ValueError(f"CBCT: the patient reaches {radius_mm:.0f} mm from the axis, the source stands at "
                         f"{distance:.0f} mm; check the spacing {spacing_mm} (mm)")
    magnification = settings.source_detector_mm / distance
    offset = settings.half_fan_offset_mm / magnification if settings.fan == "half" else 0.0
    needed = radius_mm / math.sqrt(1 - (radius_mm / distance) ** 2)
    pixel_u_mm = settings.detector_pixel * min(dy, dx)
    half_detector = settings.detector_width_mm / magnification / 2
    right = min(half_detector + offset, needed)
    left = min(half_detector - offset, needed)
    n_u = 2 * math.ceil((left + right) / pixel_u_mm / 2)
    half_v_mm = shape[0] * dz / 2 * distance / (distance - min(radius_mm, right))
    pixel_v_mm = dz / 2  # finer than the slices, so that the detector does not blur them
    return ConeBeam(settings.views, n_u, 2 * math.ceil(half_v_mm / pixel_v_mm), pixel_u_mm, pixel_v_mm, distance,
                    (right - left) / 2 if settings.fan == "half" else 0.0, settings.arc_degree)


def patient_radius_mm(ct_hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Radius of the circle around the axis that holds the patient, plus a margin; the table outside it is not seen."""
    y_mm, x_mm = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(ct_hu.shape[1:], spacing_mm[1:], strict=True))
    radius = np.hypot(y_mm[:, None], x_mm[None, :])
    occupied = (ct_hu > -700).any(axis=0)
    return float(radius[occupied].max(initial=50.0)) + 6.0


def line_integrals(ct_hu: np.ndarray, spacing_mm: tuple[float, float, float], scan: ConeBeam,
                   generator: np.random.Generator, settings: CbctSettings, surroundings: Surroundings | None,
                   device: torch.device) -> Tensor:
    """Paths (view, 3, v, u) through a patient who drifts from quarter to quarter of the scan and may swallow once."""
    parts = split_materials(ct_hu)
    parts = torch.from_numpy(parts if parts[2].any() else parts[:2]).to(device)
    radius_mm = patient_radius_mm(ct_hu, spacing_mm) + 3 * settings.drift_mm[1]
    box_mm = tuple(n * step for n, step in zip(ct_hu.shape, spacing_mm, strict=True))
    low, high = EVERYWHERE
    if surroundings is not None:
        around = torch.from_numpy(split_materials(surroundings.hu)[:len(parts)]).to(device)
        low, high = surroundings.box_heights_mm(box_mm[0])
    shifts_mm = generator.normal(0, 1, (4, 3)) * generator.uniform(*settings.drift_mm)
    shifts_mm -= shifts_mm.mean(axis=0)
    quarters = [range(q * scan.n_views // 4, (q + 1) * scan.n_views // 4) for q in range(4)]
    if not shifts_mm.any():
        shifts_mm, quarters = shifts_mm[:1], [range(scan.n_views)]
    paths_mm = torch.zeros(scan.n_views, 3, scan.n_v, scan.n_u, device=device)
    for views, shift_mm in zip(quarters, shifts_mm.tolist(), strict=True):
        block = paths_mm[views.start:views.stop, :len(parts)]
        heights_mm = (low + shift_mm[0], high + shift_mm[0])
        block += forward_project(parts, spacing_mm, scan, radius_mm, shift_mm, heights_mm, views)
        if surroundings is not None:
            block += surroundings_paths(around, surroundings, box_mm, scan, shift_mm, views)
    if generator.random() < settings.swallow_chance:
        add_swallow(paths_mm, ct_hu, spacing_mm, scan, radius_mm, generator, settings)
    return paths_mm


def add_swallow(paths_mm: Tensor, ct_hu: np.ndarray, spacing_mm: tuple[float, float, float], scan: ConeBeam,
                radius_mm: float, generator: np.random.Generator, settings: CbctSettings) -> None:
    """Shut the throat for a run of views: soft tissue where air was, in place. Nothing where no throat is found."""
    start, where = generator.random(2)
    n = round(settings.swallow_share * scan.n_views)
    first = int(start * (scan.n_views - n))
    lower = slice(0, ct_hu.shape[0] * 3 // 5)
    middle = ct_hu.shape[2] // 2
    reach = int(25 / spacing_mm[2])  # the lungs lie further from the middle
    air = np.zeros(ct_hu.shape, bool)
    for k in range(lower.stop):
        body = ct_hu[k] > -400
        air[k, :, middle - reach:middle + reach] = (binary_fill_holes(body) & ~body)[:, middle - reach:middle + reach]
    slices = np.flatnonzero(air.sum(axis=(1, 2)) * spacing_mm[1] * spacing_mm[2] > 40)  # mm2
    if n == 0 or len(slices) == 0:
        return
    centre = slices[int(where * len(slices))]
    half = max(1, round(SWALLOW_HEIGHT_MM / 2 / spacing_mm[0]))
    low, high = max(0, centre - half), min(ct_hu.shape[0], centre + half)
    closing = np.where(air[low:high], TISSUE_HU - ct_hu[low:high], 0).astype(np.float32) / 1000
    centre_mm = ((low + high - ct_hu.shape[0]) / 2 * spacing_mm[0], 0.0, 0.0)
    heights_mm = tuple((k - ct_hu.shape[0] / 2) * spacing_mm[0] for k in (low, high))
    paths_mm[first:first + n, :1] += forward_project(torch.from_numpy(closing)[None].to(paths_mm.device), spacing_mm,
                                                     scan, radius_mm, centre_mm, heights_mm, range(first, first + n))


def bowtie_of(scan: ConeBeam, settings: CbctSettings) -> Tensor:
    """(u,) aluminium in the beam [mm]: none in the middle, `bowtie_mm_al` at the detector's far edge. Our choice."""
    edge_mm = settings.detector_width_mm / 2 + (settings.half_fan_offset_mm if settings.fan == "half" else 0.0)
    edge_mm *= settings.source_isocentre_mm / settings.source_detector_mm
    return settings.bowtie_mm_al * (1 - torch.sqrt((1 - (scan.u_mm() / edge_mm) ** 2).clamp(min=0)))


def scatter_behind(primary: Tensor, air: Tensor, scan: ConeBeam, settings: CbctSettings) -> Tensor:
    """Scattered share of the beam on the detector [1], as a multiple of scatter_to_primary.

    The forward-scatter potential I ln(I0 / I) of each ray, spread wide (Ohnesorge, Flohr, Klingenbeck-Regn 1999), and
    scaled to 1 x the primary behind a wide slab of SLAB_MM of water. Computed on every fourth pixel: it is smooth.
    """
    potential = primary * torch.log(air / primary.clamp(min=1e-9)).clamp(min=0)
    coarse = F.avg_pool2d(potential[:, None], 4, ceil_mode=True, count_include_pad=False)[:, 0].cpu().numpy()
    magnification = settings.source_detector_mm / settings.source_isocentre_mm
    sigma = [settings.scatter_width_mm / magnification / (4 * pixel) for pixel in (scan.pixel_v_mm, scan.pixel_u_mm)]
    spread = torch.from_numpy(gaussian_filter(coarse, (0, *sigma), mode="nearest")).to(primary.device)
    spread = F.interpolate(spread[:, None], size=primary.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    return spread / settings.beam.slab_attenuation(SLAB_MM)


def detect(signal: Tensor, pixel_photons: float, generator: np.random.Generator, settings: CbctSettings) -> Tensor:
    """Detector lag, photon and electronic noise, unequal pixels. Share of the beam in and out [1]."""
    if settings.lag > 0:
        ghost, lagged = signal[0].clone(), torch.empty_like(signal)
        for view in range(len(signal)):
            lagged[view] = (1 - settings.lag) * signal[view] + settings.lag * ghost
            ghost = settings.lag_decay * ghost + (1 - settings.lag_decay) * signal[view]
        signal = lagged
    if settings.noise:
        photons = generator.poisson(signal.cpu().numpy() * pixel_photons).astype(np.float32)
        photons += settings.electronic_noise * generator.standard_normal(photons.shape, dtype=np.float32)
        signal = torch.from_numpy(photons / np.float32(pixel_photons)).to(signal.device)
    if settings.ring_gain > 0:
        gain = 1 + settings.ring_gain * generator.standard_normal(signal.shape[1:], dtype=np.float32)
        signal = signal * torch.from_numpy(gain).to(signal.device)
    return signal
