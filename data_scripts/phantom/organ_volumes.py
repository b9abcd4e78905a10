"""Organ volumes of adults as published, the check of one case against them, and the table of a cohort.

    python -m phantom.organ_volumes ../data/phantom        (in data_scripts; a data set's mean, sd and range)
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phantom.anatomy import reference_position
from phantom.brain import BRAIN_FLOOR_MM, brain_outline
from phantom.grid import Grid, Streams
from phantom.shapes import Canvas
from phantom.traits import Pose, draw_traits


@dataclass(frozen=True)
class AdultRange:
    """lowest, highest: beyond these a case is drawn anew; mean: as published, None where none was found. [ml], for the
    spinal cord [ml per cm of its length]."""

    lowest: float
    mean: float | None
    highest: float
    source: str


ADULT_RANGES = {
    "Parotid": AdultRange(9.2, 25.3, 54.1, "Medbery et al., Radiother Oncol 54 (2000) 87: MR of 32 glands, median "
                          "and range"),
    "Submandibular": AdultRange(2.9, 8.1, 13.2, "CT of 130 adults, mean 8.07, sd 2.57 ml (Quantitative analysis of the "
                                "submandibular gland using computed tomography, Dentomaxillofac Radiol); mean +- 2 sd"),
    "Eye": AdultRange(5.0, 7.3, 9.5, "ICRP Publication 89 (2002): 7.5 g an eye; range: spheres 21 to 26 mm wide, "
                      "our choice"),
    "SpinalCord": AdultRange(0.5, 0.83, 1.1, "Sherman et al., AJNR 11 (1990) 369: 8.8 x 12.4 mm at C2, 8.7 x 14.0 at "
                             "C4, 7.4 x 11.4 at C7, as ellipses 0.86, 0.96, 0.66; range our choice"),
    "Thyroid": AdultRange(7.0, 18.0, 40.0, "ICRP Publication 89 (2002): 20 g in men, 17 in women; range our choice"),
    "Brainstem": AdultRange(17.0, None, 42.0, "our choice, around contours of the stem from midbrain to foramen "
                            "magnum"),
    "Mandible": AdultRange(25.0, None, 95.0, "our choice; the lower end for toothless and resected jaws"),
    "Larynx": AdultRange(14.0, None, 55.0, "our choice: the envelope of the framework with its airway"),
}
# Of `whole_brain_ml`; the brain's contour in a case is not checked, as the field ends below the vertex
WHOLE_BRAIN = AdultRange(1000.0, 1340.0, 1800.0, "ICRP Publication 89 (2002): 1450 g in men, 1300 in women, of tissue; "
                         "the outline holds the fluid too; range our choice")


def adult_range(structure: str) -> AdultRange | None:
    """The row of a structure's name, sides together; None for targets and the brain."""
    return ADULT_RANGES.get(structure.removesuffix("_L").removesuffix("_R"))


def volumes_ml(structures: Mapping[str, np.ndarray], spacing_mm: tuple[float, float, float]) -> dict[str, float]:
    """{name: volume [ml]}; for the spinal cord [ml per cm], over the slices that hold it. Masks are (z, y, x) bool,
    spacing_mm = (dz, dy, dx)."""
    volumes = {name: float(mask.sum() * np.prod(spacing_mm) / 1000) for name, mask in structures.items()}
    if "SpinalCord" in structures:
        slices = structures["SpinalCord"].any(axis=(1, 2)).sum()
        volumes["SpinalCord"] /= max(slices * spacing_mm[0] / 10, 0.1)
    return volumes


def check(structures: Mapping[str, np.ndarray], spacing_mm: tuple[float, float, float]) -> list[str]:
    """What is outside the adult ranges, one sentence each; empty if nothing is."""
    violations = []
    for name, volume in volumes_ml(structures, spacing_mm).items():
        known = adult_range(name)
        if known and not known.lowest <= volume <= known.highest:
            violations.append(f"{name}: {volume:.1f} ml{'/cm' if name == 'SpinalCord' else ''}, adults have "
                              f"{known.lowest:g} to {known.highest:g}")
    return violations


def cohort_table(volumes: Iterable[Mapping[str, float]]) -> list[dict]:
    """[{"structure", "mean_ml", "sd_ml", "lowest_ml", "highest_ml", "published_ml", "outside"}] over the volumes of
    many cases (from `volumes_ml`), in the order of the structures."""
    rows, cases = [], list(volumes)
    for name in dict.fromkeys(name for case in cases for name in case):
        values, known = np.array([case[name] for case in cases if name in case]), adult_range(name)
        if known is None:
            continue
        rows.append({"structure": name, "mean_ml": float(values.mean()), "sd_ml": float(values.std()),
                     "lowest_ml": float(values.min()), "highest_ml": float(values.max()),
                     "published_ml": (known.lowest, known.mean, known.highest),
                     "outside": int(((values < known.lowest) | (values > known.highest)).sum())})
    return rows


def whole_brain_ml(streams: Streams, voxel_mm: float = 5.0) -> float:
    """Volume [ml] of the brain with its fluid, on a coarse grid that reaches past the vertex."""
    grid = Grid((36, 44, 36), (voxel_mm,) * 3, lowest_mm=-45.0)
    canvas = Canvas(grid, np.zeros((1, 1)), *reference_position(grid, draw_traits(streams), Pose(), streams))
    inside = (brain_outline(canvas) < 0) & (canvas.z > BRAIN_FLOOR_MM)
    return float(inside.sum() * voxel_mm ** 3 / 1000)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="data set: dataset.json and case folders")
    options = parser.parse_args(arguments)
    from vaelite.data.cases import load_cases  # here: the phantom itself is made without vaelite

    try:
        rows = cohort_table(volumes_ml(case.structures(), case.spacing_mm) for case in load_cases(options.folder))
    except ValueError as error:
        sys.exit(f"organ_volumes: {error}")
    print(f"{'structure':16s} {'mean':>7s} {'sd':>6s} {'range':>15s}   adults (low, mean, high)  outside")
    for row in rows:
        low, mean, high = row["published_ml"]
        print(f"{row['structure']:16s} {row['mean_ml']:7.2f} {row['sd_ml']:6.2f} {row['lowest_ml']:7.2f}-"
              f"{row['highest_ml']:<7.2f}   {low:g}, {mean or '-'}, {high:g}   {row['outside']}")


if __name__ == "__main__":
    main()
