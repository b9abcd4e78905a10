"""Signed distances (negative inside, millimetres) and the canvas on which tissues are painted in order."""
from __future__ import annotations

import numpy as np

from phantom.grid import Grid
from phantom.tissues import TISSUE_ID

LEFT, RIGHT = 1, -1
SIDES = (RIGHT, LEFT)
BLOCK = 4  # voxels per side of the blocks by which the box around a shape is found
Point = tuple[float, float, float]  # (x, y, z) [mm]


def mirrored(point: Point, side: int) -> Point:
    """A point given for the patient's left, on the side wanted."""
    return point[0] * side, point[1], point[2]


def ellipsoid_distance(x, y, z, centre: Point, radii: Point) -> np.ndarray:
    """Approximate signed distance [mm] to an ellipsoid: exact on the surface, scaled by a mean radius off it."""
    px, py, pz = (x - centre[0]) / radii[0], (y - centre[1]) / radii[1], (z - centre[2]) / radii[2]
    q = np.sqrt(px ** 2 + py ** 2 + pz ** 2)
    return (q - 1) * np.float32(0.6 * min(radii) + 0.4 * np.mean(radii))


def capsule_distance(x, y, z, start: Point, end: Point, radius: float, end_radius: float | None = None,
                     stretch: Point = (1, 1, 1)) -> np.ndarray:
    """Signed distance [mm] to a rod with round ends, tapering to `end_radius`; `stretch` widens it along x, y, z."""
    end_radius = radius if end_radius is None else end_radius
    sx, sy, sz = stretch
    axis = (np.asarray(end, np.float32) - np.asarray(start, np.float32)) / np.asarray(stretch, np.float32)
    px, py, pz = (x - start[0]) / sx, (y - start[1]) / sy, (z - start[2]) / sz
    along = (px * axis[0] + py * axis[1] + pz * axis[2]) / max(float(axis @ axis), 1e-6)
    along = np.clip(along, 0, 1)
    off_axis = np.sqrt((px - axis[0] * along) ** 2 + (py - axis[1] * along) ** 2 + (pz - axis[2] * along) ** 2)
    return (off_axis - (radius + (end_radius - radius) * along)) * np.float32(np.mean(stretch))


def smooth_union(a, b, blend_mm: float) -> np.ndarray:
    """Union of two signed distances with a fillet of about `blend_mm` (the polynomial smooth minimum)."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend_mm, 0, 1)
    return b + (a - b) * h - blend_mm * h * (1 - h)


def block_extreme(extreme: np.ufunc, axis: np.ndarray) -> np.ndarray:
    """Least or greatest value in each block of BLOCK x BLOCK x BLOCK voxels."""
    for along in range(3):
        axis = extreme.reduceat(axis, np.arange(0, axis.shape[along], BLOCK), axis=along)
    return axis


class Canvas:
    """Volumes being painted: one per column of `signals` (HU first), the tissue label, and named organs.

    x, y, z: (z, y, x) each, the voxel's position in the *reference* head [mm]: shapes are drawn there, and the random
    warp from patient to reference is what makes every patient different. signals: (tissue, column) as painted.
    """

    def __init__(self, grid: Grid, signals: np.ndarray, x: np.ndarray, y: np.ndarray, z: np.ndarray):
        self.grid, self.signals = grid, signals
        self.x, self.y, self.z = (np.ascontiguousarray(axis, dtype=np.float32) for axis in (x, y, z))
        self.values = np.empty((signals.shape[1], *grid.shape), np.float32)
        self.values[:] = signals[TISSUE_ID["air"]][:, None, None, None]
        self.label = np.zeros(grid.shape, np.uint8)
        self.organs: dict[str, np.ndarray] = {}
        self.edge_mm = np.float32(np.mean(grid.spacing_mm))  # width of the partial-volume edge
        self.lowest = [block_extreme(np.minimum, axis) for axis in (self.z, self.y, self.x)]
        self.highest = [block_extreme(np.maximum, axis) for axis in (self.z, self.y, self.x)]

    def box(self, low: Point, high: Point) -> tuple[slice, slice, slice]:
        """The blocks of voxels that a shape between two corners (x, y, z) of the reference head can reach."""
        near = np.ones(self.lowest[0].shape, bool)
        for lowest, highest, first, last in zip(self.lowest, self.highest, reversed(low), reversed(high), strict=True):
            near &= (highest > first - self.edge_mm) & (lowest < last + self.edge_mm)
        slices = []
        for along, n in enumerate(self.grid.shape):
            blocks = np.flatnonzero(near.any(axis=tuple({0, 1, 2} - {along})))
            slices.append(slice(BLOCK * int(blocks[0]), min(BLOCK * int(blocks[-1] + 1), n)) if blocks.size
                          else slice(0, 0))
        return tuple(slices)

    def stretch_at(self, point: Point) -> float:
        """Reference mm per mm of this patient near a point of the reference: what to multiply a radius by where an
        organ's size does not follow the size of the head (the eye's, above all)."""
        middle = [(low + high) / 2 for low, high in zip(self.lowest, self.highest, strict=True)]
        nearest = np.argmin(sum((axis - mm) ** 2 for axis, mm in zip(middle, reversed(point), strict=True)))
        index = np.unravel_index(nearest, middle[0].shape)
        around = tuple(slice(max(i - 1, 0), i + 2) for i in index)
        jacobian = [[np.gradient(axis[around], BLOCK * step, axis=along).mean() if axis[around].shape[along] > 1 else
                     float(row == along) for along, step in enumerate(self.grid.spacing_mm)]
                    for row, axis in enumerate(middle)]
        return float(abs(np.linalg.det(np.array(jacobian, float))) ** (1 / 3))

    def paint(self, tissue: str, distance: np.ndarray, where=..., mask: np.ndarray | None = None,
              organ: str | None = None, edge_mm: float | None = None) -> None:
        """Cover the inside of `distance` with a tissue; voxels on the edge are mixed by their share.

        `where`: the box that `distance` covers. mask: full grid, 0..1, limits the paint. organ: also remember it.
        """
        if organ:
            self.organ(organ)
        if not distance.size:  # the shape is outside the grid
            return
        share = np.clip(np.float32(0.5) - distance / (edge_mm or self.edge_mm), 0, 1)
        if mask is not None:
            share = share * mask[where]
        for channel, signal in enumerate(self.signals[TISSUE_ID[tissue]]):
            view = self.values[channel][where]
            view += share * (signal - view)
        inside = share > 0.5
        self.label[where][inside] = TISSUE_ID[tissue]
        if organ:
            self.organ(organ)[where][inside] = True

    def organ(self, name: str) -> np.ndarray:
        return self.organs.setdefault(name, np.zeros(self.grid.shape, bool))

    def is_tissue(self, *names: str) -> np.ndarray:
        return np.isin(self.label, [TISSUE_ID[name] for name in names])

    def ellipsoid(self, tissue: str, centre: Point, radii: Point, bump: np.ndarray | None = None, side: int = LEFT,
                  **paint) -> None:
        """Paint an ellipsoid. bump: full grid [mm], added to the distance (an irregular surface).

        side: here and below, positions are given for the patient's left; RIGHT mirrors them.
        """
        centre = mirrored(centre, side)
        where = self.box(np.subtract(centre, radii), np.add(centre, radii))
        distance = ellipsoid_distance(self.x[where], self.y[where], self.z[where], centre, radii)
        if bump is not None:
            distance = distance + bump[where]
        self.paint(tissue, distance, where, **paint)

    def capsule(self, tissue: str, start: Point, end: Point, radius: float, end_radius: float | None = None,
                stretch: Point = (1, 1, 1), side: int = LEFT, **paint) -> None:
        self.paint(tissue, *self.capsule_in_box(start, end, radius, end_radius, stretch, side), **paint)

    def bone(self, start: Point, end: Point, radius: float, end_radius: float | None = None, stretch: Point = (1, 1, 1),
             shell_mm: float = 1.6, side: int = LEFT, **paint) -> None:
        """A capsule of spongy bone in a cortical shell."""
        distance, where = self.capsule_in_box(start, end, radius, end_radius, stretch, side)
        self.paint("cortical bone", distance, where, **paint)
        self.paint("spongy bone", distance + shell_mm, where, **paint)

    def capsule_in_box(self, start: Point, end: Point, radius: float, end_radius: float | None, stretch: Point,
                       side: int) -> tuple[np.ndarray, tuple[slice, slice, slice]]:
        """-> (signed distance, the box it covers)."""
        start, end = mirrored(start, side), mirrored(end, side)
        reach = max(radius, end_radius or radius) * np.asarray(stretch)
        where = self.box(np.minimum(start, end) - reach, np.maximum(start, end) + reach)
        x, y, z = self.x[where], self.y[where], self.z[where]
        return capsule_distance(x, y, z, start, end, radius, end_radius, stretch), where
