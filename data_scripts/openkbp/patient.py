"""One OpenKBP patient: sparse csv files -> arrays in (z, y, x), LPS.

Each csv holds the columns `,data`: a flat index in C order over (128, 128, 128) and a value; a mask lists indices only.
The published axes are (y, x, -z): to the back, to the patient's left, to the feet. This is not documented: it was found
by looking at the patients, and is checked by anatomy for each one (`openkbp.checks`).
"""
from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vaelite.errors import VaeliteError

PUBLISHED_SHAPE = (128, 128, 128)                        # y, x, -z
STORED_RANGE = (0, 4095)                                 # a scanner's 12 bits; metal is stored beyond them
STORED_WATER = 1024                                      # HU = stored - 1024: inferred, see openkbp.checks
AIR_HU = -1000.0                                         # voxels that a csv leaves out (stored 0) are air
STRUCTURES = {                                           # published name: ours
    "PTV70": "PTV70", "PTV63": "PTV63", "PTV56": "PTV56", "Brainstem": "Brainstem", "SpinalCord": "SpinalCord",
    "LeftParotid": "Parotid_L", "RightParotid": "Parotid_R", "Larynx": "Larynx", "Mandible": "Mandible",
    "Esophagus": "Esophagus",
}
PRESCRIPTIONS_GY = {"PTV70": 70.0, "PTV63": 63.0, "PTV56": 56.0}
REQUIRED = ("ct", "dose", "voxel_dimensions")
MEND = "Copy the patient's folder again from the published repository."


@dataclass(frozen=True, eq=False)
class Patient:
    """ct_hu, dose_gy: (z, y, x) float32, LPS; structures: {our name: bool (z, y, x)}; spacing_mm = (dz, dy, dx)."""

    ct_hu: np.ndarray
    dose_gy: np.ndarray
    structures: dict[str, np.ndarray]
    spacing_mm: tuple[float, float, float]

    def prescriptions_gy(self) -> dict[str, float]:
        return {name: dose for name, dose in PRESCRIPTIONS_GY.items() if name in self.structures}


def check_files(folder: Path) -> None:
    """Refuse a patient that lacks a file nothing can replace (organs may be missing: not all were drawn)."""
    missing = [f"{name}.csv" for name in REQUIRED if not (folder / f"{name}.csv").is_file()]
    if not any((folder / f"{name}.csv").is_file() for name in PRESCRIPTIONS_GY):
        missing.append(" or ".join(f"{name}.csv" for name in PRESCRIPTIONS_GY))
    if missing:
        raise VaeliteError(f"{folder}: {', '.join(missing)} missing. {MEND}")


def read_patient(folder: Path) -> Patient:
    """Read one patient's folder. Raises VaeliteError: a missing or malformed csv, an index outside the grid."""
    check_files(folder)
    spacing_mm = read_spacing_mm(folder / "voxel_dimensions.csv")
    stored = read_values(folder / "ct.csv")
    dose_gy = read_values(folder / "dose.csv")
    if dose_gy.min() < 0:
        raise VaeliteError(f"{folder / 'dose.csv'}: the dose is negative somewhere ({dose_gy.min():g} Gy). {MEND}")
    ct_hu = np.maximum(np.clip(stored, *STORED_RANGE) - STORED_WATER, AIR_HU)
    masks = {ours: read_mask(folder / f"{published}.csv") for published, ours in STRUCTURES.items()
             if (folder / f"{published}.csv").is_file()}
    structures = {name: mask for name, mask in masks.items() if mask.any()}
    return Patient(ct_hu, dose_gy, structures, spacing_mm)


def read_values(path: Path) -> np.ndarray:
    """A csv of index and value -> float32 (z, y, x), 0 where the csv says nothing."""
    table = load_table(path, columns=(0, 1))
    if len(table) == 0:
        raise VaeliteError(f"{path}: holds no voxel. {MEND}")
    if not np.isfinite(table[:, 1]).all():
        raise VaeliteError(f"{path}: holds values that are no number, the first in line "
                           f"{int(np.argmin(np.isfinite(table[:, 1]))) + 2}. {MEND}")
    return on_grid(path, table[:, 0], table[:, 1].astype(np.float32))


def read_mask(path: Path) -> np.ndarray:
    """A csv of indices -> bool (z, y, x)."""
    table = load_table(path, columns=(0,))
    return on_grid(path, table[:, 0], np.ones(len(table), dtype=bool))


def read_spacing_mm(path: Path) -> tuple[float, float, float]:
    """Three lines, in the order of the published axes (y, x, z) [mm] -> (dz, dy, dx)."""
    table = load_table(path, columns=(0,), header_lines=0)
    if table.shape != (3, 1) or not ((table > 0.2) & (table < 20.0)).all():
        raise VaeliteError(f"{path}: expected three lengths in mm, found {table.ravel().tolist()[:5]}. {MEND}")
    dy, dx, dz = (float(length) for length in table.ravel())
    if abs(dy - dx) > 1e-3:
        raise VaeliteError(f"{path}: the pixels are {dy:g} x {dx:g} mm, but OpenKBP's are square and the slice comes "
                           f"last. Is the order another one? {MEND}")
    return dz, dy, dx


def load_table(path: Path, columns: tuple[int, ...], header_lines: int = 1) -> np.ndarray:
    """The named columns of a csv as float64 (rows, columns); raises VaeliteError where a field is no number."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)          # numpy's, for a file without rows
            return np.loadtxt(path, delimiter=",", skiprows=header_lines, usecols=columns, ndmin=2)
    except (ValueError, OSError) as error:
        raise VaeliteError(f"{path}: is not the published table ({error}). {MEND}") from error


def on_grid(path: Path, index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Spread values over the published grid and turn it to (z, y, x), LPS."""
    n_voxels = int(np.prod(PUBLISHED_SHAPE))
    wrong = ~((index >= 0) & (index < n_voxels) & (index == np.floor(index)))
    if wrong.any():
        raise VaeliteError(f"{path}: index {index[wrong][0]:g} lies outside the grid of 128 x 128 x 128 voxels "
                           f"(0 to {n_voxels - 1}). {MEND}")
    where = index.astype(np.int64)
    if len(np.unique(where)) < len(where):
        raise VaeliteError(f"{path}: some voxels are listed twice. {MEND}")
    flat = np.zeros(n_voxels, dtype=values.dtype)
    flat[where] = values
    y_x_down = flat.reshape(PUBLISHED_SHAPE)
    return np.ascontiguousarray(y_x_down.transpose(2, 0, 1)[::-1])
