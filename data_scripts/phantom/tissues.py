"""Tissue values at 120 kVp and 3 T, and their variation from case to case.

Origin of the numbers: HU of soft tissue and bone start from ICRU-44 compositions at 120 kVp (muscle +43, adipose -80 to
-89, brain +38, blood +57, spongiosa +315 to +363, cortical bone +1668, lowered here for partial volume). T1, T2 at 3 T
lie between those of Wansapura 1999, Stanisz 2005 and de Bazelaire 2004 where these measured the tissue (fat, muscle,
grey and white matter, marrow, cartilage, nerve, cord). All other T1, T2, and every PD, gadolinium concentration and
texture strength are our choice. A teaching table, not a reference.
"""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantom.mri import T1C, T2W, spin_echo


@dataclass(frozen=True)
class Tissue:
    """hu: mean; hu_texture: standard deviation of fine texture [HU]; T1, T2 [ms]; proton density [1]; Gd [mM]."""

    name: str
    hu: float
    hu_texture: float
    t1_ms: float
    t2_ms: float
    proton_density: float
    gadolinium_mm: float


TISSUES = (
    Tissue("air", -1000, 2, 1, 1, 0, 0),
    Tissue("skin", 60, 12, 1000, 45, 0.55, 0.25),
    Tissue("fat", -95, 9, 380, 115, 0.92, 0.01),
    Tissue("muscle", 52, 9, 1350, 38, 0.8, 0.06),
    Tissue("grey matter", 38, 4, 1450, 92, 0.84, 0.012),
    Tissue("white matter", 28, 4, 880, 70, 0.72, 0.008),
    Tissue("csf", 6, 4, 4200, 1400, 1, 0),
    Tissue("cortical bone", 1350, 140, 400, 2, 0.1, 0),
    Tissue("spongy bone", 380, 90, 480, 60, 0.45, 0.05),
    Tissue("disc", 85, 10, 1150, 60, 0.7, 0.03),
    Tissue("cartilage", 110, 25, 1200, 35, 0.6, 0.05),
    Tissue("mucosa", 45, 8, 1350, 75, 0.85, 0.42),
    Tissue("parotid", 8, 16, 900, 80, 0.86, 0.22),
    Tissue("submandibular", 42, 8, 1150, 78, 0.85, 0.24),
    Tissue("vessel", 52, 4, 1900, 60, 0.85, 0.5),
    Tissue("artery", 52, 4, 1900, 3, 0.05, 0),
    Tissue("tumour", 46, 7, 1450, 88, 0.88, 0.36),
    Tissue("necrosis", 22, 5, 2600, 180, 0.95, 0.02),
    Tissue("vitreous", 10, 4, 4000, 900, 1, 0),
    Tissue("lens", 80, 5, 1400, 30, 0.6, 0),
    Tissue("nerve", 38, 5, 1000, 72, 0.72, 0.02),
    Tissue("enamel", 2400, 250, 300, 1, 0.02, 0),
    Tissue("dentin", 1500, 120, 300, 1, 0.04, 0),
    Tissue("thyroid", 110, 10, 1150, 72, 0.85, 0.55),
    Tissue("cord", 38, 3, 950, 76, 0.76, 0.01),
    Tissue("brainstem", 32, 3, 1050, 76, 0.76, 0.01),
    Tissue("dura", 60, 5, 1300, 45, 0.6, 0.45),
    Tissue("lymph node", 42, 6, 1300, 78, 0.86, 0.28),
    Tissue("metal", 8000, 0, 1, 1, 0, 0),
    Tissue("cerebellum", 36, 4, 1300, 86, 0.82, 0.012),
    Tissue("pituitary", 45, 4, 1200, 75, 0.82, 0.55),
    Tissue("fluid", 12, 5, 2500, 300, 0.95, 0),
)
TISSUE_ID = {tissue.name: index for index, tissue in enumerate(TISSUES)}


def case_signals(generator: np.random.Generator) -> np.ndarray:
    """This patient's mean signals: (tissue, 3) of HU, T1c and T2w signal [1].

    T1, T2 and PD vary by 6, 7 and 3 %, HU by 3 HU or 5 %; the gadolinium dose by 30 % and its uptake by 15 %.
    """
    gadolinium_dose = generator.uniform(0.7, 1.3)
    signals = np.zeros((len(TISSUES), 3), np.float32)
    for row, tissue in zip(signals, TISSUES, strict=True):
        t1, t2, density, uptake, hu_shift = generator.normal(0, (0.06, 0.07, 0.03, 0.15, 1.0))
        relaxation = (tissue.t1_ms * np.exp(t1), tissue.t2_ms * np.exp(t2), tissue.proton_density * np.exp(density))
        gadolinium = tissue.gadolinium_mm * gadolinium_dose * np.exp(uptake)
        row[0] = tissue.hu + hu_shift * (3 if tissue.hu < 200 else 0.05 * tissue.hu)
        row[1] = spin_echo(*relaxation, gadolinium, T1C)
        row[2] = spin_echo(*relaxation, 0.0, T2W)  # T2w is acquired before the injection
    signals[TISSUE_ID["air"]] = (-1000, 0, 0)
    return signals


def texture_strength() -> np.ndarray:
    """(tissue,) standard deviation of the CT texture [HU]."""
    return np.array([tissue.hu_texture for tissue in TISSUES], np.float32)
