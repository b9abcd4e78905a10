"""Magnetic resonance: the signal equations, and what a scanner does between the patient and the stored picture.

One examination is one `MrProtocol`; each of its volumes goes, step by step, through `saturate_fat`, `dim_by_metal`,
`dephase`, `displace_readout`, `through_kspace` (truncation, ghosts, noise) and `store`. `acquire` is their order.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from phantom.grid import Grid, Streams

GYROMAGNETIC_HZ_PER_T = 42.577e6
FAT_SHIFT_PPM = 3.4  # fat's main line below water: the textbook value
AIR_SUSCEPTIBILITY_PPM = 9.4  # air against tissue: Schenck, Med Phys 23 (1996) 815
# Gadobutrol in plasma at 37 degrees [1 / (mM s)]: Rohrer et al., Invest Radiol 40 (2005) 715
RELAXIVITIES = {1.5: (5.2, 6.1), 3.0: (5.0, 7.1)}
R2_PRIME_PER_S_T = 8.0  # static dephasing inside a voxel of tissue, per tesla: our choice


@dataclass(frozen=True)
class SpinEcho:
    repetition_ms: float
    echo_ms: float


@dataclass(frozen=True)
class GradientEcho:
    """A spoiled gradient echo (FLASH, SPGR)."""

    repetition_ms: float
    echo_ms: float
    flip_degree: float


T1C = SpinEcho(repetition_ms=600, echo_ms=11)
T2W = SpinEcho(repetition_ms=4000, echo_ms=92)
# Echo times at which fat and water are in phase; repetition and flip angle of a usual 3-D T1: our choice
T1_GRADIENT_ECHO = {1.5: GradientEcho(7.6, 4.6, 15), 3.0: GradientEcho(6.0, 2.3, 15)}


@dataclass(frozen=True)
class MrSettings:
    """The MR scanners of the cohort. Shares are of the patients; pairs are ranges, drawn per patient. Our choice."""

    share_3t: float = 1.0  # the others are examined at 1.5 T
    gradient_echo_share: float = 0.0  # T1c as a spoiled gradient echo instead of a spin echo
    t1c_fat_saturation_share: float = 0.0
    t2w_fat_saturation_share: float = 0.0
    fat_saturation_quality: tuple[float, float] = (0.75, 0.97)  # share of the fat signal that is removed
    gadolinium_dose: tuple[float, float] = (0.6, 1.4)  # relative to the usual dose; (0, 0): before the injection
    timing_spread: float = 0.03  # standard deviation of ln TR and ln TE between protocols
    texture: float = 0.05  # relative signal variation inside a tissue
    bias: tuple[float, float] = (0.08, 0.24)  # standard deviation of the logarithm of the coil's sensitivity
    snr: tuple[float, float] = (18.0, 45.0)  # bright tissue over the noise of one channel
    read_resolution: tuple[float, float] = (0.8, 1.0)  # share of the grid's in-plane frequencies acquired
    phase_resolution: tuple[float, float] = (0.62, 0.9)
    slice_mm: tuple[float, float] = (3.0, 5.5)  # thickness and distance of the acquired slices
    ghost: tuple[float, float] = (0.0, 0.08)  # modulation of the phase-encoding steps by motion
    susceptibility: bool = True  # air distorts the readout and dephases gradient echoes
    bandwidth_hz: float = 400.0  # per pixel: how far an offset in frequency displaces the signal
    chemical_shift: bool = False  # displace fat by its 3.4 ppm
    metal_void_mm: tuple[float, float] = (4.0, 8.0)  # reach of the void around dental metal
    full_scale: tuple[float, float] = (300.0, 2500.0)  # stored value of the 99.5th percentile
    window: tuple[float, float] = (1.0, 1.5)  # where the stored values saturate, over that percentile

    def __post_init__(self):
        if min(self.slice_mm) <= 0:
            raise ValueError(f"MR slice_mm = {list(self.slice_mm)}: expected more than 0 mm")


@dataclass(frozen=True)
class MrProtocol:
    """One patient's examination. gadolinium: dose, 1 = the usual 0.1 mmol/kg, 0 = before the injection."""

    field_tesla: float = 3.0
    t1: SpinEcho | GradientEcho = T1C
    t2: SpinEcho = T2W
    t1c_fat_saturated: bool = False
    t2w_fat_saturated: bool = False
    gadolinium: float = 1.0

    def sequence(self, modality: str) -> SpinEcho | GradientEcho:
        return self.t1 if modality == "T1c" else self.t2

    def is_fat_saturated(self, modality: str) -> bool:
        return self.t1c_fat_saturated if modality == "T1c" else self.t2w_fat_saturated


def draw_protocol(streams: Streams, settings: MrSettings) -> MrProtocol:
    g = streams("MR protocol")
    field = 3.0 if g.random() < settings.share_3t else 1.5
    gradient, t1_saturated, t2_saturated = g.random(3) < (
        settings.gradient_echo_share, settings.t1c_fat_saturation_share, settings.t2w_fat_saturation_share)
    t1_tr, t1_te, t2_tr, t2_te = np.exp(g.normal(0, settings.timing_spread, size=4))
    t1 = SpinEcho(T1C.repetition_ms * float(t1_tr), T1C.echo_ms * float(t1_te))
    return MrProtocol(
        field_tesla=field,
        t1=T1_GRADIENT_ECHO[field] if gradient else t1,
        t2=SpinEcho(T2W.repetition_ms * float(t2_tr), T2W.echo_ms * float(t2_te)),
        t1c_fat_saturated=bool(t1_saturated),
        t2w_fat_saturated=bool(t2_saturated),
        gadolinium=float(g.uniform(*settings.gadolinium_dose)),
    )


# ----------------------------------------------------------------------------------------------------- signal equations
def relaxation_rates(t1_ms: float, t2_ms: float, gadolinium_mm: float, field_tesla: float = 3.0) -> tuple[float, float]:
    """R1, R2 [1/ms]; gadolinium raises both linearly with its concentration [mM]."""
    r1, r2 = RELAXIVITIES[field_tesla]
    return 1 / t1_ms + r1 * gadolinium_mm / 1000, 1 / t2_ms + r2 * gadolinium_mm / 1000


def spin_echo(t1_ms: float, t2_ms: float, proton_density: float, gadolinium_mm: float, sequence: SpinEcho,
              field_tesla: float = 3.0) -> float:
    """Signal of a spin echo [1]: PD (1 - exp(-TR R1)) exp(-TE R2)."""
    rate_1, rate_2 = relaxation_rates(t1_ms, t2_ms, gadolinium_mm, field_tesla)
    return proton_density * (1 - np.exp(-sequence.repetition_ms * rate_1)) * np.exp(-sequence.echo_ms * rate_2)


def gradient_echo(t1_ms: float, t2_ms: float, proton_density: float, gadolinium_mm: float, sequence: GradientEcho,
                  field_tesla: float = 3.0) -> float:
    """Signal of a spoiled gradient echo [1]: PD sin(a) (1 - E1) / (1 - E1 cos(a)) exp(-TE R2*), E1 = exp(-TR R1).

    Source: Ernst and Anderson, Rev Sci Instrum 37 (1966) 93; R2* = R2 + R2', R2' growing with the field.
    """
    rate_1, rate_2 = relaxation_rates(t1_ms, t2_ms, gadolinium_mm, field_tesla)
    rate_2_star = rate_2 + R2_PRIME_PER_S_T * field_tesla / 1000
    flip, e1 = np.radians(sequence.flip_degree), np.exp(-sequence.repetition_ms * rate_1)
    steady = np.sin(flip) * (1 - e1) / (1 - e1 * np.cos(flip))
    return proton_density * steady * np.exp(-sequence.echo_ms * rate_2_star)


def signal_of(t1_ms: float, t2_ms: float, proton_density: float, gadolinium_mm: float,
              sequence: SpinEcho | GradientEcho, field_tesla: float = 3.0) -> float:
    equation = spin_echo if isinstance(sequence, SpinEcho) else gradient_echo
    return equation(t1_ms, t2_ms, proton_density, gadolinium_mm, sequence, field_tesla)


# -------------------------------------------------------------------------------------------------- what a scanner does
def saturate_fat(signal: np.ndarray, fat: np.ndarray, grid: Grid, generator: np.random.Generator,
                 quality: float) -> tuple[np.ndarray, np.ndarray]:
    """Signal and its fat part (z, y, x) after a saturation pulse; where the field is off, it misses -> the same two."""
    missed = np.clip(0.8 * grid.smooth_noise(generator, 110) - 0.9, 0, 1)  # here and there, our choice
    left = 1 - quality * (1 - missed)
    return signal - fat * (1 - left), fat * left


def dim_by_metal(signal: np.ndarray, metal_mm: np.ndarray | None, void_mm: float) -> np.ndarray:
    """Signal void around metal: metal_mm, distance to it (z, y, x) [mm], or None; void_mm, its reach."""
    return signal if metal_mm is None else signal * (1 - np.exp(-metal_mm ** 2 / (2 * void_mm ** 2)))


def field_offset_ppm(is_air: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Relative field that air in and around the patient adds, B0 along z: (z, y, x) bool -> [ppm], mean 0 in tissue.

    Convolution with the dipole kernel 1/3 - kz^2 / k^2: Marques and Bowtell, Concepts Magn Reson B 25 (2005) 65.
    """
    pad = [(n // 4, n // 4) for n in is_air.shape]
    air = np.pad(is_air.astype(np.float32), pad, mode="edge")
    kz, ky, kx = np.meshgrid(np.fft.fftfreq(air.shape[0], spacing_mm[0]), np.fft.fftfreq(air.shape[1], spacing_mm[1]),
                             np.fft.rfftfreq(air.shape[2], spacing_mm[2]), indexing="ij", sparse=True)
    squared = kz ** 2 + ky ** 2 + kx ** 2
    squared[0, 0, 0] = 1
    kernel = torch.from_numpy((1 / 3 - kz ** 2 / squared).astype(np.float32))
    field = torch.fft.irfftn(torch.fft.rfftn(torch.from_numpy(air)) * kernel, s=air.shape).numpy()
    field = field[tuple(slice(before, before + n) for (before, _), n in zip(pad, is_air.shape, strict=True))]
    return (AIR_SUSCEPTIBILITY_PPM * (field - field[~is_air].mean())).astype(np.float32)


def dephase(signal: np.ndarray, field_ppm: np.ndarray, echo_ms: float, field_tesla: float) -> np.ndarray:
    """Gradient echo: spins of one voxel fan out by the field's slope across it, |sinc(cycles)| along each axis."""
    cycles_per_ppm = GYROMAGNETIC_HZ_PER_T * field_tesla * 1e-6 * echo_ms / 1000
    for axis in range(3):
        signal = signal * np.abs(np.sinc(cycles_per_ppm * np.gradient(field_ppm, axis=axis))).astype(np.float32)
    return signal


def displace_readout(signal: np.ndarray, pixels: np.ndarray, axis: int) -> np.ndarray:
    """Signal (z, y, x) moved along the readout `axis` by `pixels` (z, y, x): what stands still is piled up or thinned.

    First order: S(x - d) (1 - dd/dx), which keeps the total where d varies slowly.
    """
    n = signal.shape[axis]
    at = np.arange(n, dtype=np.float32).reshape([-1 if a == axis else 1 for a in range(3)]) - pixels
    low = np.clip(np.floor(at), 0, n - 2).astype(np.int64)
    share = np.clip(at - low, 0, 1)
    moved = np.take_along_axis(signal, low, axis) * (1 - share) + np.take_along_axis(signal, low + 1, axis) * share
    return (moved * np.clip(1 - np.gradient(pixels, axis=axis), 0, 2)).astype(np.float32)


def through_kspace(signal: np.ndarray, generator: np.random.Generator, sigma: float = 0.0, read: float = 1.0,
                   phase: float = 1.0, phase_axis: int = 1, ghost: float = 0.0) -> np.ndarray:
    """Acquire slices (z, y, x) in k-space -> complex pictures on the same pixels.

    read, phase: share of the frequencies acquired along readout and phase encoding, sharply cut: Gibbs ringing.
    ghost: the patient's motion modulates the phase-encoding steps by this amplitude: displaced faint copies.
    sigma: standard deviation of the noise in the real and in the imaginary part of the picture.
    """
    kept = [phase, phase] if phase_axis == 1 else [read, read]
    kept[1] = read if phase_axis == 1 else phase
    masks = [acquired_steps(n, share) for n, share in zip(signal.shape[1:], kept, strict=True)]
    noise = generator.standard_normal((2, *signal.shape), dtype=np.float32)
    sigma = sigma / np.sqrt(masks[0].mean() * masks[1].mean())  # what is cut off takes its noise with it
    parts = (torch.from_numpy(np.asarray(part, np.float32)) for part in (signal + sigma * noise[0], sigma * noise[1]))
    kspace = torch.fft.fft2(torch.complex(*parts))
    if ghost > 0:
        kspace = kspace * torch.from_numpy(motion(signal.shape, phase_axis, ghost, generator))
    kspace = kspace * torch.from_numpy(masks[0][:, None] * masks[1][None, :])
    return torch.fft.ifft2(kspace).numpy()


def acquired_steps(n: int, share: float) -> np.ndarray:
    """(n,) 0 or 1 in FFT order: the central `share` of n frequencies."""
    return (np.abs(np.fft.fftfreq(n)) <= share / 2).astype(np.float32)


def motion(shape: tuple[int, int, int], phase_axis: int, amplitude: float,
           generator: np.random.Generator) -> np.ndarray:
    """Factor on the phase-encoding steps of each slice: breathing or swallowing, periodic over the acquisition."""
    n, cycles = shape[phase_axis], generator.uniform(0.08, 0.3)  # per step: ghosts 8-30 % of the field off
    steps = np.fft.fftfreq(n) * n
    factor = 1 + amplitude * np.cos(2 * np.pi * (cycles * steps[None, :] + generator.random((shape[0], 1))))
    return np.expand_dims(factor.astype(np.float32), 3 - phase_axis)


def slice_weights(grid: Grid, thickness_mm: float, offset_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of the acquired slices over the grid's, (slice, z), and of the way back by interpolation, (z, slice).

    A slice is a Gaussian profile of `thickness_mm` full width; slices lie `thickness_mm` apart.
    """
    first, last = grid.z_mm[0], grid.z_mm[-1]
    centres = np.arange(first + offset_mm - thickness_mm, last + thickness_mm, thickness_mm)
    width = max(thickness_mm, 0.8 * grid.spacing_mm[0]) / 2.355
    profile = np.exp(-((grid.z_mm[None, :] - np.clip(centres, first, last)[:, None]) / width) ** 2 / 2)
    back = np.clip(1 - np.abs(grid.z_mm[:, None] - centres[None, :]) / thickness_mm, 0, None)
    return ((profile / profile.sum(axis=1, keepdims=True)).astype(np.float32),
            (back / back.sum(axis=1, keepdims=True)).astype(np.float32))


def store(magnitude: np.ndarray, full_scale: float, window: float) -> np.ndarray:
    """Arbitrary units: the 99.5th percentile at `full_scale`, saturated `window` times higher."""
    scaled = magnitude / max(float(np.percentile(magnitude, 99.5)), 1e-12) * full_scale
    return np.clip(scaled, 0, window * full_scale).astype(np.float32)


def acquire(signal: np.ndarray, fat: np.ndarray, modality: str, grid: Grid, streams: Streams, protocol: MrProtocol,
            settings: MrSettings = MrSettings(), metal_mm: np.ndarray | None = None,
            is_air: np.ndarray | None = None) -> np.ndarray:
    """What the scanner stores of one ideal volume.

    signal: (z, y, x) [1]; fat: the part of it that fat gives; metal_mm: distance to metal [mm] or None; is_air: bool,
    needed for susceptibility -> (z, y, x) float32 [arbitrary units] on the same grid.
    """
    g = streams(f"{modality} scan")
    sequence = protocol.sequence(modality)
    phase_axis = int(g.integers(1, 3))
    draw = {name: float(g.uniform(*getattr(settings, name)))
            for name in ("fat_saturation_quality", "bias", "snr", "read_resolution", "phase_resolution", "slice_mm",
                         "ghost", "metal_void_mm", "full_scale", "window")}
    if protocol.is_fat_saturated(modality):
        signal, fat = saturate_fat(signal, fat, grid, streams(f"{modality} saturation"), draw["fat_saturation_quality"])
    void_mm = draw["metal_void_mm"] * (1.5 if isinstance(sequence, GradientEcho) else 1.0)
    signal, fat = (dim_by_metal(part, metal_mm, void_mm) for part in (signal, fat))
    hz_per_ppm = GYROMAGNETIC_HZ_PER_T * protocol.field_tesla * 1e-6
    if settings.chemical_shift:
        pixels = np.full(signal.shape, FAT_SHIFT_PPM * hz_per_ppm / settings.bandwidth_hz, np.float32)
        signal = signal - fat + displace_readout(fat, pixels, 3 - phase_axis)
    if settings.susceptibility and is_air is not None:
        field_ppm = field_offset_ppm(is_air, grid.spacing_mm)
        if isinstance(sequence, GradientEcho):
            signal = dephase(signal, field_ppm, sequence.echo_ms, protocol.field_tesla)
        signal = displace_readout(signal, field_ppm * (hz_per_ppm / settings.bandwidth_hz), 3 - phase_axis)
    stronger = 1.0 if protocol.field_tesla > 2 else 0.6  # standing waves grow with the field
    signal = signal * np.exp(stronger * draw["bias"] * (0.9 * grid.smooth_noise(streams(f"{modality} bias"), 200)
                                                        + 0.4 * grid.smooth_noise(streams(f"{modality} coils"), 100)))
    to_slices, to_grid = slice_weights(grid, draw["slice_mm"], float(g.uniform(0, draw["slice_mm"])))
    slices = np.tensordot(to_slices, signal, axes=(1, 0))
    bright = np.percentile(slices[slices > 0.1 * slices.max()], 70)
    picture = through_kspace(slices, g, bright / draw["snr"], draw["read_resolution"], draw["phase_resolution"],
                             phase_axis, draw["ghost"])
    return store(np.tensordot(to_grid, np.abs(picture), axes=(1, 0)), draw["full_scale"], draw["window"])
