"""Figures of the explorers of the latent space. Conventions as in `figures`; every panel has a fixed place.

A constrained layout takes longer than all the rest of a picture, and a click needs to know where the panels lie.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from einops import reduce
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from ..figures import (
    DISPLAYS,
    HU,
    METHOD_COLOURS,
    MODALITY_COLOURS,
    body_box,
    difference,
    headline,
    mean_error,
    new_figure,
    physical,
    plain_axes,
    show_difference,
    show_image,
    show_slice,
    state_window,
)

# One marker and one colour for each patient; the colours are Tol's muted set, told apart by colour-blind readers.
PATIENT_MARKERS = "osD^vP*X<>ph"
PATIENT_COLOURS = ("#332288", "#DDCC77", "#117733", "#88CCEE", "#882255", "#44AA99", "#CC6677", "#999933", "#AA4499")
MARKED = "#D55E00"
HELD = matplotlib.colormaps["viridis"].with_extremes(bad="#F06292")    # not a number: where an interval did not hold
# Grey windows in HU and in % of the range: in MR bone and air hide in the dark.
WINDOWS = {"soft tissue": {"HU": (-160.0, 240.0), "%": (0.0, 100.0)}, "bone": {"HU": (-500.0, 1500.0), "%": (0.0, 40.0)},
           "everything": {"HU": (-1000.0, 2000.0), "%": (0.0, 130.0)}}


# ------------------------------------------------------------------------------------------------------------ pieces
def place(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes at a place given in inches."""
    w, h = figure.get_size_inches()
    return figure.add_axes((left / w, bottom / h, width / w, height / h))


def empty_figure(height_in: float) -> Figure:
    """A figure without panels."""
    figure, axes = new_figure(height_in, layout=None)
    axes[0, 0].remove()
    return figure


def bar_below(figure: Figure, ax: Axes, image: AxesImage, label: str, ticks: Sequence[float] = ()) -> None:
    """A colour bar under a panel, its ends and its middle labelled."""
    w, h = figure.get_size_inches()
    box, limits = ax.get_position(original=True), image.get_clim()
    bar = place(figure, box.x0 * w + 0.15, box.y0 * h - 0.16, box.width * w - 0.3, 0.09)
    ticks = ticks or (limits[0], sum(limits) / 2, limits[1])
    figure.colorbar(image, cax=bar, orientation="horizontal", ticks=ticks, format="%g")
    bar.minorticks_off()
    bar.tick_params(labelsize=8, pad=1, length=2)
    bar.set_xlabel(label, fontsize=8, labelpad=0)


def in_unit(value: float, modality: str, sign: str = "") -> str:
    """A number with the unit of its modality, without false digits."""
    display = DISPLAYS[modality]
    if display.unit == "1":                                  # model space: nobody knows how much 0.12 is
        value, unit = 100 * value / (display.high - display.low), "% of the range"
    else:
        unit = display.unit
    digits = 0 if unit == "HU" else 1
    return f"{round(float(value), digits) + 0.0:{sign}.{digits}f} {unit}"


def nearest_share(distance: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Fraction of points whose nearest other point has the same label, and what it would be by chance. distance: (n, n)."""
    others = np.where(np.eye(len(labels), dtype=bool), np.inf, distance)
    counts = np.unique(labels, return_counts=True)[1]
    by_chance = (counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1))
    return float((labels[others.argmin(1)] == labels).mean()), float(by_chance)


# --------------------------------------------------------------------------------------------------------- the space
def draw_latent_map(points: Any, axis_names: tuple[str, str], modalities: Sequence[str], patients: Sequence[str],
                    colour: str, chosen: int, neighbours: Mapping[str, int], images: Any, titles: Sequence[str],
                    pixel_mm: float, finding: str) -> Figure:
    """Every slice as one point, and the chosen one decoded beside its nearest neighbours in the other modalities.

    points: (n, 2); colour: "modality" or "patient", the other is the marker; neighbours: {modality: number of the point};
    images: (n, h, w) decoded, in [-1, 1]; titles: (n,) what each slice is called; finding: about all codes, the headline's start.
    """
    points = np.asarray(points)
    modalities, patients = np.asarray(modalities), np.asarray(patients)
    coloured, marked = (modalities, patients) if colour == "modality" else (patients, modalities)
    colours = MODALITY_COLOURS if colour == "modality" else dict(zip(dict.fromkeys(patients), PATIENT_COLOURS * len(patients)))
    markers = dict(zip(dict.fromkeys(marked), PATIENT_MARKERS * len(marked)))
    named = len(set(coloured)) + (len(markers) if len(markers) > 1 else 0)
    below = 0.15 + 0.22 * -(-named // 5)                     # inches of the legend, five names in a row
    figure = empty_figure(4.45 + below)
    ax = place(figure, 0.62, 0.75 + below, 3.2, 3.1)
    for name, marker in markers.items():
        rows = marked == name
        ax.scatter(*points[rows].T, s=20, c=[colours[c] for c in coloured[rows]], marker=marker, alpha=0.6, linewidths=0)
    for name in dict.fromkeys(coloured):
        ax.plot([], [], "o", color=colours[name], label=name, markersize=7)
    for name, marker in markers.items() if len(markers) > 1 else ():
        ax.plot([], [], marker, color="0.4", label=name, markersize=7)
    for number in neighbours.values():
        ax.plot(*points[[chosen, number]].T, "-", color="black", linewidth=1)
    ax.plot(*points[[chosen, *neighbours.values()]].T, "o", color="black", fillstyle="none", markersize=9)
    ax.plot(*points[chosen], "o", color=MARKED, fillstyle="none", markersize=13, markeredgewidth=2)
    plain_axes(ax, *axis_names)
    ax.margins(0.06)
    figure.legend(loc="lower left", fontsize=10, ncols=5, columnspacing=1, handletextpad=0.3, bbox_to_anchor=(0.02, 0))
    shown = {modalities[chosen]: chosen} | dict(neighbours)
    for panel, (modality, number) in enumerate(shown.items()):
        left, bottom = 4.05 + 1.48 * (panel % 2), 2.17 + below - 2.1 * (panel // 2)
        image = place(figure, left, bottom, 1.4, 1.55)
        same = titles[number] == titles[chosen]
        what = "chosen" if number == chosen else "nearest, this slice" if same else "nearest"
        show_slice(image, images[number], modality, pixel_mm, f"{modality}: {what}\n{titles[number]}")
        image.title.set_fontsize(8)
    hits = sum(titles[number] == titles[chosen] for number in neighbours.values())
    headline(figure, finding + (f"; {hits} of {len(neighbours)} neighbours are this very slice" if neighbours else ""))
    return figure


def draw_step(start: Any, moved: Any, modality: str, pixel_mm: float, mask: Any, where: str, lands: str) -> Figure:
    """A decoded slice, the same after a step in the latent space, and the change. start, moved: (h, w) in [-1, 1].

    where: the step in words; lands: the modality of the real slice that is now the nearest.
    """
    figure, box = empty_figure(3.25), body_box(mask, 6)
    axes = [place(figure, 0.1 + 2.3 * column, 0.6, 2.2, 1.95) for column in range(3)]
    start, moved = np.asarray(start), np.asarray(moved)
    show_slice(axes[0], start[box], modality, pixel_mm, f"start: {modality}, decoded")
    show_slice(axes[1], moved[box], modality, pixel_mm, f"after the step, nearest to a {lands}")
    limit = DISPLAYS[modality].difference_limit              # in whole multiples, so that the largest changes keep their colour
    limit *= max(1, math.ceil(np.quantile(np.abs(difference(moved, start, modality)[box]), 0.99) / limit))
    change = show_difference(axes[2], moved[box], start[box], modality, pixel_mm, "change", limit)
    bar_below(figure, axes[2], change, f"[{DISPLAYS[modality].unit}]")
    size, mean = mean_error(moved, start, modality, mask), difference(moved, start, modality)[np.asarray(mask)].mean()
    headline(figure, f"{where}: {in_unit(size, modality)} a pixel of the body ({in_unit(mean, modality, '+')} on average)")
    return figure


def draw_morph(start: Any, morph: Any, blend: Any, end: Any, names: tuple[str, str], modality: str, pixel_mm: float,
               percent: float) -> Figure:
    """Two decoded slices, what is decoded between them, and their cross-fade: (h, w) in [-1, 1].

    modality: whose scale they are shown in, "model space" for two that share none.
    """
    figure = empty_figure(2.65)
    panels = {f"start: {names[0]}": start, f"latents, {percent:.0f} %": morph, f"cross-fade, {percent:.0f} %": blend,
              f"end: {names[1]}": end}
    for column, (title, image) in enumerate(panels.items()):
        ax = place(figure, 0.07 + 1.735 * column, 0.3, 1.65, 1.75)
        show_slice(ax, np.asarray(image), modality, pixel_mm, title)
        ax.title.set_fontsize(8)
    apart, ghost = mean_error(end, start, modality), mean_error(morph, blend, modality)
    headline(figure, f"Start and end differ by {in_unit(apart, modality)} a pixel, the two pictures between them by "
                     f"{in_unit(ghost, modality)}")
    return figure


# ------------------------------------------------------------------------------------------------------- translation
def draw_translator(title: str, source: str, x_source: Any, target: str, x_target: Any, x: Any, half_width: Any, mask: Any,
                    box: tuple[slice, slice], pixel_mm: float, window: str, row: int) -> Figure:
    """Source, translation and truth; error, interval and the profile of one row. Images: (h, w) in [-1, 1].

    half_width: of the interval around x; box: the part that is shown; window: of WINDOWS; row: of the whole image.
    """
    figure, display = empty_figure(5.5), DISPLAYS[target]
    panels = [[place(figure, 0.1 + 2.3 * column, 2.95 - 2.45 * line, 2.2, 1.85) for column in range(3)] for line in range(2)]
    panels[1][2].remove()
    y_mm = (row - (box[0].start or 0) + 0.5) * pixel_mm
    for ax, image, modality, name in zip(panels[0], (x_source, x, x_target), (source, target, target),
                                         (f"source {source}", f"translated to {target}", f"real {target}")):
        unit = DISPLAYS[modality].unit
        low, high = WINDOWS[window][unit]
        show_image(ax, physical(image, modality)[box], pixel_mm, name, cmap="gray", norm=Normalize(low, high))
        state_window(ax, low, high, unit)
        ax.axhline(y_mm, color=METHOD_COLOURS["vaelite"], linewidth=1)
    error = show_difference(panels[1][0], np.asarray(x)[box], np.asarray(x_target)[box], target, pixel_mm, "error")
    bar_below(figure, panels[1][0], error, f"translated - real [{display.unit}]")
    scale = (display.high - display.low) / 2                 # x spans 2
    mask, half_width = np.asarray(mask), np.asarray(half_width)
    outside = mask & (np.abs(np.asarray(x) - np.asarray(x_target)) > half_width)
    width = np.where(outside, np.nan, np.where(mask, half_width, 0))[box] * scale
    image = show_image(panels[1][1], width, pixel_mm, "half interval; pink: outside it", cmap=HELD,
                       norm=Normalize(0, 2 * display.difference_limit))
    bar_below(figure, panels[1][1], image, f"[{display.unit}]")
    draw_profile(place(figure, 5.3, 0.65, 1.6, 1.7), physical(x, target)[row], physical(x_target, target)[row],
                 half_width[row] * scale, (mask[row], box[1]), display.unit, pixel_mm)
    inside = 100 * float(1 - outside[mask].mean())
    error = in_unit(mean_error(x, x_target, target, mask), target)
    headline(figure, f"{title}, {source} → {target}: error {error} in the body, {inside:.0f} % of it inside the interval")
    return figure


def draw_profile(ax: Axes, x: np.ndarray, truth: np.ndarray, half: np.ndarray, where: tuple[np.ndarray, slice], unit: str,
                 pixel_mm: float) -> None:
    """One row of a translation with its interval, and of the truth, both in their unit; where: body mask and columns shown."""
    mask, columns = where
    mm = (np.arange(len(x)) - (columns.start or 0) + 0.5) * pixel_mm
    shown = slice(columns.start, columns.stop)
    ax.fill_between(mm[shown], (x - half)[shown], (x + half)[shown], color=METHOD_COLOURS["vaelite"], alpha=0.3, linewidth=0)
    ax.plot(mm[shown], truth[shown], color="black", linewidth=1, label="real")
    ax.plot(mm[shown], x[shown], "--", color=METHOD_COLOURS["vaelite"], linewidth=1.2, label="translated")
    plain_axes(ax, "along the line [mm]", f"[{unit}]")
    ax.yaxis.labelpad = -4
    ax.set_ylim(*((-1100, 1600) if unit == HU.unit else (-10, 130)))
    ax.legend(fontsize=7, loc="upper right", borderpad=0.2, handlelength=1.3)
    error = np.abs(x - truth)[mask].mean() if mask.any() else 0.0
    ax.set_title(f"profile: error {error:.3g} {unit}", fontsize=9)


def draw_attention(weights: Any, token: tuple[int, int], source: str, x_source: Any, target: str, x: Any, mask: Any,
                   pixel_mm: float, what: str) -> Figure:
    """Where one token of the target reads.

    weights: (h, w), sum 1; x_source, x, mask (the body): (H, W), images in [-1, 1]; what: block and head in words.
    """
    figure, weights = empty_figure(3.55), np.asarray(weights)
    axes = [place(figure, 0.1 + 2.3 * column, 0.62, 2.2, 2.15) for column in range(3)]
    h, w = weights.shape
    side = np.asarray(x).shape[-1] // w
    side_mm = side * pixel_mm                                # of a token
    show_slice(axes[0], x, target, pixel_mm, f"{target}, predicted, and the token")
    show_slice(axes[1], x_source, source, pixel_mm, f"{source}: where half of the weight lies")
    relative = weights * weights.size                        # 1: the even share
    image = axes[2].imshow(relative.clip(0.01), extent=(0, w * side_mm, h * side_mm, 0), cmap="viridis", norm=LogNorm(0.1, 100))
    axes[2].set(xticks=[], yticks=[])
    axes[2].set_title(f"weight: {what}", fontsize=9)
    bar_below(figure, axes[2], image, "weight / even share [1]", (0.1, 1, 10, 100))
    order = np.argsort(weights, axis=None)[::-1]
    half = order[:int(np.searchsorted(weights.flat[order].cumsum(), 0.5)) + 1]
    read = np.zeros((h, w, 4))                               # transparent but where half of the weight lies
    read.reshape(-1, 4)[half] = (*to_rgb("#F0E442"), 0.4)
    axes[1].imshow(read, extent=(0, w * side_mm, h * side_mm, 0))
    for ax in axes:
        ax.add_patch(Rectangle((token[1] * side_mm, token[0] * side_mm), side_mm, side_mm, fill=False, edgecolor=MARKED,
                               linewidth=2))
    rows, columns = np.indices(weights.shape)
    away_mm = side_mm * np.hypot(rows - token[0], columns - token[1])
    body = reduce(np.asarray(mask, float), "(h a) (w b) -> h w", "mean", a=side, b=side)
    inside = 100 * (weights * body).sum()
    headline(figure, f"{inside:.0f} % of the weight lies on the body ({100 * body.mean():.0f} % of the slice), half of all on "
                     f"{len(half)} of {weights.size} tokens; it reads {(weights * away_mm).sum():.0f} mm away on average "
                     f"(even weights: {away_mm.mean():.0f} mm)")
    return figure


def draw_fusion(title: str, target: str, x_target: Any, drawn: Mapping[str, tuple[Any, Any]], shown: str, mask: Any,
                box: tuple[slice, slice], pixel_mm: float) -> Figure:
    """A translation from some sources, its error and its interval; and the error from each set of these sources.

    drawn: {"CBCT+T1c": (x, half width of its interval)}, all (h, w) in [-1, 1]; shown: which of them is pictured.
    """
    figure, display = empty_figure(4.75), DISPLAYS[target]
    scale, mask = (display.high - display.low) / 2, np.asarray(mask)
    x, half = (np.asarray(part) for part in drawn[shown])
    axes = [place(figure, 0.1 + 2.3 * column, 2.3, 2.2, 1.8) for column in range(3)]
    show_slice(axes[0], x[box], target, pixel_mm, f"{target} from {shown}")
    image = show_difference(axes[1], x[box], np.asarray(x_target)[box], target, pixel_mm, "error")
    bar_below(figure, axes[1], image, f"translated - real [{display.unit}]")
    image = show_image(axes[2], np.where(mask, half, 0)[box] * scale, pixel_mm, "interval, half its width", cmap="viridis",
                       norm=Normalize(0, 2 * display.difference_limit))
    bar_below(figure, axes[2], image, f"[{display.unit}]")
    errors = {name: mean_error(part, x_target, target, mask) for name, (part, _) in drawn.items()}
    widths = [float(np.asarray(width)[mask].mean()) * scale for _, width in drawn.values()]
    ax, lines = place(figure, 1.4, 0.45, 3.9, 0.18 * 7), np.arange(len(drawn))
    colours = [METHOD_COLOURS["vaelite"] if name == shown else "0.75" for name in drawn]
    ax.barh(lines, list(errors.values()), 0.7, color=colours, label="mean error")
    ax.plot(widths, lines, "D", color="black", markersize=5, label="mean half width\nof the interval")
    plain_axes(ax, f"in the body of this slice [{display.unit}]", "")
    ax.set_yticks(lines, list(drawn), fontsize=8)
    longest = max(display.difference_limit, 1.05 * max(*errors.values(), *widths))           # no bar is cut
    ax.set(xlim=(0, longest), ylim=(6.6, -0.6))
    ax.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False)
    alone = {name: error for name, error in errors.items() if "+" not in name}
    best = min(alone, key=alone.get)
    finding = f"{title}: error {in_unit(errors[shown], target)} from {shown}"
    headline(figure, finding + (f", {in_unit(errors[best], target)} from {best} alone" if "+" in shown else ""))
    return figure


def draw_nothing(finding: str) -> Figure:
    """A picture for a choice that has none."""
    figure = empty_figure(4.75)
    headline(figure, finding)
    return figure
