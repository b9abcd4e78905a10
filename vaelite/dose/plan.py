"""Photon IMRT on a CT, and the same fluence recalculated on another CT of the same patient.

The dose engine, beams and machine are pyRadPlan's (SVD pencil beam, generic 6 MV linac). The fluence is optimised here,
on the dose of single beamlets; the dose that counts is then calculated once more, with one uneven field per beam.
A dose is the plan's total in Gy. Axes are (z, y, x), LPS, as everywhere.
A pencil beam has no lateral electron transport: at air cavities and the skin its dose is wrong, on both CTs alike.
"""
from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile

import numpy as np
import torch
from scipy import ndimage, optimize, sparse

from ..errors import VaeliteError

# organ (prefix of its name): what is limited, at how many Gy, and how much that weighs against a target (weight 100).
# Our choice, near the usual limits for 70 Gy head-and-neck plans (QUANTEC); a teaching plan, not a clinical one.
ORGAN_LIMITS = {
    "SpinalCord": ("max", 40.0, 50.0),
    "Brainstem": ("max", 48.0, 50.0),
    "Eye": ("max", 30.0, 10.0),
    "Mandible": ("max", 65.0, 10.0),
    "Parotid": ("mean", 24.0, 10.0),
    "Submandibular": ("mean", 35.0, 3.0),
    "Larynx": ("mean", 40.0, 5.0),
    "Esophagus": ("mean", 30.0, 5.0),
}
TARGET_WEIGHT, TISSUE_WEIGHT = 100.0, 30.0
SCATTER_MM = 60.0                                           # the final dose is followed this far beyond a field
SOURCE_MM = 1000.0                                          # from the source to the isocentre, of the machine
PLAN_ARRAYS = ("dose_gy", "body", "target")


@dataclass(frozen=True)
class DoseConfig:
    """Knobs of the dosimetric test: how coarse a plan, on how many patients, and which gamma (our choices)."""

    cases: int = 6                                          # test patients to plan
    n_fields: int = 7                                       # coplanar beams, evenly spaced from the front
    bixel_mm: float = 10.0                                  # beamlet width at the isocentre
    grid_mm: float = 4.0                                    # dose grid; never finer than the CT
    lateral_cutoff_mm: float = 30.0                         # while optimising, a beamlet ends there (4 % is lost)
    iterations: int = 80                                    # of the optimiser, at most
    gamma_criteria: tuple[tuple[float, float], ...] = ((3.0, 3.0), (2.0, 2.0), (1.0, 1.0))   # (dose %, distance mm)
    gamma_mode: str = "global"                              # of the highest prescription
    cutoff_percent: float = 10.0                            # of the highest prescription

    def __post_init__(self):
        for name in ("cases", "n_fields", "bixel_mm", "grid_mm", "lateral_cutoff_mm", "iterations", "cutoff_percent"):
            if not getattr(self, name) > 0:
                raise VaeliteError(f"dose.{name} must be above 0, not {getattr(self, name)!r}.")


@dataclass(frozen=True, eq=False)
class Plan:
    """A finished plan: all that `recalculate` needs to give the same beams to another CT of the same patient."""

    dose_gy: np.ndarray                                     # z y x float32 on the CT grid, 0 outside the body
    fluence: tuple[np.ndarray, ...] = field(repr=False)     # a map per beam: rows along z (feet first), columns across
    gantry_deg: tuple[float, ...]                           # 0 is from the front, 90 from the patient's left
    isocentre_mm: tuple[float, float, float]                # z y x from the first voxel: the targets' centre of mass
    spacing_mm: tuple[float, float, float]
    body: np.ndarray = field(repr=False)
    target: np.ndarray = field(repr=False)                  # union of the prescribed targets
    prescriptions_gy: dict[str, float]
    left_out: tuple[str, ...]                               # structures without a voxel to plan on
    monitor_units: float                                    # one factor on every beam (relative, not calibrated)
    air_percent: float                                      # of the body on the planning CT
    cost: tuple[float, ...] = field(repr=False)             # of the optimiser, one value per iteration
    config: DoseConfig

    @property
    def prescription_gy(self) -> float:
        """The highest prescription: what gamma and MAE_target are normalised to."""
        return max(self.prescriptions_gy.values())


def plan_imrt(ct_hu: np.ndarray, spacing_mm: tuple[float, float, float], structures: dict[str, np.ndarray],
              body: np.ndarray, prescriptions_gy: dict[str, float], config: DoseConfig = DoseConfig()) -> Plan:
    """Optimise an IMRT plan on `ct_hu`, scaled so that the median dose of the highest target is its prescription.

    ct_hu: z y x [HU]; structures: {name: z y x bool}; body: z y x bool; prescriptions_gy: {name of a target: total Gy}.
    Organs in ORGAN_LIMITS are spared, outside the targets; other structures are only looked at. Nothing is random.
    Raises VaeliteError on a missing, empty or outlying target, no body, a CT not in finite HU or on another grid.
    """
    ct_hu, spacing_mm = _check_ct(ct_hu, body), tuple(float(s) for s in spacing_mm)
    masks, body = _check_masks(structures, body, prescriptions_gy)
    targets = {name: masks[name] for name in sorted(prescriptions_gy, key=prescriptions_gy.get, reverse=True)}
    union = np.any(list(targets.values()), axis=0)
    with _quiet():
        from pyRadPlan import calc_dose_influence, generate_stf

        ct, contours = _patient(ct_hu, spacing_mm, body, union, config)
        settings = _settings(spacing_mm, contours, config, config.lateral_cutoff_mm)
        steering = generate_stf(ct, contours, settings)
        influence = calc_dose_influence(ct, contours, steering, settings)
        box = _body_box(body, spacing_mm, config)
        on_dose_grid = {name: _to_dose_grid(mask[box], influence) for name, mask in {**masks, "body": body}.items()}
        terms, left_out = _objectives(on_dose_grid, prescriptions_gy, influence.dose_grid)
        weights, cost = _optimise(influence, terms, config.iterations)
        fluence = _fluence_maps(steering, weights, config.bixel_mm)
    plan = Plan(
        dose_gy=np.zeros(0), fluence=fluence, gantry_deg=tuple(float(beam.gantry_angle) for beam in steering.beams),
        isocentre_mm=tuple(float(x) for x in contours.target_center_of_mass()[::-1]),
        spacing_mm=spacing_mm, body=body, target=union, prescriptions_gy=dict(prescriptions_gy), left_out=left_out,
        monitor_units=1.0, air_percent=_air_percent(ct_hu, body), cost=cost, config=config,
    )
    dose_gy = recalculate(plan, ct_hu)
    highest = next(iter(targets))
    scale = prescriptions_gy[highest] / float(np.median(dose_gy[targets[highest]]))     # our choice of normalisation
    return replace(plan, dose_gy=dose_gy * np.float32(scale), monitor_units=scale)


def recalculate(plan: Plan, ct_hu: np.ndarray, max_missing_percent: float = 10.0) -> np.ndarray:
    """The plan's beams and fluence on another CT of the same patient -> dose, z y x float32 [Gy], 0 outside the body.

    Contours, beams, HU table and dose grid are the plan's; only the densities inside the body change.
    Raises VaeliteError if the grid differs, a voxel is not finite, or more than `max_missing_percent` of the body
    turned to air (a truncated field of view: its dose would say nothing about the synthesis).
    """
    ct_hu = _check_ct(ct_hu, plan.body)
    missing_percent = _air_percent(ct_hu, plan.body) - plan.air_percent
    if missing_percent > max_missing_percent:
        raise VaeliteError(f"recalculate: {missing_percent:.0f} % of the body is air here but not on the planning CT. "
                           "Is the field of view truncated? Fill it from another image, or raise max_missing_percent.")
    with _quiet():
        from pyRadPlan.dose import calc_dose_forward

        ct, contours = _patient(ct_hu, plan.spacing_mm, plan.body, plan.target, plan.config)
        settings = _settings(plan.spacing_mm, contours, plan.config, SCATTER_MM)
        result = calc_dose_forward(ct, contours, _fields(plan), settings, np.ones(len(plan.gantry_deg)))
    dose_gy = np.zeros(plan.body.shape, np.float32)
    dose_gy[_body_box(plan.body, plan.spacing_mm, plan.config)] = _array(result)
    dose_gy[~plan.body] = 0
    return dose_gy * np.float32(plan.monitor_units)


def radiological_depth(plan: Plan, ct_hu: np.ndarray, points: int = 300, step_mm: float = 1.0) -> np.ndarray:
    """The water that attenuates as much as the tissue in front of the target -> (beams, about `points`) [mm].

    Every n-th voxel of the target is a point; from there to the source the densities inside the body are summed up.
    Raises VaeliteError as `recalculate` does for a CT on another grid or with voxels that are not finite.
    """
    ct_hu = _check_ct(ct_hu, plan.body)
    density = np.interp(ct_hu, *relative_density_table()) * plan.body
    target = np.argwhere(plan.target)[:: max(1, int(plan.target.sum()) // points)] * np.array(plan.spacing_mm)    # zyx
    reach_mm = float(np.linalg.norm(np.multiply(plan.body.shape, plan.spacing_mm)))     # farther is no body
    steps_mm = np.arange(0.5, reach_mm / step_mm) * step_mm
    depth_mm = []
    for gantry_deg in plan.gantry_deg:
        source = np.array(plan.isocentre_mm) + SOURCE_MM * _towards_source(gantry_deg)[::-1]
        direction = (source - target) / np.linalg.norm(source - target, axis=1, keepdims=True)
        path = target[:, None] + steps_mm[:, None] * direction[:, None]                 # points, steps, zyx
        index = np.moveaxis(path / np.array(plan.spacing_mm), -1, 0)
        depth_mm.append(step_mm * ndimage.map_coordinates(density, index, order=1).sum(1))
    return np.array(depth_mm)


def depth_dose_in_water(field_cm: float = 10.0, source_surface_cm: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Percent depth dose of an open square field on the axis of a water tank -> (depth_cm, dose in % of the maximum).

    30 cm of water, 2 mm steps. 10 x 10 cm of 6 MV at 100 cm should give about 67 % at 10 cm (BJR suppl. 25).
    """
    spacing_mm, shape = (5.0, 2.0, 5.0), (60, 150, 60)
    origin_mm = [-0.5 * (shape[2] - 1) * spacing_mm[2], 0.5 * spacing_mm[1], -0.5 * (shape[0] - 1) * spacing_mm[0]]
    water, target = np.zeros(shape, np.float32), np.zeros(shape, bool)
    target[25:35, 70:80, 25:35] = True
    with _quiet():
        from pyRadPlan import PhotonPlan, generate_stf
        from pyRadPlan.dose import calc_dose_forward

        ct, contours = _pyradplan_patient(water, spacing_mm, origin_mm, np.ones(shape, bool), target)
        settings = PhotonPlan(machine="Generic", num_of_fractions=1)
        isocentre_mm = [0.0, 10 * (100.0 - source_surface_cm), 0.0]                     # the source is 100 cm from it
        settings.prop_stf = {"generator": "photonOpenFields", "gantry_angles": [0.0], "couch_angles": [0.0],
                             "field_width": 10 * field_cm, "iso_center": isocentre_mm}
        settings.prop_dose_calc = {"dose_grid": {"resolution": _xyz(spacing_mm)}, "geometric_lateral_cutoff": 100.0}
        steering = generate_stf(ct, contours, settings)
        dose = _array(calc_dose_forward(ct, contours, steering, settings, np.ones(1)))
    axis = dose[29:31, :, 29:31].mean(axis=(0, 2))                                      # the four central columns
    depth_cm = (np.arange(shape[1]) + 0.5) * spacing_mm[1] / 10
    return depth_cm, 100 * axis / axis.max()


def relative_density_table() -> tuple[np.ndarray, np.ndarray]:
    """The corners of pyRadPlan's HU table -> (hu, electron density relative to water): linear between, flat beyond."""
    with _quiet():
        from pyRadPlan.ct import default_hlut
    table = default_hlut()
    return table[:, 0], table[:, 1]


# ---------------------------------------------------------------- a plan on disk

def save_plan(plan: Plan, file: BinaryIO) -> None:
    """Write a plan as .npz: arrays, and everything else as JSON beside them."""
    arrays = {name: getattr(plan, name) for name in PLAN_ARRAYS}
    facts = {f.name: getattr(plan, f.name) for f in fields(plan) if f.name not in (*PLAN_ARRAYS, "fluence", "config")}
    fluence = {f"fluence_{beam}": weights for beam, weights in enumerate(plan.fluence)}
    np.savez_compressed(file, facts=json.dumps(facts | {"config": asdict(plan.config)}), **arrays, **fluence)


def load_plan(path: str | Path) -> Plan:
    """The plan that `save_plan` wrote: it recalculates to the same bits. Raises VaeliteError if it cannot be read."""
    try:
        with np.load(path) as arrays:
            facts = json.loads(str(arrays["facts"]))
            facts = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
            criteria = tuple(map(tuple, facts["config"]["gamma_criteria"]))
            config = DoseConfig(**facts.pop("config") | {"gamma_criteria": criteria})
            fluence = tuple(arrays[f"fluence_{beam}"] for beam in range(len(facts["gantry_deg"])))
            return Plan(**facts, **{name: arrays[name] for name in PLAN_ARRAYS}, fluence=fluence, config=config)
    except (OSError, EOFError, ValueError, KeyError, TypeError, BadZipFile) as error:
        raise VaeliteError(f"{path} is not a plan of this version ({error}). Remove it: it is then made again.") from error


# ---------------------------------------------------------------- what may not go in

def _check_ct(ct_hu: np.ndarray, body: np.ndarray) -> np.ndarray:
    ct_hu = np.asarray(ct_hu, np.float32)
    if body is None or not np.any(body):
        raise VaeliteError("No body contour: pass the mask of the patient's outline. All outside counts as air.")
    if ct_hu.shape != np.shape(body) or ct_hu.ndim != 3:
        raise VaeliteError(f"The CT has {ct_hu.shape} voxels, the body mask {np.shape(body)}: resample one of them.")
    if not np.isfinite(ct_hu).all():
        raise VaeliteError(f"{np.count_nonzero(~np.isfinite(ct_hu))} voxels of the CT are not finite: repair it first.")
    if (middle := float(np.median(ct_hu[np.asarray(body, bool)]))) > 500:      # soft tissue is near 40
        raise VaeliteError(f"Half of the body is above {middle:.0f} HU: no patient is. Is the offset of -1024 missing?")
    if np.ptp(ct_hu) < 50:
        raise VaeliteError(f"{ct_hu.min():g} to {ct_hu.max():g} are no Hounsfield units: apply unit_to_hu first.")
    return ct_hu


def _check_masks(structures, body, prescriptions_gy) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Boolean masks, the targets cut at the body (up to 1 % of a target may lie outside: contours are jagged)."""
    body = np.asarray(body, bool)
    masks = {name: np.asarray(mask, bool) for name, mask in structures.items()}
    if not prescriptions_gy:
        raise VaeliteError("No prescription: pass prescriptions_gy, for example {'PTV': 70.0}.")
    for name, mask in masks.items():
        if mask.shape != body.shape:
            raise VaeliteError(f"{name} has {mask.shape} voxels, the body mask {body.shape}: they need one grid.")
    for name, dose_gy in prescriptions_gy.items():
        if name not in masks or not masks[name].any():
            fault = "empty" if name in masks else "missing"
            raise VaeliteError(f"The target {name} is {fault}. The structures given are: {', '.join(masks)}.")
        if not (np.isfinite(dose_gy) and dose_gy > 0):
            raise VaeliteError(f"The prescription of {name} must be above 0 Gy, not {dose_gy!r}.")
        outside_percent = 100 * np.count_nonzero(masks[name] & ~body) / np.count_nonzero(masks[name])
        if outside_percent > 1:
            raise VaeliteError(f"{outside_percent:.0f} % of the target {name} lies outside the body: check both.")
        masks[name] = masks[name] & body
    return masks, body


def _air_percent(ct_hu: np.ndarray, body: np.ndarray) -> float:
    return float(100 * np.mean(ct_hu[body] < -900))


# ---------------------------------------------------------------- the optimiser

def _objectives(masks: dict[str, np.ndarray], prescriptions_gy: dict[str, float], grid) -> tuple[list, tuple[str, ...]]:
    """What the plan should do, as (kind, voxels, limit [Gy], weight), and the structures that had no voxel left for it.

    An overlap belongs to the higher target, then the lower one, then the organ. Outside, the limit falls linearly
    from the prescription at the target's edge to 35 % of it 40 mm away (our choice).
    """
    terms, left_out = [], [name for name, mask in masks.items() if not mask.any()]
    taken = np.zeros_like(masks["body"])
    tissue_limit_gy = np.zeros(taken.shape)
    spacing_mm = grid.resolution_vector[::-1]
    for name in sorted(prescriptions_gy, key=prescriptions_gy.get, reverse=True):
        if name in left_out:                                 # never planned for another target's dose in its place
            raise VaeliteError(f"The target {name} is too small: it has no voxel on the dose grid ({max(spacing_mm):.3g} mm). "
                               "Set dose.grid_mm smaller, or leave its prescription out.")
        terms.append(("equal", np.flatnonzero(masks[name] & ~taken), prescriptions_gy[name], TARGET_WEIGHT))
        taken |= masks[name]
        distance_mm = ndimage.distance_transform_edt(~masks[name], sampling=spacing_mm)
        falloff = np.clip(1 - 0.65 * distance_mm / 40, 0.35, 1)
        tissue_limit_gy = np.maximum(tissue_limit_gy, falloff * prescriptions_gy[name])
    for name, mask in masks.items():
        organ = next((organ for organ in ORGAN_LIMITS if name.startswith(organ)), None)
        if organ and name not in left_out:
            kind, limit_gy, weight = ORGAN_LIMITS[organ]
            terms.append((kind, np.flatnonzero(mask & masks["body"] & ~taken), limit_gy, weight))
            left_out += [name] if terms[-1][1].size == 0 else []
    tissue = np.flatnonzero(masks["body"] & ~taken)
    terms.append(("max", tissue, tissue_limit_gy.ravel()[tissue], TISSUE_WEIGHT))
    return [term for term in terms if term[1].size], tuple(left_out)


def _cost_and_gradient(dose_gy: np.ndarray, terms: list) -> tuple[float, np.ndarray]:
    """Sum of weight * mean squared violation (matRad's objectives), and its derivative for the dose of each voxel."""
    cost, gradient = 0.0, np.zeros_like(dose_gy)
    for kind, voxels, limit_gy, weight in terms:
        excess = (dose_gy[voxels].mean() if kind == "mean" else dose_gy[voxels]) - limit_gy
        if kind != "equal":
            excess = np.maximum(excess, 0)
        cost += weight * float(np.mean(excess**2))
        gradient[voxels] += (2 * weight / voxels.size) * excess
    return cost, gradient


def _optimise(influence, terms: list, iterations: int) -> tuple[np.ndarray, tuple[float, ...]]:
    """Beamlet weights >= 0 that lower the cost (L-BFGS-B from a uniform fluence), and the cost after each step."""
    matrix = influence.physical_dose.flat[0]
    rows, starts = matrix.indices.astype(np.int32), matrix.indptr.astype(np.int32)      # half the memory to read
    matrix = sparse.csc_array((matrix.data, rows, starts), matrix.shape)
    uniform = np.ones(matrix.shape[1], np.float32)
    kind, voxels, prescription_gy, _ = terms[0]
    scale = np.float32(prescription_gy / (matrix @ uniform)[voxels].mean())         # weights near 1 suit the optimiser
    history = []

    def cost(weights):
        value, gradient = _cost_and_gradient(matrix @ (scale * weights.astype(np.float32)), terms)
        return value, (scale * (matrix.T @ gradient)).astype(np.float64)

    result = optimize.minimize(
        cost, uniform.astype(np.float64), jac=True, method="L-BFGS-B", bounds=[(0, None)] * uniform.size,
        callback=lambda intermediate_result: history.append(float(intermediate_result.fun)),
        options={"maxiter": iterations, "maxcor": 20},
    )
    return (scale * result.x).astype(np.float32), tuple(history)


# ---------------------------------------------------------------- talking to pyRadPlan

def _patient(ct_hu, spacing_mm, body, target, config):
    """pyRadPlan's CT and contours, cut to the body: air outside costs time and memory but changes no dose."""
    box = _body_box(body, spacing_mm, config)
    origin_mm = [box[axis].start * spacing_mm[axis] for axis in (2, 1, 0)]
    return _pyradplan_patient(ct_hu[box], spacing_mm, origin_mm, body[box], target[box])


def _body_box(body, spacing_mm, config) -> tuple[slice, ...]:
    """The body's bounding box with room for one beamlet around it."""
    box = ndimage.find_objects(body.astype(np.uint8))[0]
    margins = [int(np.ceil(config.bixel_mm / spacing)) for spacing in spacing_mm]
    return tuple(slice(max(0, side.start - margin), min(size, side.stop + margin))
                 for side, margin, size in zip(box, margins, body.shape))


def _pyradplan_patient(ct_hu, spacing_mm, origin_mm, body, target):
    import SimpleITK as sitk
    from pyRadPlan.cst import create_cst, create_voi
    from pyRadPlan.ct import create_ct

    image = sitk.GetImageFromArray(np.ascontiguousarray(ct_hu, np.float32))         # LPS by default
    image.SetSpacing(spacing_mm[::-1])
    image.SetOrigin(origin_mm)
    ct = create_ct(cube_hu=image)
    contours = [create_voi(name="target", voi_type="TARGET", ct_image=ct, mask=target.astype(np.uint8)),
                create_voi(name="body", voi_type="EXTERNAL", ct_image=ct, mask=body.astype(np.uint8))]
    return ct, create_cst(contours, ct=ct)


def _settings(spacing_mm, contours, config, cutoff_mm):
    """Beams, dose grid, and how far beyond a beamlet or a field its dose is followed."""
    from pyRadPlan import PhotonPlan

    settings = PhotonPlan(machine="Generic", num_of_fractions=1)
    settings.prop_stf = {
        "gantry_angles": [360.0 * i / config.n_fields for i in range(config.n_fields)],
        "couch_angles": [0.0] * config.n_fields,
        "bixel_width": config.bixel_mm,
        "iso_center": contours.target_center_of_mass(),
    }
    resolution_mm = [max(config.grid_mm, spacing) for spacing in spacing_mm]
    settings.prop_dose_calc = {
        "dose_grid": {"resolution": _xyz(resolution_mm)}, "geometric_lateral_cutoff": cutoff_mm,
        "force_uniform_fluence": True,                      # fields without the machine's horns, as its beamlets are
    }
    return settings


def _fluence_maps(steering, weights, bixel_mm) -> tuple[np.ndarray, ...]:
    """The beamlet weights as one square map per beam around the isocentre: rows along z, columns across the beam."""
    maps, start = [], 0
    for beam in steering.beams:
        cells = np.rint(np.array([ray.ray_pos_bev for ray in beam.rays]) / bixel_mm).astype(int)
        reach = np.abs(cells).max()
        fluence = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
        fluence[cells[:, 2] + reach, cells[:, 0] + reach] = weights[start:start + len(cells)]
        start += len(cells)
        maps.append(fluence)
    return tuple(maps)


def _fields(plan: Plan, step_mm=0.5):
    """Each beam as a single open field of uneven fluence: one convolution instead of a hundred."""
    from pyRadPlan.stf import FieldShapeAsMask, create_stf

    beams, bixel_mm = [], plan.config.bixel_mm
    for gantry_deg, weights in zip(plan.gantry_deg, plan.fluence):
        half_mm = bixel_mm * len(weights) / 2
        count = int(np.ceil(half_mm / step_mm)) + 1
        position_mm = step_mm * np.arange(-count, count + 1)
        cell = np.floor((position_mm + half_mm) / bixel_mm).astype(int) + 1         # + 1: a closed border around it
        fine = np.pad(weights, 1)[np.ix_(np.clip(cell, 0, len(weights) + 1), np.clip(cell, 0, len(weights) + 1))]
        shape = FieldShapeAsMask(energy=6.0, mask=fine[::-1], resolution=step_mm)   # its rows run from +z to -z
        source, source_bev = SOURCE_MM * _towards_source(gantry_deg), np.array([0.0, -SOURCE_MM, 0.0])
        ray = {"ray_pos": np.zeros(3), "ray_pos_bev": np.zeros(3), "target_point": -source,
               "target_point_bev": -source_bev, "beamlets": [shape]}
        beams.append({"gantry_angle": gantry_deg, "couch_angle": 0.0, "bixel_width": bixel_mm, "sad": SOURCE_MM,
                      "radiation_mode": "photons", "machine": "Generic", "iso_center": np.array(plan.isocentre_mm[::-1]),
                      "source_point": source, "source_point_bev": source_bev, "rays": [ray]})
    return create_stf({"beams": beams})


def _towards_source(gantry_deg: float) -> np.ndarray:
    """Unit vector (x, y, z) from the isocentre: 0 degrees to the front (-y), 90 to the patient's left (+x)."""
    return np.array([np.sin(np.radians(gantry_deg)), -np.cos(np.radians(gantry_deg)), 0.0])


def _to_dose_grid(mask, influence) -> np.ndarray:
    """A CT-grid mask on the dose grid: voxels that are at least half inside."""
    import SimpleITK as sitk
    from pyRadPlan.core.resample import resample_numpy_array

    share = resample_numpy_array(mask.astype(np.float32), reference_grid=influence.ct_grid,
                                 target_grid=influence.dose_grid, interpolator=sitk.sitkLinear)
    return share >= 0.5


def _array(result) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(result["physical_dose"])


def _xyz(zyx) -> dict[str, float]:
    return dict(zip("zyx", (float(value) for value in zyx)))


@contextlib.contextmanager
def _quiet():
    """Silence pyRadPlan's progress bars, prints, warnings and log lines, and keep torch's threads; exceptions pass."""
    logger = logging.getLogger("pyRadPlan")
    level, nowhere, threads = logger.level, io.StringIO(), torch.get_num_threads()
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    except ImportError as missing:
        advice = "run `make .venv`, or `pip install -e .[dose]`"
        raise VaeliteError(f"Dose needs pyRadPlan 0.3.5 ({missing}): {advice}.") from missing
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)                      # pyRadPlan changes it, and with it the networks' last bits
