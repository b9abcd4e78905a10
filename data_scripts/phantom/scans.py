"""From one patient to CT, CBCT, T1c and T2w on one grid. `make_case` is all of it; a lesson calls the steps:

    patient = draw_patient(seed=0, index=1, size=64)
    ct = take_ct(patient)
    cbct = take_cbct(patient, replace(settings, cbct=replace(settings.cbct, scatter_to_primary=(0.0, 0.0))))
    before_gadolinium = take_mr(inject(patient, dose=0.0))["T1c"]
"""
from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np
import torch

from phantom.anatomy import Anatomy, build_anatomy
from phantom.cbct import simulate_cbct
from phantom.composition import STORED_HU
from phantom.conebeam import Surroundings
from phantom.contours import body_mask, draw_structures
from phantom.ct import scan_ct
from phantom.grid import Grid, Streams
from phantom.mri import MrProtocol, acquire, draw_protocol
from phantom.organ_volumes import check
from phantom.settings import PhantomSettings
from phantom.tissues import (
    MODALITY_COLUMNS,
    TISSUE_ID,
    Tissue,
    draw_tissues,
    hu_column,
    signal_columns,
    texture_strength,
)
from phantom.traits import Pose, Traits, draw_traits, draw_treatment_pose

MOST_ATTEMPTS = 6  # at patients whose organs all have adult volumes: our choice
SMALLEST_TUMOUR_ML = 1.0  # with its nodes: our choice
BONE_TISSUES = ("cortical bone", "spongy bone")
# How a registration residual divides, by its square, and the radius at which a turn is felt: our choice
SHIFT_SHARE, TURN_SHARE, WARP_SHARE, TURN_RADIUS_MM = 0.5, 0.15, 0.35, 70.0


@dataclass(frozen=True)
class Patient:
    """Who lies in the scanners: all that is fixed before the first scan.

    planned: anatomy in the pose of the planning CT, painted with MODALITY_COLUMNS; mask: the body, structures: the
    contours, (z, y, x) bool; around: the body beyond the field of view; redraws: how many patients
    before this one had no room for a tumour or organs outside of adult volumes; violations: what is still outside
    after MOST_ATTEMPTS.
    """

    grid: Grid
    streams: Streams
    traits: Traits
    tissues: tuple[Tissue, ...]
    protocol: MrProtocol
    planned: Anatomy
    mask: np.ndarray
    structures: dict[str, np.ndarray]
    around: Surroundings
    redraws: int
    violations: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """volumes: {modality: (z, y, x) float32}, HU for CT and CBCT, arbitrary units for MR; facts: for case.json."""

    grid: Grid
    traits: Traits
    volumes: dict[str, np.ndarray]
    mask: np.ndarray
    structures: dict[str, np.ndarray]
    facts: dict


def make_case(seed: int, index: int, size: int, settings: PhantomSettings = PhantomSettings()) -> Case:
    """Case `index` of the cohort `seed` at `size` x `size` x `size` / 2 voxels; depends on nothing else."""
    patient = draw_patient(seed, index, size, settings)
    volumes = {"CBCT": take_cbct(patient, settings), "CT": take_ct(patient, settings), **take_mr(patient, settings)}
    return Case(patient.grid, patient.traits, volumes, patient.mask, patient.structures, facts(patient))


def facts(patient: Patient) -> dict:
    """What case.json tells of the patient."""
    return {"site": patient.traits.tumour_site, "sex": patient.traits.sex,
            "fillings": patient.planned.metal is not None, "redraws": patient.redraws,
            "volumes_outside_adult_range": list(patient.violations), "mr_protocol": asdict(patient.protocol)}


def draw_patient(seed: int, index: int, size: int, settings: PhantomSettings = PhantomSettings()) -> Patient:
    """The first of up to MOST_ATTEMPTS patients who has a tumour and whose organ volumes are all those of adults; else
    the one with the fewest outside.

    Raises ValueError if none has a tumour: settings that leave it no room.
    """
    grid = Grid.of_size(size)
    fewest = None
    for attempt in range(MOST_ATTEMPTS):
        streams = Streams(seed, index, attempt)
        traits = draw_traits(streams, settings.anatomy)
        tissues, protocol = draw_tissues(streams("tissues")), draw_protocol(streams, settings.mr)
        planned = build_anatomy(grid, traits, Pose(), streams, signal_columns(tissues, protocol))
        if planned.organs["GTV"].sum() * np.prod(grid.spacing_mm) < 1000 * SMALLEST_TUMOUR_ML:
            continue                                             # bone, cord and skin left it no room
        structures = draw_structures(planned, grid)
        violations = tuple(check(structures, grid.spacing_mm))
        if fewest is None or len(violations) < len(fewest[-1]):
            fewest = attempt, streams, traits, tissues, protocol, planned, structures, violations
        if not violations:
            break
    if fewest is None:
        raise ValueError(f"seed {seed}, case {index}: no tumour in {MOST_ATTEMPTS} patients. Change the seed or "
                         "[anatomy].")
    redraws, streams, traits, tissues, protocol, planned, structures, violations = fewest
    around = beyond_the_field(grid, Grid.surroundings(size), traits, streams, tissues)
    return Patient(grid, streams, traits, tissues, protocol, planned, body_mask(planned), structures, around, redraws,
                   violations)


def beyond_the_field(grid: Grid, wide: Grid, traits: Traits, streams: Streams,
                     tissues: tuple[Tissue, ...]) -> Surroundings:
    """The same patient on a wide, coarse grid: shoulders and chest, which X-rays pass although no picture shows them.

    In the planned pose, for both X-ray scans: a bent neck or an open jaw moves no shoulder.
    """
    hu = build_anatomy(wide, traits, Pose(), streams, hu_column(tissues)).values[0]
    offset_mm = tuple(float(a - b) for a, b in zip(wide.centre_mm, grid.centre_mm, strict=True))
    return Surroundings(hu, wide.spacing_mm, offset_mm)


def inject(patient: Patient, dose: float) -> Patient:
    """The same patient with another dose of gadolinium: 1 = the usual one, 0 = before the injection."""
    protocol = replace(patient.protocol, gadolinium=dose)
    planned = build_anatomy(patient.grid, patient.traits, Pose(), patient.streams,
                            signal_columns(patient.tissues, protocol))
    return replace(patient, protocol=protocol, planned=planned)


def hu_texture(grid: Grid, streams: Streams) -> dict[str, np.ndarray]:
    """Fields that make HU vary inside a tissue: fine grain and slow drift. They have no part in the MR signal."""
    return {name: grid.smooth_noise(streams(f"HU {name}"), wavelength)
            for name, wavelength in (("fine", 9), ("medium", 17), ("slow", 60))}


def textured_hu(anatomy: Anatomy, texture: dict[str, np.ndarray]) -> np.ndarray:
    """Ideal HU with texture: bone density drifts by 10 %, the parotid has fatty lobules (strengths our choice)."""
    strength = texture_strength()[anatomy.label]
    hu = anatomy.values[0] + strength * (0.7 * texture["fine"] + 0.4 * texture["medium"] + 0.5 * texture["slow"])
    bone = np.isin(anatomy.label, [TISSUE_ID[name] for name in BONE_TISSUES])
    hu += bone * 0.10 * hu * texture["slow"]
    lobules = anatomy.label == TISSUE_ID["parotid"]
    hu -= lobules * 22 * np.abs(texture["fine"])
    dense = np.minimum(hu, STORED_HU)  # only metal is denser: the densest enamel is not to pass for it
    hu = np.where(anatomy.label == TISSUE_ID["metal"], hu, dense)
    return np.where(anatomy.body > 0, anatomy.values[0], hu).astype(np.float32)


def take_ct(patient: Patient, settings: PhantomSettings = PhantomSettings()) -> np.ndarray:
    """The planning CT [HU]."""
    hu = textured_hu(patient.planned, hu_texture(patient.grid, patient.streams))
    return scan_ct(hu, patient.grid.spacing_mm, patient.streams("CT noise"), settings.ct, surroundings=patient.around)


def take_cbct(patient: Patient, settings: PhantomSettings = PhantomSettings()) -> np.ndarray:
    """The CBCT of the treatment day [HU]: another pose, slightly misregistered, shoulders beyond the field of view."""
    grid, streams, traits = patient.grid, patient.streams, patient.traits
    pose = draw_treatment_pose(streams, settings.anatomy)
    hu = textured_hu(build_anatomy(grid, traits, pose, streams, hu_column(patient.tissues)), hu_texture(grid, streams))
    hu = misregister(hu[None], grid, streams("CBCT registration"), settings.registration.residual_mm)[0]
    return simulate_cbct(hu, grid.spacing_mm, streams("CBCT"), settings.cbct, patient.around)


def take_mr(patient: Patient, settings: PhantomSettings = PhantomSettings()) -> dict[str, np.ndarray]:
    """T1c and T2w [arbitrary units], each slightly misregistered to the CT and acquired on its own."""
    grid, streams = patient.grid, patient.streams
    columns = dict(zip(MODALITY_COLUMNS, patient.planned.values, strict=True))
    metal_mm = patient.planned.metal
    is_air = (patient.planned.label == TISSUE_ID["air"]).astype(np.float32)
    common = grid.smooth_noise(streams("MR texture"), 11)
    volumes = {}
    for modality in ("T1c", "T2w"):
        own = grid.smooth_noise(streams(f"{modality} texture"), 9)
        own += 0.7 * grid.smooth_noise(streams(f"{modality} drift"), 45)
        texture = np.clip(1 + settings.mr.texture * (0.7 * common + own) / 1.4, 0.5, 1.5)
        ideal = [columns[modality] * texture, columns[f"{modality} fat"] * texture, is_air]
        ideal += [] if metal_mm is None else [metal_mm]
        signal, fat, air, *metal = misregister(np.stack(ideal), grid, streams(f"{modality} registration"),
                                               settings.registration.residual_mm)
        volumes[modality] = acquire(signal, fat, modality, grid, streams, patient.protocol, settings.mr,
                                    metal[0] if metal else None, air > 0.5)
    return volumes


def misregister(volumes: np.ndarray, grid: Grid, generator: np.random.Generator, residual_mm: float) -> np.ndarray:
    """(c, z, y, x) displaced by what a registration leaves: a random shift, a turn and a smooth warp.

    residual_mm: root mean square displacement of the head's voxels over many patients; 0 returns the volumes.
    """
    if residual_mm == 0:
        return volumes
    z, y, x = grid.mesh()
    dz, dy, dx = generator.normal(0, residual_mm * np.sqrt(SHIFT_SHARE / 3), size=3)
    angle = generator.normal(0, residual_mm * np.sqrt(TURN_SHARE) / TURN_RADIUS_MM)
    warp_mm = residual_mm * np.sqrt(WARP_SHARE / 3)
    warp_z, warp_y, warp_x = (warp_mm * grid.smooth_noise(generator, 90) for _ in range(3))
    at = (z + dz + warp_z,
          y * np.cos(angle) - x * np.sin(angle) + dy + warp_y,
          y * np.sin(angle) + x * np.cos(angle) + dx + warp_x)
    unit = [2 * (position - axis[0]) / (axis[-1] - axis[0]) - 1
            for position, axis in zip(at, (grid.z_mm, grid.y_mm, grid.x_mm), strict=True)]
    where = torch.from_numpy(np.stack(unit[::-1], axis=-1).astype(np.float32))[None]
    moved = torch.nn.functional.grid_sample(torch.from_numpy(np.ascontiguousarray(volumes, np.float32))[None], where,
                                            align_corners=True, padding_mode="border")
    return moved[0].numpy()
