"""Look at a data set before training on it: a table of every case, and a contact sheet of six.

    python data_scripts/check_data.py data/phantom
    python data_scripts/check_data.py data/openkbp --sheet openkbp.png --show pt_201 pt_202

Reads any folder of case folders, the phantom's or an importer's. The six are evenly chosen, unless `--show` names
others. A flag at a case's end says what to look at; it is no error.
"""
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure, SubFigure
from openkbp.checks import check_orientation, tissue_peaks_hu

from vaelite.data.cases import Case, load_cases
from vaelite.data.intensity import HU_MODALITIES
from vaelite.errors import VaeliteError

BONE_HU = 250.0  # above it, bone (and contrast medium); our choice
# Where a case is flagged, our choice: peaks around -90 and 50; a CBCT farther from its CT than raw ones are in print,
# but none that is nearer, as a corrected one is.
FAT_HU, MUSCLE_HU, CBCT_MAE_HU = (-130.0, -60.0), (10.0, 90.0), (0.0, 110.0)
SHOWN_VOLUMES = ("GTV", "Parotid_L", "Parotid_R", "Mandible", "SpinalCord", "Brainstem", "Larynx")
CONTOUR_COLOURS = {"GTV": "#E41A1C", "CTV": "#FF7F00", "PTV": "#F0E442", "Parotid": "#56B4E9",
                   "Submandibular": "#CC79A7", "SpinalCord": "#4DAF4A", "Brainstem": "#A6D854",
                   "Eye": "#F781BF", "Mandible": "#D9B38C", "Larynx": "#00D5D5", "Brain": "#8C8CFF",
                   "Thyroid": "#C0FFC0"}
HU_WINDOW = (-250.0, 350.0)
BLOCKS_ACROSS = 3


def describe(case: Case) -> dict:
    """One row of the table: case, split, site, spacing, HU of fat, muscle and bone, CBCT error, volumes, flags."""
    mask, structures = case.mask(), case.structures()
    voxel_ml = float(np.prod(case.spacing_mm)) / 1000
    row = {"case": case.name, "split": case.split, "site": case.info.get("site", "-"),
           "spacing [mm]": " x ".join(f"{mm:.3g}" for mm in reversed(case.spacing_mm))}
    flags = []
    if "CT" in case.modalities:
        ct_hu = case.volume("CT")
        fat, muscle = tissue_peaks_hu(ct_hu, mask)
        row |= {"fat [HU]": fat, "muscle [HU]": muscle, "bone [HU]": float(np.median(ct_hu[mask & (ct_hu > BONE_HU)]))
                if (mask & (ct_hu > BONE_HU)).any() else None}
        flags += outside("fat", fat, FAT_HU) + outside("muscle", muscle, MUSCLE_HU)
        if "CBCT" in case.modalities:
            row["CBCT MAE [HU]"] = float(np.abs(case.volume("CBCT") - ct_hu)[mask].mean())
            flags += outside("CBCT MAE", row["CBCT MAE [HU]"], CBCT_MAE_HU)
    for name in SHOWN_VOLUMES:
        if name in structures:
            row[f"{name} [ml]"] = structures[name].sum() * voxel_ml
    for name, inside in structures.items():
        if not inside.any():
            flags.append(f"{name} is empty")
        elif (inside & ~mask).sum() > 0.02 * inside.sum():
            flags.append(f"{100 * (inside & ~mask).sum() / inside.sum():.0f} % of {name} outside the body")
    try:
        drawn = {name: inside for name, inside in structures.items() if inside.any()}
        check_orientation(drawn, case.spacing_mm, case.name)
    except VaeliteError as error:
        flags.append(str(error).split(". ")[0].removeprefix(f"{case.name}: "))
    flags += case.info.get("volumes_outside_adult_range", [])
    return row | {"flags": "; ".join(flags)}


def outside(what: str, value: float | None, limits: tuple[float, float]) -> list[str]:
    if value is None or limits[0] <= value <= limits[1]:
        return []
    return [f"{what} at {value:.0f} HU, expected {limits[0]:.0f} to {limits[1]:.0f}"]


def table(rows: list[dict]) -> str:
    """Rows as text in columns, then mean and range of each column of numbers."""
    columns = list(dict.fromkeys(key for row in rows for key in row if key != "flags")) + ["flags"]
    numbers = {column: [row[column] for row in rows if isinstance(row.get(column), float)] for column in columns}
    summary = {column: f"{np.mean(values):.0f} ({min(values):.0f}-{max(values):.0f})" if values else ""
               for column, values in numbers.items()}
    summary |= {"case": "mean (range)"}
    lines = [[heading(column) for column in columns]]
    lines += [[shown(row.get(column)) for column in columns] for row in rows]
    lines.append([summary[column] for column in columns])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
                     for line in lines)


def heading(column: str) -> str:
    return column.removesuffix(" [ml]").removesuffix(" [HU]") + (" ml" if column.endswith("[ml]") else
                                                               " HU" if column.endswith("[HU]") else "")


def shown(value) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if isinstance(value, float) and abs(value) >= 20 else \
        f"{value:.1f}" if isinstance(value, float) else str(value)


# -------------------------------------------------------------------------------------------------------- contact sheet
def draw_contact_sheet(cases: list[Case]) -> Figure:
    """A block per case: planes below each other, modalities beside each other, and the contours on the first of them
    that the case has."""
    across = min(BLOCKS_ACROSS, len(cases))
    down = -(-len(cases) // across)
    modalities = [name for name in ("CT", "CBCT", "T1c", "T2w") if any(name in case.modalities for case in cases)]
    width = 1.9 * (len(modalities) + 1)
    heights = [1.9 * sum(plane_heights(case)) + 0.5 for case in cases]
    rows = [max(heights[first:first + across]) for first in range(0, len(cases), across)]
    figure = Figure(figsize=(width * across, sum(rows)), dpi=100, facecolor="black")
    blocks = np.reshape(figure.subfigures(down, across, height_ratios=rows, wspace=0, hspace=0), -1)
    for block, case in zip(blocks, cases, strict=False):
        draw_case(block, case, modalities)
    for block in blocks:
        block.set_facecolor("black")
    return figure


def draw_case(block: SubFigure, case: Case, modalities: list[str]) -> None:
    mask, structures = case.mask(), case.structures()
    heights, centre = plane_heights(case), planes_through(structures, mask)
    volumes = {modality: case.volume(modality) for modality in case.modalities}
    axes = block.subplots(3, len(modalities) + 1, gridspec_kw={"height_ratios": heights, "wspace": 0.02,
                                                               "hspace": 0.02})
    block.subplots_adjust(left=0.005, right=0.995, bottom=0.005, top=1 - 0.42 / (1.9 * sum(heights) + 0.5))
    block.suptitle(f"{case.name}   {case.info.get('site', '')}", color="white", fontsize=10, y=0.995)
    under_contours = next(modality for modality in modalities if modality in volumes)
    drawn: dict[str, str] = {}
    for plane_axis in range(3):
        left, right = (axis for axis in range(3) if axis != plane_axis)
        aspect = case.spacing_mm[left] / case.spacing_mm[right]
        for axis, modality in zip(axes[plane_axis], [*modalities, under_contours], strict=True):
            axis.set_axis_off()
            if modality not in volumes:
                continue
            low, high = HU_WINDOW if modality in HU_MODALITIES else np.percentile(volumes[modality][mask], (1, 99))
            axis.imshow(plane(volumes[modality], plane_axis, centre, mask), cmap="gray", vmin=low, vmax=high,
                        aspect=aspect, interpolation="nearest")
        for name, inside in structures.items():
            cut = plane(inside, plane_axis, centre, mask)
            if cut.any():
                kind = name.split("_")[0]
                drawn.setdefault(kind, CONTOUR_COLOURS.get(kind, "white"))
                axes[plane_axis, -1].contour(cut, levels=[0.5], colors=[drawn[kind]], linewidths=0.8)
    for axis, title in zip(axes[0], [*modalities, "contours"], strict=True):
        axis.set_title(title, color="white", fontsize=8, pad=2)
    for number, (kind, colour) in enumerate(drawn.items()):
        axes[number % 2 + 1, -1].text(0.0, 1 - 0.09 * (number // 2), kind, color=colour, fontsize=7, va="top",
                                      transform=axes[number % 2 + 1, -1].transAxes)


def plane(volume: np.ndarray, axis: int, centre: tuple[int, int, int], mask: np.ndarray) -> np.ndarray:
    """One plane of a (z, y, x) volume, cut to the body, as a radiologist hangs it: patient's right on the left, head
    up, face left."""
    body = np.take(mask, centre[axis], axis=axis)
    edges = [np.flatnonzero(body.any(axis=1 - along)) for along in (0, 1)]
    cut = np.take(volume, centre[axis], axis=axis)[tuple(slice(max(0, int(edge[0]) - 2), int(edge[-1]) + 3)
                                                         for edge in edges)]
    return cut if axis == 0 else cut[::-1]


def planes_through(structures: dict[str, np.ndarray], mask: np.ndarray) -> tuple[int, int, int]:
    """(z, y, x): axial where the GTV is largest, coronal through the parotids, sagittal through the cord; else the
    middle of the body."""
    def middle(names: Iterable[str], axis: int) -> int:
        for name in names:
            if name in structures and structures[name].any():
                return round(float(np.argwhere(structures[name])[:, axis].mean()))
        return round(float(np.argwhere(mask)[:, axis].mean()))

    targets = [structures[name] for name in ("GTV", "PTV70", "PTV") if name in structures and structures[name].any()]
    axial = int(np.argmax(targets[0].sum(axis=(1, 2)))) if targets else middle(("Mandible",), 0)
    return axial, middle(("Parotid_L", "Parotid_R"), 1), \
        middle(("SpinalCord", "Brainstem"), 2)


def plane_heights(case: Case) -> list[float]:
    """Height over width of the three planes as drawn."""
    mask = case.mask()
    centre = planes_through(case.structures(), mask)
    heights = []
    for axis in range(3):
        rows, columns = plane(mask, axis, centre, mask).shape
        down_mm, across_mm = (mm for number, mm in enumerate(case.spacing_mm) if number != axis)
        heights.append(rows * down_mm / (columns * across_mm))
    return heights


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="data set: dataset.json and case folders")
    parser.add_argument("--sheet", type=Path, help="PNG to write (default: contact_sheet.png in the folder)")
    parser.add_argument("--show", nargs="+", metavar="CASE", help="cases on the sheet (default: six, evenly chosen)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    try:
        cases = load_cases(options.folder)
        rows = [describe(case) for case in cases]
        chosen = options.show or [cases[i].name for i in np.unique(np.linspace(0, len(cases) - 1, 6).astype(int))]
        by_name = {case.name: case for case in cases}
        if unknown := [name for name in chosen if name not in by_name]:
            raise VaeliteError(f"{options.folder}: has no case {', '.join(unknown)}. There are {', '.join(by_name)}.")
        print(table(rows))
        sheet = options.sheet or options.folder / "contact_sheet.png"
        draw_contact_sheet([by_name[name] for name in chosen]).savefig(sheet, facecolor="black")
    except (ValueError, OSError) as error:
        sys.exit(f"check_data: {error}")
    flagged = sum(bool(row["flags"]) for row in rows)
    print(f"\n{len(rows)} cases, {flagged} with a flag. Contact sheet: {sheet}")


if __name__ == "__main__":
    main()
