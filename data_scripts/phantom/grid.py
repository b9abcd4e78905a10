"""The voxel grid, its smooth random fields, and the random streams of one case.

Axes (z, y, x), LPS, millimetres: x to the patient's left, y to the back, z to the head; z = 0 at the ear canals.
"""
from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

IN_PLANE_MM = 256.0
HEIGHT_MM = 240.0
LOWEST_MM = -164.0
SURROUNDINGS_MM = (195.0, 320.0, 512.0)  # (z, y, x): shoulders and upper chest, wider than the field of view
SURROUNDINGS_LOWEST_MM = -239.0
# The lattices of smooth noise (z, y, x) reach from FIRST to LAST, past every voxel [mm]
LATTICE_FIRST_MM, LATTICE_LAST_MM = (-260.0, -180.0, -276.0), (100.0, 180.0, 276.0)


class Streams:
    """One independent random stream per name, so that adding an organ changes no other organ of the same case."""

    def __init__(self, *key: int):
        self.key = key

    def __call__(self, name: str) -> np.random.Generator:
        return np.random.default_rng([*self.key, zlib.crc32(name.encode())])


@dataclass(frozen=True)
class Grid:
    """A voxel grid: shape (z, y, x), spacing_mm (dz, dy, dx), lowest_mm the lower face of the lowest slice."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    lowest_mm: float = LOWEST_MM

    @classmethod
    def of_size(cls, size: int) -> Grid:
        """size x size x size / 2 voxels on 256 x 256 x 240 mm: 128 -> 2 x 2 x 3.75 mm."""
        return cls((size // 2, size, size), (HEIGHT_MM / (size // 2), IN_PLANE_MM / size, IN_PLANE_MM / size))

    @classmethod
    def surroundings(cls, size: int) -> Grid:
        """Shoulders and upper chest around `of_size(size)`, in voxels about twice as large: 512 x 320 mm in plane,
        from 75 mm below that grid to the middle of the neck (above it the grid itself holds the whole body)."""
        wanted = np.array((2 * HEIGHT_MM / (size // 2), 2 * IN_PLANE_MM / size, 2 * IN_PLANE_MM / size))
        shape = np.ceil(np.array(SURROUNDINGS_MM) / wanted).astype(int)
        spacing = np.array(SURROUNDINGS_MM) / shape
        return cls(tuple(map(int, shape)), tuple(map(float, spacing)), SURROUNDINGS_LOWEST_MM)

    @cached_property
    def z_mm(self) -> np.ndarray:
        return (self.lowest_mm + (np.arange(self.shape[0]) + 0.5) * self.spacing_mm[0]).astype(np.float32)

    @cached_property
    def y_mm(self) -> np.ndarray:
        return ((np.arange(self.shape[1]) - (self.shape[1] - 1) / 2) * self.spacing_mm[1]).astype(np.float32)

    @cached_property
    def x_mm(self) -> np.ndarray:
        return ((np.arange(self.shape[2]) - (self.shape[2] - 1) / 2) * self.spacing_mm[2]).astype(np.float32)

    @property
    def origin_lps_mm(self) -> tuple[float, float, float]:
        """Position (x, y, z) of the first voxel's centre [mm]."""
        return float(self.x_mm[0]), float(self.y_mm[0]), float(self.z_mm[0])

    def mesh(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates (z, y, x) of all voxels [mm], broadcastable to the grid."""
        return tuple(np.meshgrid(self.z_mm, self.y_mm, self.x_mm, indexing="ij", sparse=True))

    @property
    def centre_mm(self) -> tuple[float, float, float]:
        """(z, y, x) of the middle of the grid [mm]."""
        return self.lowest_mm + self.shape[0] * self.spacing_mm[0] / 2, 0.0, 0.0

    def smooth_noise(self, generator: np.random.Generator, wavelength_mm: float) -> np.ndarray:
        """A smooth random field, about unit standard deviation, the same in space whatever the grid.

        Random coefficients on a lattice half a wavelength wide, interpolated by cubic B-splines.
        """
        step = wavelength_mm / 2
        counts = [int((last - first) / step) + 4 for first, last in zip(LATTICE_FIRST_MM, LATTICE_LAST_MM, strict=True)]
        field = generator.standard_normal(counts, dtype=np.float32)
        for axis, positions in enumerate((self.z_mm, self.y_mm, self.x_mm)):
            weights = spline_weights(positions - LATTICE_FIRST_MM[axis], step, counts[axis])
            field = np.moveaxis(np.tensordot(weights, field, axes=(1, axis)), 0, axis)
        # a cubic B-spline keeps 0.692 of the standard deviation along each axis, averaged over positions
        return np.ascontiguousarray(field, dtype=np.float32) / np.float32(0.692 ** 3)


def spline_weights(positions_mm: np.ndarray, step_mm: float, n: int) -> np.ndarray:
    """Cubic B-spline weights of n lattice points at positions (m,) from the lattice's first point -> (m, n)."""
    at = positions_mm / step_mm
    first = np.floor(at).astype(int)
    f = at - first
    weights = ((1 - f) ** 3 / 6, (3 * f ** 3 - 6 * f ** 2 + 4) / 6, (-3 * f ** 3 + 3 * f ** 2 + 3 * f + 1) / 6,
               f ** 3 / 6)
    matrix = np.zeros((len(positions_mm), n), np.float32)
    rows = np.arange(len(positions_mm))
    for offset, weight in enumerate(weights):
        matrix[rows, np.clip(first + offset - 1, 0, n - 1)] += weight
    return matrix
