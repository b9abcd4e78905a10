"""What makes one patient: build, pose, teeth, tumour. Drawn once per case, before anything is painted."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantom.grid import Streams

TUMOUR_SITES = {"nasopharynx": 0.35, "tonsil": 0.25, "tongue base": 0.20, "larynx": 0.20}  # shares: our choice


@dataclass(frozen=True)
class Traits:
    """Lengths in mm, factors relative to the reference head. All distributions our choice."""

    sex: str
    scale: tuple[float, float, float]  # head size along x, y, z
    fat: float  # thickness of subcutaneous fat, 1 = 5 mm or so
    neck_radius_mm: float
    jaw_width_mm: float  # added to each side of the face
    skull_mm: float  # thickness of the vault
    csf_mm: float  # between brain and dura
    atrophy: float  # share of the brain's tissue map that is lost to fluid
    airway: float  # width of the pharynx
    parotid: float  # size of the glands
    sinus: float  # size of the maxillary sinuses
    flexion_mm: float  # the neck's forward (+) or backward bend at z = -100
    turn_degree: float  # of the head in the mask
    tumour_site: str
    tumour_side: int


@dataclass(frozen=True)
class Pose:
    """What differs between two scans of one patient [mm]; airway is a factor."""

    jaw_mm: float = 0.0
    tongue_mm: float = 0.0
    flexion_mm: float = 0.0
    airway: float = 1.0


def draw_traits(streams: Streams) -> Traits:
    g = streams("traits")
    male = g.random() < 0.7
    return Traits(
        sex="male" if male else "female",
        scale=tuple(float(s) for s in (1.0 if male else 0.96) + g.normal(0, (0.03, 0.03, 0.025))),
        fat=float(g.uniform(0.5, 1.9)),
        neck_radius_mm=float(g.uniform(54, 62) + (3 if male else -4)),
        jaw_width_mm=float(g.uniform(-3, 3)),
        skull_mm=float(g.uniform(5.2, 7.6)),
        csf_mm=float(g.uniform(1.0, 2.6)),
        atrophy=float(g.uniform(0.0, 0.12)),
        airway=float(g.uniform(0.8, 1.2)),
        parotid=float(g.uniform(0.9, 1.1)),
        sinus=float(g.uniform(0.78, 1.1)),
        flexion_mm=float(g.normal(0, 5)),
        turn_degree=float(g.normal(0, 2.0)),
        tumour_site=str(g.choice(list(TUMOUR_SITES), p=list(TUMOUR_SITES.values()))),
        tumour_side=int(g.choice((-1, 1))),
    )


def draw_treatment_pose(streams: Streams) -> Pose:
    """The pose on the day of the CBCT; the planning pose is `Pose()`."""
    g = streams("treatment pose")
    return Pose(jaw_mm=float(abs(g.normal(0, 1.2))), tongue_mm=float(g.normal(0, 1.2)),
                flexion_mm=float(g.normal(0, 1.0)), airway=float(np.clip(g.normal(1, 0.1), 0.8, 1.2)))
