"""What makes one patient: build, pose, teeth, surgery, tumour. Drawn once per case, before anything is painted."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantom.grid import Streams

SITES = ("nasopharynx", "tonsil", "tongue base", "larynx", "oral cavity")
SURGERY = ("none", "flap", "neck dissection")
FLAP_SITES = ("tonsil", "tongue base", "oral cavity")  # whose resection takes a part of tongue and mandible


@dataclass(frozen=True)
class AnatomySettings:
    """The cohort from which patients are drawn: (low, high) of uniform, `_sd` of normal distributions. Our choice.

    Raises ValueError if the shares of the tumour sites do not sum to 1.
    """

    male_share: float = 0.7
    size_sd: float = 0.035  # of the head, along each axis
    warp_mm: float = 3.6  # smooth random deformation of the whole patient, per axis
    brain_warp_mm: float = 2.6  # finer deformation of the brain alone: gyri, ventricles
    fat: tuple[float, float] = (0.45, 2.1)  # subcutaneous, 1 = 5 mm or so
    muscle: tuple[float, float] = (0.84, 1.14)  # bulk
    neck_radius_mm: tuple[float, float] = (48.0, 57.0)  # without fat
    neck_length_sd: float = 0.045
    shoulder_lift_sd_mm: float = 7.0
    flexion_sd_mm: float = 7.0  # of the neck, forward or backward at 100 mm below the ears
    tilt_sd_mm: float = 4.0  # of the neck, sideways there
    turn_sd_degree: float = 3.0  # of the head in the mask
    site_shares: tuple[float, ...] = (0.25, 0.22, 0.20, 0.18, 0.15)  # in the order of SITES
    flap_share: float = 0.08  # of the patients with a tumour of mouth or oropharynx
    neck_dissection_share: float = 0.08
    toothless_share: float = 0.12
    missing_teeth: tuple[float, float] = (0.0, 0.3)  # share of the teeth of those who have any
    filled_share: float = 0.55  # of the patients
    # from the planning scan to the day of the CBCT
    jaw_sd_mm: float = 1.2
    tongue_sd_mm: float = 1.0
    flexion_change_sd_mm: float = 0.8
    airway_sd: float = 0.08
    weight_loss: tuple[float, float] = (0.0, 0.15)  # share of the subcutaneous fat
    shrinkage: tuple[float, float] = (0.0, 0.15)  # of the tumour's radii
    mucosa_sd_mm: float = 0.5  # swelling in nose and sinuses

    def __post_init__(self):
        if len(self.site_shares) != len(SITES) or abs(sum(self.site_shares) - 1) > 1e-6:
            raise ValueError(f"site_shares = {self.site_shares}: give {len(SITES)} shares that sum to 1, one for each "
                             f"of {', '.join(SITES)}")
        if min(self.flap_share, self.neck_dissection_share) < 0 or self.flap_share + self.neck_dissection_share > 1:
            raise ValueError(f"flap_share = {self.flap_share} and neck_dissection_share = "
                             f"{self.neck_dissection_share}: give shares from 0 that sum to 1 at most")


@dataclass(frozen=True)
class Traits:
    """Lengths in mm, factors relative to the reference head."""

    sex: str
    scale: tuple[float, float, float]  # head size along x, y, z
    warp_mm: float
    brain_warp_mm: float
    fat: float  # thickness of subcutaneous fat, 1 = 5 mm or so
    muscle: float  # radius of the muscles
    neck_radius_mm: float  # without fat
    neck_length: float
    shoulder_width: float
    shoulder_lift_mm: float
    jaw_width_mm: float  # added to each side of the face
    face: tuple[float, float, float]  # forward shift of chin, nose and brow
    skull_mm: float  # thickness of the vault
    csf_mm: float  # between brain and dura
    atrophy: float  # share of the brain's tissue map that is lost to fluid
    ventricles: float  # size
    airway: float  # width of the pharynx
    parotid: float  # size of the glands
    submandibular: float
    thyroid: float
    larynx: float  # size
    larynx_mm: float  # height
    tongue: float  # size
    sinus: float  # size of the maxillary sinuses
    jaw_mm: float  # opening of the mouth at rest (bite block)
    flexion_mm: float  # the neck's forward (+) or backward bend at z = -100
    tilt_mm: float
    lordosis: float
    turn_degree: float  # of the head in the mask
    toothless: bool
    missing_teeth: float
    filled_teeth: float  # share of the molars
    surgery: str
    tumour_site: str
    tumour_side: int
    tumour_size: float


@dataclass(frozen=True)
class Pose:
    """What differs between two scans of one patient; the planned pose is `Pose()`."""

    jaw_mm: float = 0.0  # the chin moves this far as the mandible turns about its condyles
    tongue_mm: float = 0.0
    flexion_mm: float = 0.0
    airway: float = 1.0  # factor on the width of the pharynx
    weight_loss: float = 0.0  # share of the subcutaneous fat that is gone; the skin follows
    shrinkage: float = 0.0  # of the tumour's radii
    mucosa_mm: float = 0.0  # swelling in nose and sinuses


def draw_traits(streams: Streams, settings: AnatomySettings = AnatomySettings()) -> Traits:
    g, s = streams("traits"), settings
    male = g.random() < s.male_share
    site = str(streams("site").choice(SITES, p=s.site_shares))
    flap = s.flap_share if site in FLAP_SITES else 0.0
    uniform, normal = (lambda low, high: float(g.uniform(low, high))), (lambda mean, sd: float(g.normal(mean, sd)))
    return Traits(
        sex="male" if male else "female",
        scale=tuple(float(np.clip(f, 0.88, 1.11)) for f in (1.01 if male else 0.965) + g.normal(0, s.size_sd, size=3)),
        warp_mm=s.warp_mm,
        brain_warp_mm=s.brain_warp_mm,
        fat=uniform(*s.fat),
        muscle=uniform(*s.muscle) * (1.02 if male else 0.95),
        neck_radius_mm=uniform(*s.neck_radius_mm) + (2 if male else -4),
        neck_length=float(np.clip(normal(1, s.neck_length_sd), 0.9, 1.1)),
        shoulder_width=(1.03 if male else 0.93) * float(np.clip(normal(1, 0.04), 0.9, 1.1)),
        shoulder_lift_mm=float(np.clip(normal(0, s.shoulder_lift_sd_mm), -12, 16)),
        jaw_width_mm=uniform(-4, 4),
        face=(normal(0, 2.5), normal(0, 2.0), normal(1.0 if male else -1.5, 1.0)),
        skull_mm=uniform(5.0, 8.2),
        csf_mm=uniform(0.8, 3.4),
        atrophy=uniform(0.0, 0.22),
        ventricles=uniform(0.85, 1.35),
        airway=uniform(0.7, 1.3),
        parotid=uniform(0.88, 1.08),
        submandibular=uniform(0.85, 1.12),
        thyroid=uniform(0.8, 1.2),
        larynx=(1.03 if male else 0.9) * uniform(0.94, 1.06),
        larynx_mm=normal(0, 4),
        tongue=uniform(0.9, 1.08),
        sinus=uniform(0.7, 1.12),
        jaw_mm=float(abs(normal(0, 1.5)) if g.random() < 0.7 else g.uniform(6, 14)),  # with a bite block
        flexion_mm=normal(0, s.flexion_sd_mm),
        tilt_mm=normal(0, s.tilt_sd_mm),
        lordosis=uniform(0.3, 1.5),
        turn_degree=normal(0, s.turn_sd_degree),
        toothless=bool(g.random() < s.toothless_share),
        missing_teeth=uniform(*s.missing_teeth),
        filled_teeth=float(g.uniform(0.05, 0.4) if g.random() < s.filled_share else 0),
        surgery=str(g.choice(SURGERY, p=(1 - flap - s.neck_dissection_share, flap, s.neck_dissection_share))),
        tumour_site=site,
        tumour_side=int(g.choice((-1, 1))),
        tumour_size=uniform(0.6, 1.15),
    )


def draw_treatment_pose(streams: Streams, settings: AnatomySettings = AnatomySettings()) -> Pose:
    """The pose on the day of the CBCT; the planning pose is `Pose()`."""
    g, s = streams("treatment pose"), settings
    return Pose(jaw_mm=float(abs(g.normal(0, s.jaw_sd_mm))), tongue_mm=float(g.normal(0, s.tongue_sd_mm)),
                flexion_mm=float(g.normal(0, s.flexion_change_sd_mm)),
                airway=float(np.clip(g.normal(1, s.airway_sd), 0.7, 1.3)),
                weight_loss=float(g.uniform(*s.weight_loss)), shrinkage=float(g.uniform(*s.shrinkage)),
                mucosa_mm=float(np.clip(g.normal(0, s.mucosa_sd_mm), -1.5, 2.5)))
