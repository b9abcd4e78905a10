"""A polychromatic x-ray beam: what it lets through water, bone and metal, and the water calibration of its detector."""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from phantom.composition import HARDENED_BY_MM, WATER, attenuation_of_parts, linear_attenuation, spectrum

LONGEST_PATH_MM = 700.0  # of water, as far as the calibration goes


@dataclass(frozen=True)
class Beam:
    """Tube voltage and filter; polychromatic=False: the one energy that the beam has on average behind a head."""

    kvp: float
    filter_mm_al: float
    polychromatic: bool = True

    @cached_property
    def energies(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Share of the signal (e,), attenuation of the parts of `split_materials` (3, e), of aluminium (e,) [1/mm]."""
        energy_kev, share = spectrum(self.kvp, self.filter_mm_al)
        parts, aluminium = attenuation_of_parts(energy_kev), linear_attenuation({"Al": 1.0}, 2.70, energy_kev)
        if self.polychromatic:
            return share, parts, aluminium
        hardened = share * np.exp(-linear_attenuation(WATER, 1.0, energy_kev) * HARDENED_BY_MM)
        hardened /= hardened.sum()
        water = hardened @ parts[0]
        return np.ones(1), np.array([[water], [water], [hardened @ parts[2]]]), np.array([hardened @ aluminium])

    def transmit(self, paths_mm: Tensor | None, bowtie_mm: Tensor) -> Tensor:
        """Detected share of the beam (view, v, u) behind paths_mm (view, part, v, u) and aluminium bowtie_mm (u,).

        Without a patient (None): (u,).  Parts missing at the end are absent.
        """
        share, parts, aluminium = self.energies
        signal = 0.0
        for e, weight in enumerate(share.tolist()):
            attenuation = float(aluminium[e]) * bowtie_mm
            if paths_mm is not None:
                for part in range(paths_mm.shape[1]):
                    attenuation = attenuation + float(parts[part, e]) * paths_mm[:, part]
            signal = signal + weight * torch.exp(-attenuation)
        return signal

    def slab_attenuation(self, water_mm: float) -> float:
        """-ln of the share that a slab of water lets through."""
        share, parts, _ = self.energies
        return -math.log(float(share @ np.exp(-parts[0] * water_mm)))

    def water_path(self, signal: Tensor, bowtie_mm: Tensor) -> Tensor:
        """Detected share of the beam -> mm of water, by the calibration that the machine makes with water slabs.

        A polynomial in -ln(signal / open beam) for each detector column, because the bowtie hardens the beam
        differently in each (Herman, Phys Med Biol 24 (1979) 81).
        """
        path_mm = torch.linspace(0, LONGEST_PATH_MM, 141, dtype=torch.float64)
        bowtie = bowtie_mm.double().cpu()
        open_beam = torch.log(self.transmit(None, bowtie))
        measured = open_beam - torch.log(self.transmit(path_mm[:, None, None, None], bowtie)[:, 0])  # path u
        powers = torch.arange(1, 6)
        terms = measured.T[..., None] ** powers  # u path power
        coefficients = torch.linalg.lstsq(terms, path_mm.expand(len(bowtie), -1)[..., None]).solution[..., 0]  # u power
        logarithm = open_beam.to(signal) - torch.log(signal)
        path = torch.zeros_like(logarithm)
        for k in reversed(range(len(powers))):
            path = (path + coefficients[:, k].to(signal)) * logarithm
        return path
