"""One patient in one pose: every tissue painted in order, from the skin inwards."""
from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from phantom import brain, face, head, neck, spine, tumour
from phantom.grid import Grid, Streams
from phantom.shapes import Canvas
from phantom.tissues import case_signals
from phantom.traits import Pose, Traits


@dataclass(frozen=True)
class Anatomy:
    """values: (column, z, y, x) ideal HU and MR values as `case_signals` gives them; label: tissue index; body: signed
    distance to the skin [mm]; organs: {name: bool (z, y, x)}; metal: distance to the nearest filling [mm], or None."""

    values: np.ndarray
    label: np.ndarray
    body: np.ndarray
    organs: dict[str, np.ndarray]
    metal: np.ndarray | None


def build_anatomy(grid: Grid, traits: Traits, pose: Pose, streams: Streams,
                  signals: np.ndarray | None = None) -> Anatomy:
    """The patient on any grid: the same place in the body has the same tissue, however large the voxels.

    signals: (tissue, column) what to paint, HU in the first column; default: `case_signals` of this patient.
    """
    signals = case_signals(streams("tissues")) if signals is None else signals
    canvas = Canvas(grid, signals, *reference_position(grid, traits, pose, streams))
    traits = replace(traits, fat=traits.fat * (1 - pose.weight_loss))
    jaw = face.jaw_turn(traits.jaw_mm + pose.jaw_mm)
    cavity = brain.brain_outline(canvas) - traits.csf_mm
    skull_mm = skull_thickness(canvas, traits, streams)
    body = head.body_outline(canvas, cavity, skull_mm, traits, grid.smooth_noise(streams("skin"), 30))
    canvas.paint("skin", body)
    canvas.paint("fat", body + 2.2)
    neck.paint_muscles(canvas, body, traits, pose, jaw, streams)
    spine.paint_shoulders(canvas, body, traits)
    neck.paint_glands(canvas, body, traits, pose, streams)
    neck.paint_vessels(canvas, body, traits, streams)
    head.paint_skull(canvas, cavity, skull_mm, streams)
    brain.paint_brain(canvas, cavity, traits, streams)
    spine.paint_spine(canvas, traits, streams)
    head.paint_foramina(canvas)
    face.paint_orbits(canvas, body, streams)
    face.paint_sinuses(canvas, traits, pose, streams)
    face.paint_nose(canvas, body, pose, streams)
    neck.paint_airway(canvas, body, traits, pose, jaw, streams)
    if traits.surgery == "flap":
        face.paint_flap(canvas, body, traits, jaw)
    face.paint_mandible(canvas, body, traits, jaw, streams)
    fillings = face.paint_teeth(canvas, body, traits, jaw, streams)
    neck.paint_larynx(canvas, traits, streams)
    tumour.paint_tumour(canvas, body, traits, pose, streams)
    return Anatomy(canvas.values, canvas.label, body, canvas.organs, distance_to(fillings, canvas))


def reference_position(grid: Grid, traits: Traits, pose: Pose, streams: Streams) -> tuple[np.ndarray, ...]:
    """Each voxel's place (x, y, z) in the reference patient: size, length of the neck, turn of the head, bend of the
    neck, and a smooth random deformation, coarse and fine."""
    z, y, x = grid.mesh()
    warp = [traits.warp_mm * grid.smooth_noise(streams(f"warp {axis}"), 120)
            + 0.3 * traits.warp_mm * grid.smooth_noise(streams(f"fine warp {axis}"), 50) for axis in "xyz"]
    turn = np.radians(traits.turn_degree) * np.clip((z + 110) / 80, 0, 1)  # the shoulders do not turn
    turned_x, turned_y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    bent = np.clip(-z / 100, 0, 1.7) ** 1.6
    scale_x, scale_y, scale_z = traits.scale
    along = z / scale_z
    along = np.where(along < -30, -30 + (along + 30) / traits.neck_length, along)
    return (turned_x / scale_x + traits.tilt_mm * bent + warp[0],
            turned_y / scale_y + (traits.flexion_mm + pose.flexion_mm) * bent + warp[1],
            along + warp[2])


def skull_thickness(canvas: Canvas, traits: Traits, streams: Streams) -> np.ndarray:
    """Thickness of the vault [mm], thinner at the temples and in the base."""
    thickness = traits.skull_mm + 1.0 * canvas.grid.smooth_noise(streams("skull thickness"), 55)
    temple = 1.5 * (np.abs(canvas.x) > 45) * np.clip((30 - np.abs(canvas.z - 20)) / 30, 0, 1)
    base = np.clip((6 - canvas.z) / 12, 0, 1) * 0.45
    return np.clip((thickness - temple) * (1 - base), 2.6, 11).astype(np.float32)


def distance_to(points: list[tuple[float, float, float]], canvas: Canvas) -> np.ndarray | None:
    if not points:
        return None
    squared = [(canvas.x - x) ** 2 + (canvas.y - y) ** 2 + (canvas.z - z) ** 2 for x, y, z in points]
    return np.sqrt(np.minimum.reduce(squared))
