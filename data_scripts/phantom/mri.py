"""Magnetic resonance: the spin-echo signal equation and what a scanner does to it."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter

from phantom.grid import Grid

# Relaxivity of a gadolinium chelate at 3 T [1 / (mM s)]: our choice, near the usual 4-5
RELAXIVITY_R1, RELAXIVITY_R2 = 4.5, 5.0


@dataclass(frozen=True)
class SpinEcho:
    repetition_ms: float
    echo_ms: float


T1C = SpinEcho(repetition_ms=600, echo_ms=11)
T2W = SpinEcho(repetition_ms=4000, echo_ms=92)


def spin_echo(t1_ms: float, t2_ms: float, proton_density: float, gadolinium_mm: float, sequence: SpinEcho) -> float:
    """Signal of a spin echo [1]: PD (1 - exp(-TR R1)) exp(-TE R2), gadolinium raising both rates linearly."""
    rate_1 = 1 / t1_ms + RELAXIVITY_R1 * gadolinium_mm / 1000  # per ms
    rate_2 = 1 / t2_ms + RELAXIVITY_R2 * gadolinium_mm / 1000
    return proton_density * (1 - np.exp(-sequence.repetition_ms * rate_1)) * np.exp(-sequence.echo_ms * rate_2)


def acquire(signal: np.ndarray, grid: Grid, generator: np.random.Generator) -> np.ndarray:
    """Ideal signal (z, y, x) -> what the scanner stores: blur, coil sensitivity, Rician noise, arbitrary scale.

    The in-plane blur, signal-to-noise ratio (25-45), and bias field (about +-25 %) are our choice.
    """
    blurred = gaussian_filter(signal, (0.35, 0.5, 0.5))
    bias = np.exp(0.16 * grid.smooth_noise(generator, 220) + 0.07 * grid.smooth_noise(generator, 110))
    received = blurred * bias
    sigma = np.percentile(received[received > 0.05], 70) / generator.uniform(25, 45)
    real, imaginary = sigma * generator.standard_normal((2, *signal.shape), dtype=np.float32)
    magnitude = np.hypot(received + real, imaginary)  # Rician: the magnitude of a noisy complex signal
    return (magnitude / np.percentile(magnitude, 99.5) * generator.uniform(600, 1400)).astype(np.float32)
