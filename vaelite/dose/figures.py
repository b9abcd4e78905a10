"""Pictures of dose: on the anatomy, in histograms, against a second dose; and of a planted lesion. Data in, Figure out.

Volumes are (z, y, x) in LPS with spacing_mm = (dz, dy, dx); an axial slice shows the nose on top and the patient's left
on the right. Doses are in Gy, CT in HU. The caller computes; these functions draw, and take the finding as `title`.
"""
from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from ..errors import VaeliteError
from ..figures import grey_bar
from .gamma import gamma_of_slice
from .metrics import target_dose_error
from .tables import dose_label

CT_WINDOW_HU = (-160.0, 240.0)                               # soft tissue: level 40, width 400
BONE_WINDOW_HU = (0.0, 1500.0)                               # bone in greys, soft tissue nearly black
DOSE_SHOWN_FROM = 0.1                                        # of the prescription; below it the anatomy shows through
FEWEST_FAIL = 0.01                                           # percent; less is a handful of voxels
# Okabe and Ito's palette, told apart by colour-blind readers too
STRUCTURE_COLOURS = {
    "PTV63": "#8F3A00", "PTV56": "#F2A272", "PTV": "#D55E00", "GTV": "#CC79A7", "CTV": "#7B3294",
    "SpinalCord": "#0072B2", "Brainstem": "#56B4E9",
    "Parotid_L": "#009E73", "Parotid_R": "#E69F00", "Submandibular": "#5D8C5D", "Mandible": "#8C6D46",
    "Larynx": "#B8A500", "Esophagus": "#7F7F7F", "Eye": "#999999", "Thyroid": "#44AA99",
}
DOSE_STYLES = ("-", "--", ":", "-.", (0, (1, 3)), (0, (6, 2, 1, 2, 1, 2)))
# as in `figures`, with the bulk densities; a test compares the two
METHOD_COLOURS = {"vaelite": "#D55E00", "unet": "#000000", "control": "#661100", "ridge": "#56B4E9", "copy": "#999999",
                  "water": "#0072B2", "bulk": "#009E73"}
METHOD_NAMES = {"unet": "U-Net", "control": "no latents", "bulk": "water + bone + air", "copy": "raw CBCT"}
SOURCE_MARKERS = {"CBCT": "o", "T1c": "s", "T2w": "^", "CT": "X"}
SMALLEST_SHOWN = 1e-3                                        # on a logarithmic axis: below it nothing matters
SOURCE_STYLES = {"CBCT": "-", "T1c": "--", "T2w": ":"}
WIDTH_IN, DPI = 7.0, 100                                     # 700 px: sharp on a page, still readable on a phone


def structure_colour(name: str) -> str:
    """The colour of a structure, the same in every figure; "PTV70" and "Eye_L" take that of their prefix."""
    return next((colour for prefix, colour in STRUCTURE_COLOURS.items() if name.startswith(prefix)), "#444444")


def structure_handles(names: Iterable[str]) -> list[Line2D]:
    """One entry of a legend for each structure; a left and a right organ of one colour share theirs: "Eye_L, _R"."""
    together: dict[tuple[str, str], list[str]] = {}
    for name in names:
        together.setdefault((structure_colour(name), name.removesuffix("_L").removesuffix("_R")), []).append(name)
    return [Line2D([], [], color=colour, linewidth=3, label=", ".join([first, *(name[-2:] for name in others)]))
            for (colour, _), (first, *others) in together.items()]


# ----------------------------------------------------------------------------------------------------------- histograms
def draw_dvh(curves: dict[str, dict[str, tuple[np.ndarray, np.ndarray]]], title: str,
             prescriptions_gy: dict[str, float] | None = None) -> Figure:
    """Cumulative dose-volume histograms: one colour a structure, one line style a dose.

    curves: {structure: {name of the dose: (dose axis [Gy], volume [%])}}, as `dose.dvh` gives them; the first is solid.
    prescriptions_gy: dotted grey verticals at these doses. Raises VaeliteError if there is nothing to draw.
    """
    doses = list(dict.fromkeys(name for of_structure in curves.values() for name in of_structure))
    if not doses:
        raise VaeliteError("draw_dvh: no structure to draw. Pass {structure: {dose: (axis_gy, volume_percent)}}.")
    figure, axes = new_figure(4.6)
    styles = {name: DOSE_STYLES[i % len(DOSE_STYLES)] for i, name in enumerate(doses)}
    for structure, of_structure in curves.items():
        for name, (axis_gy, volume_percent) in of_structure.items():
            axes.plot(axis_gy, volume_percent, color=structure_colour(structure), linestyle=styles[name], linewidth=1.8)
    for dose_gy in (prescriptions_gy or {}).values():
        axes.axvline(dose_gy, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xlabel="dose [Gy]", ylabel="volume receiving at least that dose [%]", ylim=(0, 103), xlim=(0, None))
    axes.grid(color="0.92")
    handles = structure_handles(curves)
    handles += [Line2D([], [], color="0.2", linestyle=styles[name], label=name) for name in doses]
    axes.legend(handles=handles, fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    set_finding(axes, title)
    return figure


# ------------------------------------------------------------------------------------------------------ dose on anatomy
def draw_dose_wash(ct_hu: np.ndarray, dose_gy: np.ndarray, structures: dict[str, np.ndarray],
                   spacing_mm: tuple[float, float, float], prescription_gy: float, title: str,
                   z: int | None = None) -> Figure:
    """The dose as a colour wash over the CT with the contours, axial and coronal through the hottest target slice.

    All volumes z y x; `structures` bool; z: axial slice, default the one with most of the prescribed dose.
    """
    z = hottest_slice(dose_gy, prescription_gy) if z is None else z
    y = int(np.argmax((dose_gy[z] >= 0.9 * prescription_gy).sum(1)))
    figure, panels = new_figure(4.4, columns=2)
    figure.set_layout_engine("compressed", h_pad=0.07)       # pictures keep their scale: no gaps between them
    planes = (("axial", lambda volume: volume[z], spacing_mm[1:]),
              ("coronal, head up", lambda volume: volume[::-1, y], (spacing_mm[0], spacing_mm[2])))
    for axes, (plane, cut, pixel_mm) in zip(panels, planes):
        show_ct(axes, cut(ct_hu), pixel_mm)
        wash = show_dose(axes, cut(dose_gy), pixel_mm, prescription_gy)
        for name, mask in structures.items():
            show_contour(axes, cut(mask), pixel_mm, structure_colour(name))
        look_at_body(axes, cut(ct_hu), pixel_mm)
        axes.set_title(plane, fontsize=10)
    panels[1].set_ylabel("z [mm]", fontsize=9)
    seen = [name for name, mask in structures.items() if mask[z].any() or mask[:, y].any()]
    if seen:
        figure.legend(handles=structure_handles(seen), loc="outside lower center", ncols=5, fontsize=8, frameon=False)
    figure.colorbar(wash, ax=panels, label="dose [Gy]", shrink=0.8)
    figure.suptitle(folded(title, 78), fontsize=11)
    return figure


def draw_dose_difference(ct_hu: np.ndarray, reference_gy: np.ndarray, evaluated_gy: np.ndarray,
                         spacing_mm: tuple[float, float, float], prescription_gy: float, title: str,
                         z: int | None = None, limit_percent: float = 3.0,
                         structures: dict[str, np.ndarray] | None = None) -> Figure:
    """Evaluated minus reference dose in % of the prescription on one axial slice; red is too much, blue too little.

    structures: {name: bool volume} to be outlined.
    """
    figure, axes = new_figure(4.6, width_in=5.5)
    z = hottest_slice(reference_gy, prescription_gy) if z is None else z
    image = show_difference(axes, ct_hu[z], reference_gy[z], evaluated_gy[z], spacing_mm[1:], prescription_gy,
                            limit_percent)
    show_outlines(axes, structures or {}, z, spacing_mm[1:])
    look_at_body(axes, ct_hu[z], spacing_mm[1:])
    figure.colorbar(image, ax=axes, label="dose difference [% of the prescription]", extend="both", shrink=0.9)
    set_finding(axes, title, 46)
    return figure


def draw_gamma(ct_hu: np.ndarray, gamma: np.ndarray, spacing_mm: tuple[float, float, float], title: str,
               z: int, structures: dict[str, np.ndarray] | None = None) -> Figure:
    """Gamma on one axial slice: blue passes, red fails; below the cut-off (nan) the CT shows. structures: outlined."""
    figure, axes = new_figure(4.6, width_in=5.5)
    image = show_gamma(axes, ct_hu[z], gamma[z], spacing_mm[1:])
    show_outlines(axes, structures or {}, z, spacing_mm[1:])
    look_at_body(axes, ct_hu[z], spacing_mm[1:])
    figure.colorbar(image, ax=axes, label="gamma [1]; above 1 fails", extend="max", shrink=0.9)
    set_finding(axes, title, 46)
    return figure


def difference_limit(doses: dict[str, np.ndarray], prescription_gy: float) -> float:
    """One colour scale for the differences of all doses from doses["CT"], in % of the prescription: 3, or what nearly all voxels need
    where the plan gives a tenth of it, at most 50."""
    irradiated = doses["CT"] >= 0.1 * prescription_gy
    errors = [np.abs(dose_gy - doses["CT"])[irradiated] for name, dose_gy in doses.items() if name != "CT"]
    needed = max(100 * float(np.percentile(error, 99)) / prescription_gy for error in errors)
    return next((limit for limit in (3.0, 5.0, 10.0, 20.0) if limit >= needed), 50.0)


def draw_dose_view(ct_hu: np.ndarray, doses: dict[str, np.ndarray], structures: dict[str, np.ndarray], target: str,
                   spacing_mm: tuple[float, float, float], settings: dict[str, Any], limit_percent: float, synthetic_ct: str,
                   view: str, slice_number: int) -> Figure:
    """One dose beside that on the real CT, axial: view "dose", "difference" or "gamma 2 %/2 mm".

    doses: {"CT": the plan [Gy], "vaelite/T1c": ...}; synthetic_ct: one of its keys; target: the structure outlined.
    settings: normalisation_gy, cutoff_percent and mode, as `gamma_map` takes them; limit_percent: see `difference_limit`.
    """
    reference_gy, evaluated_gy, prescription_gy = doses["CT"], doses[synthetic_ct], settings["normalisation_gy"]
    method, _, origin = synthetic_ct.partition("/")
    error_percent = target_dose_error(reference_gy, evaluated_gy, prescription_gy)
    finding = f"{dose_label(origin, method)}: MAE_target {error_percent:.1f} %"
    outlined = {target: structures[target]}
    if view == "dose":
        return draw_dose_wash(ct_hu, evaluated_gy, structures, spacing_mm, prescription_gy, finding, slice_number)
    if view == "difference":
        return draw_dose_difference(ct_hu, reference_gy, evaluated_gy, spacing_mm, prescription_gy, finding, slice_number,
                                    limit_percent, outlined)
    percent, mm = (float(part.split()[0]) for part in view.removeprefix("gamma ").split("/"))
    gamma = gamma_of_slice(reference_gy, evaluated_gy, spacing_mm, slice_number, dose_percent=percent, distance_mm=mm, **settings)
    passed = gamma[slice_number][np.isfinite(gamma[slice_number])] <= 1
    finding += f"; {view}: {100 * passed.mean():.1f} % of this slice pass"
    return draw_gamma(ct_hu, gamma, spacing_mm, finding, slice_number, outlined)


def draw_comparison(ct_hu: np.ndarray, sct_hu: np.ndarray, reference_gy: np.ndarray, evaluated_gy: np.ndarray,
                    gamma: np.ndarray, spacing_mm: tuple[float, float, float], prescription_gy: float, title: str,
                    z: int, gamma_label: str = "gamma", limit_percent: float = 3.0) -> Figure:
    """The chain: CT, the other CT, what it does to the dose, and what gamma says about it. Axial slice z."""
    figure, panels = new_figure(6.2, rows=2, columns=2)
    figure.set_layout_engine("compressed")
    for axes, volume, name in zip(panels[0], (ct_hu, sct_hu), ("CT the plan was made on", "CT the dose is checked on")):
        grey = show_ct(axes, volume[z], spacing_mm[1:], BONE_WINDOW_HU)
        axes.set_title(name, fontsize=10)
    figure.colorbar(grey, ax=panels[0], label="CT, bone window [HU]", shrink=0.9)
    image = show_difference(panels[1, 0], ct_hu[z], reference_gy[z], evaluated_gy[z], spacing_mm[1:], prescription_gy,
                            limit_percent)
    figure.colorbar(image, ax=panels[1, 0], label="difference [% of prescription]", extend="both", shrink=0.9)
    panels[1, 0].set_title("dose difference", fontsize=10)
    image = show_gamma(panels[1, 1], ct_hu[z], gamma[z], spacing_mm[1:])
    figure.colorbar(image, ax=panels[1, 1], label="gamma [1]; above 1 fails", extend="max", shrink=0.9)
    panels[1, 1].set_title(gamma_label, fontsize=10)
    for axes in panels.flat:
        look_at_body(axes, ct_hu[z], spacing_mm[1:])
        axes.label_outer()
    figure.suptitle(folded(title, 78), fontsize=11)
    return figure


# ---------------------------------------------------------------------------------------------------- curves and points
def draw_depth_dose(depth_cm: np.ndarray, dose_percent: np.ndarray, title: str, marked_cm: float = 10.0) -> Figure:
    """Percent depth dose along the axis of a field in water, with one depth marked."""
    figure, axes = new_figure(3.8)
    axes.plot(depth_cm, dose_percent, color="#0072B2", linewidth=2)
    marked_percent = float(np.interp(marked_cm, depth_cm, dose_percent))
    axes.plot([marked_cm], [marked_percent], "o", color="#D55E00")
    axes.annotate(f"{marked_percent:.1f} % at {marked_cm:g} cm", (marked_cm, marked_percent), xytext=(8, 8),
                  textcoords="offset points")
    axes.set(xlabel="depth in water [cm]", ylabel="dose [% of the maximum]", ylim=(0, 105),
             xlim=(0, float(depth_cm[-1])))
    axes.grid(color="0.92")
    set_finding(axes, title)
    return figure


def draw_pass_rates(rates: dict[tuple[str, str], dict[str, float]], title: str) -> Figure:
    """What fails gamma over criteria: {(source, method): {criterion: pass rate [%]}}, criteria from loose to strict.

    Drawn is 100 - rate, on a logarithmic axis, since rates near 100 % differ in nothing else; less than FEWEST_FAIL stands
    on the floor. The doses stand a little beside each other, so that equal rates do not hide one another.
    """
    criteria = list(dict.fromkeys(criterion for of_dose in rates.values() for criterion in of_dose))
    figure, axes = new_figure(4.2)
    for beside, ((source, method), of_dose) in zip(np.linspace(-0.14, 0.14, len(rates)), rates.items()):
        positions = [criteria.index(criterion) + beside for criterion in of_dose]
        axes.plot(positions, [max(FEWEST_FAIL, 100 - rate) for rate in of_dose.values()], SOURCE_STYLES.get(source, "-."),
                  label=dose_label(source, method), marker=SOURCE_MARKERS.get(source, "D"),
                  color=METHOD_COLOURS.get(method, "0.3"))
    axes.axhline(1, color="#117733", linewidth=1.2, zorder=1, label="99 % pass")
    axes.set(xticks=range(len(criteria)), xticklabels=criteria, xlabel="gamma criterion (dose / distance)",
             xlim=(-0.3, len(criteria) - 0.7), yscale="log", ylim=(0.8 * FEWEST_FAIL, None),
             ylabel=f"voxels that fail [%]; on the floor: {FEWEST_FAIL:g} or less")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.legend(fontsize=9, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes.grid(color="0.92")
    set_finding(axes, title)
    return figure


def draw_error_against_dose(panels: dict[str, tuple[str, list[tuple[str, str, float, float]]]], title: str) -> Figure:
    """What of a CT predicts its dose error? {x label: (finding, [(method, source, x, MAE_target [%])])}, a panel each.

    MAE_target is the mean absolute dose error in the target, in % of the prescription (`dose.metrics.target_dose_error`).
    """
    figure, row = new_figure(4.6, columns=len(panels))
    row = np.atleast_1d(row)
    for axes, (label, (finding, points)) in zip(row, panels.items()):
        for method, source, x, dose_percent in points:
            axes.plot(max(abs(x), SMALLEST_SHOWN), max(dose_percent, SMALLEST_SHOWN), SOURCE_MARKERS.get(source, "D"),
                      color=METHOD_COLOURS.get(method, "0.3"), markersize=7, alpha=0.8)
        axes.set(xlabel=folded(label, 34), xscale="log", yscale="log")
        axes.set_title(folded(finding, 34), fontsize=10, loc="left")
        for axis in (axes.xaxis, axes.yaxis):                # equal steps are equal factors: near points part
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(NullFormatter())
        axes.grid(color="0.92")
        axes.tick_params(labelsize=8)
    low, high = (function(axes.get_ylim()[i] for axes in row) for i, function in ((0, min), (1, max)))
    for axes in row:
        axes.set_ylim(low, high)
    row[0].set_ylabel("MAE_target [% of the prescription]")
    every = [point for _, points in panels.values() for point in points]
    methods, sources = (list(dict.fromkeys(point[i] for point in every)) for i in (0, 1))
    handles = [Line2D([], [], color=METHOD_COLOURS.get(m, "0.3"), linewidth=4, label=METHOD_NAMES.get(m, m)) for m in methods]
    handles += [Line2D([], [], marker=SOURCE_MARKERS.get(s, "D"), color="0.3", linestyle="",
                       label="real CT's outline" if s == "CT" else f"from {s}") for s in sources]
    figure.legend(handles=handles, fontsize=8, loc="outside lower center", ncols=5, frameon=False)
    figure.suptitle(folded(title, 78), fontsize=11)
    return figure


def draw_errors_by_patient(errors: dict[str, list[float]], title: str, limit_percent: float = 2.0,
                           largest: dict[str, float] | None = None) -> Figure:
    """{what the dose was calculated on: [mean signed dose error in the target of each patient, % of the prescription]}.

    Grey: up to `limit_percent` either way (our choice: the usual tolerance of a dose calculation).
    largest: the patients' largest MAE_target [%] of each, a whisker both ways: no signed mean can lie beyond it.
    """
    figure, axes = new_figure(1.2 + 0.3 * len(errors))
    axes.axvspan(-limit_percent, limit_percent, color="0.93", label=f"within {limit_percent:g} %")
    axes.axvline(0, color="0.6", linewidth=1)
    for row, (name, values) in enumerate(errors.items()):
        named = {} if row else {"label": "ME_target, one patient"}, {} if row else {"label": "its mean"}
        if largest:
            axes.plot([-largest[name], largest[name]], [row, row], "|-", color="0.45", linewidth=1.2, markersize=9, zorder=1,
                      label=None if row else "± largest MAE_target")
        axes.plot(values, [row] * len(values), "o", color="#0072B2", markersize=6, alpha=0.7, **named[0])
        axes.plot([np.mean(values)] * 2, [row - 0.3, row + 0.3], color="#D55E00", linewidth=2.5, **named[1])
    axes.set(yticks=range(len(errors)), yticklabels=list(errors), ylim=(len(errors) - 0.4, -0.6),
             xlabel="dose in the target, minus the plan's [% of the prescription]")
    reach = 1.1 * max(limit_percent, *(largest or {}).values(), *(abs(value) for values in errors.values() for value in values))
    axes.set_xlim(-reach, reach)
    axes.tick_params(axis="y", labelsize=9)
    axes.grid(color="0.92", axis="x")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    set_finding(axes, title, 62)
    return figure


def draw_density_table(hu: np.ndarray, density: np.ndarray, tissues: dict[str, tuple[float, float]], title: str) -> Figure:
    """The table that turns HU into electron density; tissues: {name: (lowest, highest HU)} as shaded bands."""
    figure, axes = new_figure(3.8)
    for number, (name, (low, high)) in enumerate(tissues.items()):
        axes.axvspan(low, high, color=("0.90", "0.96")[number % 2])
        axes.text((low + high) / 2, 0.03, name, fontsize=9, ha="center", transform=axes.get_xaxis_transform())
    axes.plot(hu, density, "o-", color="#0072B2", linewidth=2, markersize=5)
    axes.plot([0], [np.interp(0, hu, density)], "o", color="#D55E00", markersize=8)
    axes.annotate("water", (0, float(np.interp(0, hu, density))), xytext=(8, -14), textcoords="offset points")
    axes.set(xlabel="CT number [HU]", ylabel="electron density relative to water [1]", xlim=(-1050, 3050), ylim=(0, None))
    axes.grid(color="0.85", linewidth=0.6)
    set_finding(axes, title)
    return figure


def draw_sensitivity(curves: dict[str, dict], criteria: tuple[str, ...], title: str) -> Figure:
    """Errors of known size on a CT: a row each, left the dose in the target, right the voxels that fail gamma.

    curves: {kind of error: {"unit", "amount", "ME_target", "gamma 2%/2mm", ...}} as `report.sensitivity_curves` gives them;
    criteria: those metrics to show, from loose to strict. The scales are the same in all rows.
    """
    figure, panels = new_figure(1.0 + 1.75 * len(curves), rows=len(curves), columns=2)
    shift = max(abs(value) for curve in curves.values() for value in curve["ME_target"])
    fails = max(100 - value for curve in curves.values() for criterion in criteria for value in curve[criterion])
    for (left, right), (kind, curve) in zip(np.atleast_2d(panels), curves.items()):
        left.axhspan(-2, 2, color="0.93")
        left.plot(curve["amount"], curve["ME_target"], "o-", color="#D55E00", linewidth=1.8, markersize=5)
        left.set(ylim=(-1.15 * max(shift, 2), 1.15 * max(shift, 2)), ylabel="[% of the prescription]")
        for criterion, colour, style in zip(criteria, ("#56B4E9", "#0072B2", "#000000"), DOSE_STYLES):
            name = criterion.removeprefix("gamma ").replace("%/", " %/").replace("mm", " mm")
            right.plot(curve["amount"], [100 - value for value in curve[criterion]], marker="o", color=colour, linestyle=style,
                       linewidth=1.8, markersize=4, label=name)
        right.axhline(1, color="#117733", linewidth=1, label="99 % pass")
        right.set_yscale("symlog", linthresh=1)              # 0 has its place, and 1 % is as far from it as from 10 %
        right.set(ylabel="voxels that fail [%]", ylim=(0, 100 if fails > 20 else 20),
                  yticks=[0, 1, 10, 100] if fails > 20 else [0, 1, 10])
        right.yaxis.set_major_formatter("{x:g}")
        for axes in (left, right):
            axes.set_xlabel(f"{kind} [{curve['unit']}]", fontsize=9)
            axes.yaxis.label.set_size(9)
            axes.tick_params(labelsize=8)
            axes.grid(color="0.92")
    panels = np.atleast_2d(panels)
    panels[0, 0].set_title("ME_target; grey: within 2 % either way", fontsize=9, loc="left")
    panels[0, 1].set_title("gamma; axis linear to 1 %, then log", fontsize=9, loc="left")
    panels[0, 1].legend(fontsize=7, loc="upper center", ncols=2, frameon=False)
    figure.suptitle(folded(title, 78), fontsize=11)
    return figure


def draw_mean_against_n(values: list[float], half_width: list[float], unit: str, title: str) -> Figure:
    """The mean over the first n patients and its 95 % interval; half_width[i] belongs to n = i + 1 (nan for n = 1)."""
    n = np.arange(1, len(values) + 1)
    mean, half = np.cumsum(values) / n, np.asarray(half_width, float)
    figure, axes = new_figure(3.4)
    axes.plot(n - 0.08, values, "o", color="0.6", label="one patient")
    axes.errorbar(n, mean, half, fmt="s-", color="#0072B2", capsize=4,
                  label="mean of the first n, 95 % interval")
    axes.set(xlabel="patients n [1]", ylabel=f"MAE in the body [{unit}]", xticks=n, xlim=(0.5, len(values) + 0.5))
    axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))
    axes.legend(fontsize=9, frameon=False)
    axes.grid(color="0.92")
    set_finding(axes, title)
    return figure


# ----------------------------------------------------------------------------------------------------- a planted lesion
def draw_response(changes_hu: dict[str, np.ndarray], disc: np.ndarray, pixel_mm: float, title: str,
                  reach_mm: float = 16.0) -> Figure:
    """What a planted lesion changed around it in each translation: {method: change (h, w) [HU]}; black: its outline."""
    figure, panels = new_figure(2.1, columns=len(changes_hu))
    figure.set_layout_engine("compressed")
    panels = np.atleast_1d(panels)
    reach = int(reach_mm / pixel_mm)
    row, column = (int(index.mean()) for index in np.nonzero(disc))
    cut = slice(max(0, row - reach), row + reach + 1), slice(max(0, column - reach), column + reach + 1)
    for axes, (method, change) in zip(panels, changes_hu.items()):
        image = axes.imshow(change[cut], cmap="RdBu_r", vmin=-300, vmax=300,    # twice the lesion: overshoot shows
                            extent=extent_mm(disc[cut].shape, (pixel_mm, pixel_mm)))
        show_contour(axes, disc[cut], (pixel_mm, pixel_mm), "black")
        axes.set_xlabel("x [mm]", fontsize=9)
        axes.set_ylabel("y [mm]", fontsize=9)
        axes.set_title(method, fontsize=9)
        axes.label_outer()
    figure.colorbar(image, ax=panels, label="change [HU]", extend="both", shrink=0.9)
    figure.suptitle(folded(title, 78), fontsize=11)
    return figure


# ----------------------------------------------------------------------------------------------- one layer of a picture
def hottest_slice(dose_gy: np.ndarray, prescription_gy: float) -> int:
    """The axial slice with most voxels at 90 % of the prescription or more."""
    return int(np.argmax((dose_gy >= 0.9 * prescription_gy).sum((1, 2))))


def extent_mm(shape: tuple[int, int], pixel_mm: tuple[float, float]) -> tuple[float, float, float, float]:
    """Millimetres for imshow; the first row is on top."""
    return 0.0, shape[1] * pixel_mm[1], shape[0] * pixel_mm[0], 0.0


def show_ct(axes: Axes, ct_hu: np.ndarray, pixel_mm: tuple[float, float],
            window_hu: tuple[float, float] = CT_WINDOW_HU):
    """A CT slice in grey on millimetre axes; returns the image for a colour bar."""
    axes.set_xlabel(f"x [mm]   (CT {window_hu[0]:g} to {window_hu[1]:g} HU)", fontsize=9)
    axes.set_ylabel("y [mm]", fontsize=9)
    low, high = window_hu
    grey_bar(axes, (0.03, 0.95, 0.3, 0.025))                 # its ends: below
    return axes.imshow(ct_hu, cmap="gray", vmin=low, vmax=high, extent=extent_mm(ct_hu.shape, pixel_mm))


def show_dose(axes: Axes, dose_gy: np.ndarray, pixel_mm: tuple[float, float], prescription_gy: float):
    """A dose slice over what is there, from 10 % to 110 % of the prescription."""
    shown = np.ma.masked_less(dose_gy, DOSE_SHOWN_FROM * prescription_gy)
    return axes.imshow(shown, cmap="inferno", alpha=0.55, vmin=0, vmax=1.1 * prescription_gy,
                       extent=extent_mm(dose_gy.shape, pixel_mm))


def show_contour(axes: Axes, mask: np.ndarray, pixel_mm: tuple[float, float], colour: str) -> None:
    """The outline of a mask slice, if it has one here."""
    if mask.any():
        x_mm = (np.arange(mask.shape[1]) + 0.5) * pixel_mm[1]
        y_mm = (np.arange(mask.shape[0]) + 0.5) * pixel_mm[0]
        axes.contour(x_mm, y_mm, mask.astype(float), levels=[0.5], colors=[colour], linewidths=1.4)


def show_outlines(axes: Axes, structures: dict[str, np.ndarray], z: int, pixel_mm: tuple[float, float]) -> None:
    """Black outlines of structures on axial slice z, named in a legend where there is one here: for coloured maps."""
    seen = {name: mask[z] for name, mask in structures.items() if mask[z].any()}
    for mask in seen.values():
        show_contour(axes, mask, pixel_mm, "black")
    if seen:
        axes.legend(handles=[Line2D([], [], color="black", linewidth=1.4, label=", ".join(seen))], fontsize=8,
                    loc="lower right")


def show_difference(axes: Axes, ct_hu: np.ndarray, reference_gy: np.ndarray, evaluated_gy: np.ndarray,
                    pixel_mm: tuple[float, float], prescription_gy: float, limit_percent: float):
    """Dose difference in % of the prescription where either dose reaches 10 % of it."""
    show_ct(axes, ct_hu, pixel_mm)
    low = np.maximum(reference_gy, evaluated_gy) < DOSE_SHOWN_FROM * prescription_gy
    difference = np.ma.array(100 * (evaluated_gy - reference_gy) / prescription_gy, mask=low)
    return axes.imshow(difference, cmap="RdBu_r", vmin=-limit_percent, vmax=limit_percent, alpha=0.85,
                       extent=extent_mm(ct_hu.shape, pixel_mm))


def show_gamma(axes: Axes, ct_hu: np.ndarray, gamma: np.ndarray, pixel_mm: tuple[float, float]):
    """Gamma from 0 to 2, white at the border of passing."""
    show_ct(axes, ct_hu, pixel_mm)
    return axes.imshow(np.ma.masked_invalid(gamma), cmap="RdBu_r", vmin=0, vmax=2, alpha=0.85,
                       extent=extent_mm(gamma.shape, pixel_mm))


def look_at_body(axes: Axes, ct_hu: np.ndarray, pixel_mm: tuple[float, float], margin_mm: float = 10.0) -> None:
    """Show the patient and not the air around: limits at the outermost tissue plus a margin, inside the picture."""
    tissue = ct_hu > -400
    if tissue.any():
        margins = [int(np.ceil(margin_mm / mm)) for mm in pixel_mm]
        y, x = (np.flatnonzero(tissue.any(axis)) for axis in (1, 0))
        top, left = max(0, y[0] - margins[0]), max(0, x[0] - margins[1])
        bottom, right = (min(n, edge + 1 + margin) for n, edge, margin in zip(ct_hu.shape, (y[-1], x[-1]), margins))
        axes.set_xlim(left * pixel_mm[1], right * pixel_mm[1])
        axes.set_ylim(bottom * pixel_mm[0], top * pixel_mm[0])


def new_figure(height_in: float, rows: int = 1, columns: int = 1,
               width_in: float = WIDTH_IN) -> tuple[Figure, Axes | np.ndarray]:
    """An empty figure and its axes: one, a row of them, or (rows, columns). No pyplot, so no state is left behind."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, columns)


def set_finding(axes: Axes, title: str, width: int = 74) -> None:
    """A title that states the finding, folded so that it fits above the panel."""
    axes.set_title(folded(title, width), fontsize=11, loc="left")


def folded(title: str, width: int) -> str:
    return textwrap.fill(title, width)
