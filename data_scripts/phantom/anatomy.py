"""One patient in one pose: every tissue painted in order, from the skin inwards."""
from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from phantom import brain, face, head, neck, spine, tumour
from phantom.grid import Grid, Streams
from phantom.shapes import Canvas
from phantom.tissues import case_signals
from phantom.traits import Pose, Traits


@dataclass(frozen=True)
class Anatomy:
    """values: (column, z, y, x) as painted, ideal HU first; label: tissue index; body: signed distance to the skin [mm];
    organs: {name: bool (z, y, x)}; metal: distance to the nearest filling [mm], or None."""

    values: np.ndarray
    label: np.ndarray
    body: np.ndarray
    organs: dict[str, np.ndarray]
    metal: np.ndarray | None


def build_anatomy(grid: Grid, traits: Traits, pose: Pose, streams: Streams,
                  signals: np.ndarray | None = None) -> Anatomy:
    """signals: (tissue, column) what to paint, HU in the first column; default: this patient's HU, T1c and T2w."""
    signals = case_signals(streams("tissues")) if signals is None else signals
    canvas = Canvas(grid, signals, *reference_position(grid, traits, pose, streams))
    bumps = grid.smooth_noise(streams("skin"), 30)
    cavity = brain.brain_outline(canvas) - traits.csf_mm
    skull_mm = skull_thickness(canvas, traits, streams)
    body = head.body_outline(canvas, cavity, skull_mm, traits, bumps)
    canvas.paint("skin", body)
    canvas.paint("fat", body + 2.2)
    neck.paint_muscles(canvas, body, traits, pose, streams)
    neck.paint_glands(canvas, body, traits, streams)
    neck.paint_vessels(canvas, body, streams)
    head.paint_skull(canvas, cavity, skull_mm, streams)
    brain.paint_brain(canvas, cavity, traits, streams)
    spine.paint_spine(canvas)
    face.paint_orbits(canvas, body, streams)
    face.paint_sinuses(canvas, traits, streams)
    face.paint_nose(canvas, body, streams)
    neck.paint_airway(canvas, body, traits, pose, streams)
    lowered_mm = face.paint_mandible(canvas, body, pose, streams)
    fillings = face.paint_teeth(canvas, body, lowered_mm, streams)
    neck.paint_larynx(canvas, streams)
    tumour.paint_tumour(canvas, body, traits, streams)
    return Anatomy(canvas.values, canvas.label, body, canvas.organs, distance_to(fillings, canvas))


def reference_position(grid: Grid, traits: Traits, pose: Pose, streams: Streams) -> tuple[np.ndarray, ...]:
    """Each voxel's place (x, y, z) in the reference head: size, turn and bend of the neck, a smooth random warp."""
    z, y, x = grid.mesh()
    warp = [grid.smooth_noise(streams(f"warp {axis}"), 90) * mm for axis, mm in (("x", 2.2), ("y", 2.6), ("z", 2.2))]
    turn = np.radians(traits.turn_degree) * np.clip((z + 110) / 80, 0, 1)  # the shoulders do not turn
    turned_x, turned_y = x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)
    bend = (traits.flexion_mm + pose.flexion_mm) * np.clip(-z / 100, 0, 2) ** 1.6
    scale_x, scale_y, scale_z = traits.scale
    return turned_x / scale_x + warp[0], turned_y / scale_y + bend + warp[1], z / scale_z + warp[2]


def skull_thickness(canvas: Canvas, traits: Traits, streams: Streams) -> np.ndarray:
    """Thickness of the vault [mm], thinner at the temples."""
    thickness = traits.skull_mm + 0.8 * canvas.grid.smooth_noise(streams("skull thickness"), 55)
    temple = 1.5 * (np.abs(canvas.x) > 45) * np.clip((30 - np.abs(canvas.z - 20)) / 30, 0, 1)
    return np.clip(thickness - temple, 3.2, 11).astype(np.float32)


def distance_to(points: list[tuple[float, float, float]], canvas: Canvas) -> np.ndarray | None:
    if not points:
        return None
    squared = [(canvas.x - x) ** 2 + (canvas.y - y) ** 2 + (canvas.z - z) ** 2 for x, y, z in points]
    return np.sqrt(np.minimum.reduce(squared))
