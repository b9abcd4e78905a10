"""The tissues: HU at 120 kVp, relaxation at 3 T and 1.5 T, and how both vary from patient to patient.

Origin of the numbers. HU: the composition's, from `composition.py`, plus what the table adds for fibrous septa, iodine
(thyroid), fatty lobules or the pores of bone and teeth, our choice. T1, T2 at 3 T lie between those of
Wansapura 1999, Stanisz 2005 and de Bazelaire 2004 where these measured the tissue (fat, muscle, grey and white matter,
cartilage, nerve, cord, blood); T1 at 1.5 T is T1 at 3 T times the ratio of the two in Stanisz 2005 (muscle 0.71, white
matter 0.82, cord, nerve and blood 0.75, cartilage 0.88), in de Bazelaire 2004 for fat (0.90), or by our choice: 0.75
for grey matter, 0.95 for necrosis, 1 for watery fluids, cortical bone and teeth, 0.78 elsewhere. All other T1, T2, and
every PD, fat share, gadolinium concentration and texture strength are our choice. A teaching table, not a reference.
"""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from phantom.composition import METAL_HU, hu_of_tissues
from phantom.mri import MrProtocol, signal_of


@dataclass(frozen=True)
class Tissue:
    """hu: mean; hu_texture: standard deviation of fine texture [HU]; T1, T2 of its water at 3 T [ms]; proton density
    [1]; Gd after the usual dose [mM]; fat_share of the protons [1]; t1_ratio: T1 at 1.5 T over T1 at 3 T."""

    name: str
    hu: float
    hu_texture: float
    t1_ms: float
    t2_ms: float
    proton_density: float
    gadolinium_mm: float
    fat_share: float
    t1_ratio: float

    def t1_at(self, field_tesla: float) -> float:
        return self.t1_ms * (self.t1_ratio if field_tesla == 1.5 else 1.0)


MATERIAL_HU = hu_of_tissues()


def of_material(name: str, hu_added: float, *properties: float) -> Tissue:
    return Tissue(name, MATERIAL_HU[name] + hu_added, *properties)


TISSUES = (
    of_material("air", 0, 2, 1, 1, 0, 0, 0, 1),
    of_material("skin", -10, 12, 1000, 45, 0.55, 0.25, 0, 0.78),
    of_material("fat", -10, 11, 380, 115, 0.92, 0.01, 1, 0.9),
    of_material("muscle", 8, 11, 1350, 38, 0.8, 0.06, 0, 0.71),
    of_material("grey matter", 0, 4, 1450, 92, 0.84, 0.012, 0, 0.75),
    of_material("white matter", -5, 4, 880, 70, 0.72, 0.008, 0, 0.82),
    of_material("csf", -6, 4, 4200, 1400, 1, 0, 0, 1),
    of_material("cortical bone", -300, 170, 400, 2, 0.1, 0, 0, 1),
    of_material("spongy bone", 40, 110, 1100, 40, 0.62, 0.05, 0.55, 0.78),
    of_material("disc", 0, 10, 1150, 60, 0.7, 0.03, 0, 0.78),
    of_material("cartilage", 5, 25, 1200, 35, 0.6, 0.05, 0, 0.88),
    of_material("mucosa", 20, 8, 1350, 75, 0.85, 0.42, 0, 0.78),
    of_material("parotid", 12, 18, 1100, 75, 0.86, 0.22, 0.3, 0.78),
    of_material("submandibular", 8, 10, 1150, 78, 0.85, 0.24, 0, 0.78),
    of_material("vessel", 0, 4, 1900, 60, 0.85, 0.5, 0, 0.75),
    of_material("artery", 0, 4, 1900, 3, 0.05, 0, 0, 0.75),
    of_material("tumour", 4, 7, 1450, 88, 0.88, 0.36, 0, 0.78),
    of_material("necrosis", -8, 5, 2600, 180, 0.95, 0.02, 0, 0.95),
    of_material("vitreous", -4, 4, 4000, 900, 1, 0, 0, 1),
    of_material("lens", 30, 5, 1400, 30, 0.6, 0, 0, 0.78),
    of_material("nerve", 0, 5, 1000, 72, 0.72, 0.02, 0, 0.75),
    of_material("enamel", -1300, 250, 300, 1, 0.02, 0, 0, 1),
    of_material("dentin", -650, 120, 300, 1, 0.04, 0, 0, 1),
    of_material("thyroid", 40, 10, 1150, 72, 0.85, 0.55, 0, 0.78),
    of_material("cord", 0, 3, 950, 76, 0.76, 0.01, 0, 0.75),
    of_material("brainstem", -5, 3, 1050, 76, 0.76, 0.01, 0, 0.78),
    of_material("dura", 15, 5, 1300, 45, 0.6, 0.45, 0, 0.78),
    of_material("lymph node", 8, 6, 1300, 78, 0.86, 0.28, 0, 0.78),
    Tissue("metal", METAL_HU, 0, 1, 1, 0, 0, 0, 1),
    of_material("cerebellum", 0, 4, 1300, 86, 0.82, 0.012, 0, 0.78),
    of_material("pituitary", 6, 4, 1200, 75, 0.82, 0.55, 0, 0.78),
    of_material("fluid", -12, 5, 2500, 300, 0.95, 0, 0, 1),
)
TISSUE_ID = {tissue.name: index for index, tissue in enumerate(TISSUES)}
MODALITY_COLUMNS = ("HU", "T1c", "T2w", "T1c fat", "T2w fat")  # what `signal_columns` gives


def draw_tissues(generator: np.random.Generator) -> tuple[Tissue, ...]:
    """This patient's tissues: T1, T2 and PD vary by 8, 10 and 4 %, Gd uptake by 20 %, HU by 4 HU or 7 % (our choice;
    standard deviations), each on its own, so that no modality tells the others exactly."""
    patient = []
    for tissue in TISSUES:
        t1, t2, density, uptake, hu_shift = generator.normal(0, (0.08, 0.10, 0.04, 0.20, 1.0))
        patient.append(replace(
            tissue,
            hu=tissue.hu if tissue.name in ("air", "metal") else tissue.hu + hu_shift * max(4, 0.07 * tissue.hu),
            t1_ms=tissue.t1_ms * float(np.exp(t1)),
            t2_ms=tissue.t2_ms * float(np.exp(t2)),
            proton_density=tissue.proton_density * float(np.exp(density)),
            gadolinium_mm=tissue.gadolinium_mm * float(np.exp(uptake)),
        ))
    return tuple(patient)


def hu_column(tissues: tuple[Tissue, ...]) -> np.ndarray:
    """(tissue, 1) [HU]: all that an X-ray scan needs to have painted."""
    return np.array([[tissue.hu] for tissue in tissues], np.float32)


def signal_columns(tissues: tuple[Tissue, ...], protocol: MrProtocol) -> np.ndarray:
    """(tissue, 5): HU, then T1c and T2w signal [1], then the part of either that fat gives: MODALITY_COLUMNS.

    The signal of a voxel is the sum of its water's and its fat's. T2w is acquired before the injection.
    """
    fat = tissues[TISSUE_ID["fat"]]
    field = protocol.field_tesla
    columns = np.zeros((len(tissues), len(MODALITY_COLUMNS)), np.float32)
    for row, tissue in zip(columns, tissues, strict=True):
        row[0] = tissue.hu
        for number, modality in enumerate(("T1c", "T2w"), start=1):
            dose = protocol.gadolinium if modality == "T1c" else 0.0
            sequence = protocol.sequence(modality)
            water = signal_of(tissue.t1_at(field), tissue.t2_ms, tissue.proton_density, dose * tissue.gadolinium_mm,
                              sequence, field)
            fatty = signal_of(fat.t1_at(field), fat.t2_ms, tissue.proton_density, dose * fat.gadolinium_mm, sequence,
                              field)
            row[number + 2] = tissue.fat_share * fatty
            row[number] = (1 - tissue.fat_share) * water + row[number + 2]
    return columns


def case_signals(generator: np.random.Generator) -> np.ndarray:
    """`signal_columns` of a patient drawn from `generator`, examined by the usual protocol."""
    return signal_columns(draw_tissues(generator), MrProtocol())


def texture_strength() -> np.ndarray:
    """(tissue,) standard deviation of the HU texture [HU]."""
    return np.array([tissue.hu_texture for tissue in TISSUES], np.float32)
