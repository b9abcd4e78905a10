"""Figures of images, latents and training: data in, matplotlib Figure out. (Dose: `dose.figures`.)

`x` is an image in model space, [-1, 1]; pictures and differences are shown in HU (CBCT, CT) or in % of the range (MR).
A panel's title is a finding whose number is computed here. No state: figures are made without pyplot.
"""
from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

# Okabe and Ito 2008; the last two methods: Tol's muted set. Told apart by colour-blind readers. One colour for one
# modality or one method, everywhere: no method has the colour of a modality.
MODALITY_COLOURS = {"CBCT": "#E69F00", "CT": "#0072B2", "T1c": "#009E73", "T2w": "#CC79A7"}
METHOD_COLOURS = {"vaelite": "#D55E00", "unet": "#000000", "control": "#661100", "ridge": "#56B4E9", "copy": "#999999",
                  "mapped": "#882255", "blended": "#AA9900", "finetuned": "#332288"}
METHOD_NAMES = {"unet": "U-Net", "control": "no latents", "finetuned": "fine-tuned"}    # where the name shown is not the name in code
DIVERGING = "RdBu_r"
WIDTH_IN, DPI = 7.0, 100                                     # 700 px: sharp on a page, still readable on a phone
NARROW_IN = 4.2                                              # where panels stand below one another: a phone shows it in full
TIE = 0.02                                                   # errors closer than 2 % are a tie: our choice


@dataclass(frozen=True)
class Display:
    """How a modality is shown: physical values of x = -1 and x = +1, grey window, limit of differences, unit."""

    low: float
    high: float
    window: tuple[float, float]
    difference_limit: float
    unit: str


HU = Display(-1000.0, 2000.0, (-250.0, 350.0), 300.0, "HU")  # low and high: intensity.HU_WINDOW; a test compares
MR = Display(0.0, 100.0, (0.0, 100.0), 30.0, "%")            # MR has no unit: percent of its 0.5-99.5 percentile range
MODEL = Display(-1.0, 1.0, (-1.0, 1.0), 0.3, "1")            # pictures that belong to no modality
DISPLAYS = {"CBCT": HU, "CT": HU, "T1c": MR, "T2w": MR, "model space": MODEL}


# ------------------------------------------------------------------------------------------------------------ pieces
def physical(x: Any, modality: str) -> np.ndarray:
    """Model space [-1, 1] -> what is shown: HU for CBCT and CT, % of the intensity range for MR."""
    display = DISPLAYS[modality]
    return (np.asarray(x, dtype=np.float32) + 1) / 2 * (display.high - display.low) + display.low


def difference(x: Any, reference: Any, modality: str) -> np.ndarray:
    """x - reference, both in [-1, 1], in the modality's shown unit."""
    return physical(x, modality) - physical(reference, modality)


def mean_error(x: Any, reference: Any, modality: str, mask: Any = None) -> float:
    """Mean absolute difference inside the mask (default: everywhere) in the modality's shown unit."""
    error = np.abs(difference(x, reference, modality))
    return float(error.mean() if mask is None else error[np.asarray(mask)].mean())


def new_figure(height_in: float, rows: int = 1, columns: int = 1, width_in: float = WIDTH_IN,
               layout: str | None = "constrained") -> tuple[Figure, np.ndarray]:
    """An empty figure and its axes (rows, columns)."""
    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout=layout)
    return figure, figure.subplots(rows, columns, squeeze=False)


def headline(figure: Figure, finding: str) -> None:
    """The finding above all panels, wrapped to the figure's width; a number stays with its sign and its unit."""
    finding = re.sub(r" = |(?<=\d) (?=dB|HU|%|numbers|s\b|SD)", lambda gap: gap[0].replace(" ", "\u00a0"), finding)
    figure.suptitle(textwrap.fill(finding, int(11.5 * figure.get_figwidth())), fontsize=11)


def body_box(mask: Any, margin: int = 3) -> tuple[slice, slice]:
    """Rows and columns around the body, to give the picture to the patient and not to the air."""
    inside = np.nonzero(np.asarray(mask))
    if not len(inside[0]):
        return slice(None), slice(None)
    return tuple(slice(max(0, int(i.min()) - margin), int(i.max()) + margin + 1) for i in inside)


def show_slice(ax: Axes, x: Any, modality: str, pixel_mm: float, title: str = "", window: bool = True) -> AxesImage:
    """One slice in grey with its window stated below and a scale bar. x: (h, w) in [-1, 1]."""
    low, high = DISPLAYS[modality].window
    image = show_image(ax, physical(x, modality), pixel_mm, title, cmap="gray", norm=Normalize(low, high))
    if window:
        state_window(ax, low, high, DISPLAYS[modality].unit)
    return image


def state_window(ax: Axes, low: float, high: float, unit: str) -> None:
    """A bar from black to white below a grey picture, and what its ends are."""
    grey_bar(ax, (0, -0.055, 1, 0.03))
    ax.set_xlabel(f"{low:g} to {high:g} [{unit}]", fontsize=8, labelpad=10)


def grey_bar(ax: Axes, place: tuple[float, float, float, float]) -> None:
    """From black to white; place: left, bottom, width and height as shares of the panel."""
    bar = ax.inset_axes(place, xticks=[], yticks=[])
    bar.imshow([[0, 1]], cmap="gray", interpolation="bilinear", aspect="auto")
    bar.spines[:].set_color("0.6")                           # seen on black, too


def show_difference(ax: Axes, x: Any, reference: Any, modality: str, pixel_mm: float, title: str = "",
                    limit: float | None = None) -> AxesImage:
    """x - reference, red where x is too high; limits fixed for each modality so that pictures can be compared.

    limit: for what is larger than any error.
    """
    limit = limit or DISPLAYS[modality].difference_limit
    error = difference(x, reference, modality)
    return show_image(ax, error, pixel_mm, title, cmap=DIVERGING, norm=Normalize(-limit, limit))


def show_image(ax: Axes, image: np.ndarray, pixel_mm: float, title: str, **style: Any) -> AxesImage:
    """An image with square pixels, no ticks and a scale bar of 50 mm (or of 20 or 5 mm if it is small)."""
    h, w = image.shape
    shown = ax.imshow(image, extent=(0, w * pixel_mm, h * pixel_mm, 0), **style)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize=9)
    bar_mm = next((mm for mm in (50, 20, 5) if mm < 0.6 * w * pixel_mm), 1)
    x0, y0 = 0.04 * w * pixel_mm, 0.96 * h * pixel_mm
    ax.plot([x0, x0 + bar_mm], [y0, y0], color="white", linewidth=4, solid_capstyle="butt")
    ax.plot([x0, x0 + bar_mm], [y0, y0], color="black", linewidth=2, solid_capstyle="butt")
    ax.text(x0, y0 - 0.02 * h * pixel_mm, f"{bar_mm} mm", fontsize=7, va="bottom",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8})
    return shown


def colour_bar_panel(figure: Figure, ax: Axes, image: AxesImage, label: str) -> None:
    """Use an empty panel for a colour bar."""
    ax.set_axis_off()
    inset = ax.inset_axes((0.42, 0.08, 0.12, 0.84))
    figure.colorbar(image, cax=inset)
    inset.tick_params(labelsize=8)
    inset.yaxis.set_label_position("left")
    inset.set_ylabel(label, fontsize=8)


def plain_axes(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Labels with units, a light grid, no box."""
    ax.set_xlabel(xlabel, fontsize=9)
    ax.set_ylabel(ylabel, fontsize=9)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)


# ------------------------------------------------------------------------------------------------------------ images
def draw_modalities(x: Mapping[str, Any], pixel_mm: float, mask: Any = None) -> Figure:
    """One slice in every modality it has. x: {modality: (h, w) in [-1, 1]}; cropped to the mask."""
    box = (slice(None), slice(None)) if mask is None else body_box(mask)
    inside = np.ones_like(next(iter(x.values())), bool) if mask is None else np.asarray(mask)
    columns = min(len(x), 2)
    rows, (h, w) = -(-len(x) // columns), inside[box].shape
    height_in = 0.6 + rows * (0.55 + NARROW_IN / columns * h / w)    # headline; title, picture and grey bar of each row
    figure, axes = new_figure(height_in, rows, columns, NARROW_IN)
    for ax in axes.flat[len(x):]:
        ax.set_axis_off()
    for ax, (modality, image) in zip(axes.flat, x.items()):
        show_slice(ax, np.asarray(image)[box], modality, pixel_mm, modality)
        ax.title.set_color(MODALITY_COLOURS[modality])
        ax.title.set_weight("bold")
    pairs = {(a, b): float(np.corrcoef(np.asarray(x[a])[inside], np.asarray(x[b])[inside])[0, 1])
             for i, a in enumerate(x) for b in list(x)[i + 1:]}
    if pairs:
        (a, b), (c, d) = max(pairs, key=pairs.get), min(pairs, key=pairs.get)
        finding = f"One head: {a} and {b} agree most (correlation {pairs[a, b]:.2f} in the body)"
        headline(figure, finding + (f", {c} and {d} least ({pairs[c, d]:.2f})" if len(pairs) > 1 else ""))
    return figure


def draw_slices(x: Mapping[str, Any], modality: str, pixel_mm: float, finding: str = "", mask: Any = None,
                window: bool = True) -> Figure:
    """A row of slices of one modality. x: {title: (h, w) in [-1, 1]}; window: stated below each, or by the titles."""
    box = (slice(None), slice(None)) if mask is None else body_box(mask)
    figure, axes = new_figure(3.0, 1, len(x), WIDTH_IN * max(len(x), 2) / max(len(x), 4))
    for ax, (title, image) in zip(axes[0], x.items()):
        show_slice(ax, np.asarray(image)[box], modality, pixel_mm, title, window)
        if not window:
            grey_bar(ax, (0, -0.055, 1, 0.03))               # its ends stand in the title
    if finding:
        headline(figure, finding)
    return figure


def draw_reconstruction(x: Any, reconstructions: Mapping[str, Any], modality: str, pixel_mm: float,
                        mask: Any = None) -> Figure:
    """A slice, what each code makes of it, and the error below each. x: (h, w); reconstructions: {name: (h, w)}."""
    figure, axes = new_figure(4.6, 2, 1 + len(reconstructions), WIDTH_IN * (1 + len(reconstructions)) / 4, None)
    return compare(figure, axes, (x, modality, f"original {modality}"), reconstructions, x, modality, pixel_mm, mask)


def draw_translations(source: str, x_source: Any, target: str, x_reference: Any, predictions: Mapping[str, Any],
                      pixel_mm: float, mask: Any = None) -> Figure:
    """Source, the prediction of each method, the real target; below, the errors.

    x_*: (h, w) in [-1, 1]; predictions: {method: (h, w)}. "copy" predicts the source itself: its error stands below it.
    """
    others = {name: image for name, image in predictions.items() if name != "copy"}
    figure, axes = new_figure(4.3, 2, 2 + len(others), WIDTH_IN * (2 + len(others)) / 4, None)
    box = (slice(None), slice(None)) if mask is None else body_box(mask)
    show_slice(axes[0, -1], np.asarray(x_reference)[box], target, pixel_mm, f"real {target}")
    axes[1, -1].set_axis_off()
    left = (x_source, source, f"source {source}")
    return compare(figure, axes[:, :-1], left, others, x_reference, target, pixel_mm, mask,
                   copy="copy" in predictions, bar=axes[1, -1])


def draw_targets(source: str, x_source: Any, targets: Mapping[str, tuple[Any, Any]], pixel_mm: float,
                 mask: Any = None) -> Figure:
    """One source translated to every target, the real images below. targets: {modality: (predicted, real)}."""
    box = (slice(None), slice(None)) if mask is None else body_box(mask)
    figure, axes = new_figure(4.6, 2, 1 + len(targets), WIDTH_IN * (1 + len(targets)) / 4)
    show_slice(axes[0, 0], np.asarray(x_source)[box], source, pixel_mm, f"source {source}")
    axes[1, 0].set_axis_off()
    findings = []
    for column, (target, (predicted, real)) in enumerate(targets.items(), 1):
        show_slice(axes[0, column], np.asarray(predicted)[box], target, pixel_mm, f"predicted {target}", window=False)
        show_slice(axes[1, column], np.asarray(real)[box], target, pixel_mm, f"real {target}")
        findings.append(f"{target}\u00a0{mean_error(predicted, real, target, mask):.3g} {DISPLAYS[target].unit}")
    headline(figure, f"One {source}, one model; error against the real image: {', '.join(findings)}")
    return figure


def draw_uncertainty(x: Any, half_width: Any, x_reference: Any, modality: str, pixel_mm: float, mask: Any) -> Figure:
    """A translation, how wide its interval is, and its real error: all (h, w) in [-1, 1], mask (h, w) bool."""
    display, box = DISPLAYS[modality], body_box(mask)
    x, half_width, error = np.asarray(x), np.asarray(half_width), np.abs(np.asarray(x) - np.asarray(x_reference))
    figure, axes = new_figure(3.1, 1, 3)
    show_slice(axes[0, 0], x[box], modality, pixel_mm, f"translated to {modality}")
    scale = Normalize(0, 2 * display.difference_limit)       # an interval of 80 % is wider than most errors
    for ax, unit_map, title in ((axes[0, 1], half_width, "interval, half its width"), (axes[0, 2], error, "absolute error")):
        shown = np.where(mask, unit_map, 0)[box] * (display.high - display.low) / 2
        image = show_image(ax, shown, pixel_mm, title, cmap="viridis", norm=scale)
    figure.colorbar(image, ax=axes, label=f"[{display.unit}]", shrink=0.7, extend="max")
    inside = 100 * float((error <= half_width)[np.asarray(mask, dtype=bool)].mean())
    headline(figure, f"{inside:.0f} % of this slice's body lie inside their interval")
    return figure


def draw_reliability(half_width: Any, error: Any, modality: str, coverage: float = 0.8) -> Figure:
    """Is the error large where the interval is wide? half_width, error: (n,) of the body's pixels in [-1, 1]; in ten groups of
    equal size by predicted width, the width against the one that would have held `coverage` of the group."""
    unit = (DISPLAYS[modality].high - DISPLAYS[modality].low) / 2
    half_width, error = unit * np.asarray(half_width), unit * np.asarray(error)
    groups = np.array_split(np.argsort(half_width), 10)
    predicted, needed = np.array([[half_width[g].mean(), np.quantile(error[g], coverage)] for g in groups]).T
    figure, axes = new_figure(3.4, width_in=4.2)
    ax, most = axes[0, 0], 1.05 * max(predicted.max(), needed.max())
    ax.plot([0, most], [0, most], color="#999999", linestyle="--", label="as wide as it should be")
    ax.plot(predicted, needed, "o-", color=METHOD_COLOURS["vaelite"], label="a tenth of the pixels each")
    ax.set(xlim=(0, most), ylim=(0, most))
    shown = DISPLAYS[modality].unit
    plain_axes(ax, f"half width predicted [{shown}]", f"half width needed for {100 * coverage:.0f} % [{shown}]")
    ax.legend(fontsize=8)
    ratio = needed[-1] / needed[0]
    says = "wide says wrong" if ratio > 1.5 else "wide says little" if ratio > 1 else "wide is not wrong: the map misleads"
    headline(figure, f"The widest tenth needed {ratio:.1f} times the width of the narrowest: {says}")
    return figure


def compare(figure: Figure, axes: np.ndarray, left: tuple[Any, str, str], predictions: Mapping[str, Any],
            x_reference: Any, modality: str, pixel_mm: float, mask: Any, copy: bool = False,
            bar: Axes | None = None) -> Figure:
    """Left picture, predictions, and their errors in the row below; the headline gives their errors in this order."""
    box = (slice(None), slice(None)) if mask is None else body_box(mask)
    unit, reference = DISPLAYS[modality].unit, np.asarray(x_reference)
    x_left, left_modality, left_title = left
    show_slice(axes[0, 0], np.asarray(x_left)[box], left_modality, pixel_mm, left_title)
    errors = {name: mean_error(image, reference, modality, mask) for name, image in predictions.items()}
    for column, (name, image) in enumerate(predictions.items(), 1):
        shown_name = METHOD_NAMES.get(name, name)
        show_slice(axes[0, column], np.asarray(image)[box], modality, pixel_mm, shown_name)
        image = show_difference(axes[1, column], np.asarray(image)[box], reference[box], modality, pixel_mm,
                                f"MAE {errors[name]:.3g} {unit}")
    if copy:
        errors["copy"] = mean_error(x_left, reference, modality, mask)
        show_difference(axes[1, 0], np.asarray(x_left)[box], reference[box], modality, pixel_mm,
                        f"MAE of a copy {errors['copy']:.3g} {unit}")
    elif bar is not None:
        axes[1, 0].set_axis_off()
    colour_bar_panel(figure, axes[1, 0] if bar is None else bar, image, f"error [{unit}]")
    where = "in the body" if mask is not None else "in the slice"
    found = ", ".join(f"{METHOD_NAMES.get(name, name)} {error:.3g} {unit}" for name, error in errors.items())
    headline(figure, f"Mean absolute error {where}: {found}")
    fix_margins(figure)
    return figure


def fix_margins(figure: Figure) -> None:
    """Room for the headline, the titles and the windows of two rows of pictures: faster than a constrained layout."""
    height, lines = figure.get_figheight(), figure.get_suptitle().count("\n") + 1
    figure.subplots_adjust(left=0.02, right=0.98, wspace=0.06, bottom=0.1 / height,
                           top=1 - (0.32 + 0.2 * lines) / height, hspace=0.36)


def draw_convention(reference_hu: Any, predicted_hu: Any, counted: Any, clip_hu: tuple[float, float],
                    values: Mapping[str, Mapping[str, float]], chosen: str, pixel_mm: float) -> Figure:
    """One pair, the error that one convention sees of it, and the PSNR of the whole volume under every convention.

    reference_hu, predicted_hu: (h, w) [HU]; counted: (h, w) bool; clip_hu: what the convention clips both to; values:
    {convention: {"PSNR", "SSIM"}}. The picture is always the same; where a voxel does not count, the error is left out.
    """
    figure = Figure(figsize=(WIDTH_IN, 4.9), dpi=DPI, layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1.35, 1))
    panels = [figure.add_subplot(grid[0, column]) for column in range(3)]
    style = {"cmap": "gray", "norm": Normalize(*HU.window)}
    for ax, image, title in zip(panels, (reference_hu, predicted_hu), ("real CT", "synthetic CT")):
        show_image(ax, np.asarray(image), pixel_mm, title, **style)
        state_window(ax, *HU.window, "HU")
    error = np.clip(predicted_hu, *clip_hu) - np.clip(reference_hu, *clip_hu)
    image = show_image(panels[2], np.ma.masked_where(~np.asarray(counted), error), pixel_mm, f"error under {chosen}",
                       cmap=DIVERGING, norm=Normalize(-HU.difference_limit, HU.difference_limit))
    panels[2].set_facecolor("0.65")
    which = "all voxels count" if np.all(counted) else "grey: not counted"
    panels[2].set_xlabel(f"clipped to {clip_hu[0]:.0f} to {clip_hu[1]:.0f} HU\n{which}", fontsize=8)
    bar = figure.colorbar(image, ax=panels[2], shrink=0.8)
    bar.set_label("error [HU]", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    ax, decibels = figure.add_subplot(grid[1, :]), {name: found["PSNR"] for name, found in values.items()}
    for row, (name, found) in enumerate(values.items()):
        ax.plot(found["PSNR"], row, "o", markersize=9, color=METHOD_COLOURS["vaelite"] if name == chosen else "0.6")
        ax.text(found["PSNR"] + 0.7, row, f"{found['PSNR']:.1f} dB, SSIM {found['SSIM']:.3f}", va="center", fontsize=8,
                weight="bold" if name == chosen else "normal")
    ax.set_yticks(range(len(values)), values)
    ax.set(xlim=(10, 50), ylim=(len(values) - 0.5, -0.5))    # fixed: the dots of another method can be compared
    plain_axes(ax, "PSNR of the whole volume [dB]", "")
    low, high = min(decibels.values()), max(decibels.values())
    headline(figure, f"One pair: {low:.1f} to {high:.1f} dB by convention alone; {chosen} says {decibels[chosen]:.1f} dB")
    return figure


# ----------------------------------------------------------------------------------------------------------- latents
def draw_components(components: Any, deviations: Any, total_variance: float, pixel_mm: float) -> Figure:
    """The patterns PCA builds a slice from. components: (k, f, f); deviations: (k,); total_variance: of a patch."""
    components, share = np.asarray(components), np.asarray(deviations) ** 2 / total_variance
    columns = 8
    rows = -(-len(components) // columns)
    figure, axes = new_figure(0.8 + 1.05 * rows, rows, columns)
    limit = float(np.abs(components[1:]).max())
    for number, (ax, patch) in enumerate(zip(axes.flat, components), 1):
        image = ax.imshow(patch, cmap=DIVERGING, norm=Normalize(-limit, limit))
        ax.set(xticks=[], yticks=[])
        ax.set_title(f"{100 * share[number - 1]:.2g} %", fontsize=8)
    for ax in axes.flat[len(components):]:
        ax.set_axis_off()
    side_mm = components.shape[-1] * pixel_mm
    figure.colorbar(image, ax=axes, label="weight [1]", shrink=0.8)
    headline(figure, f"{len(components)} patterns of {side_mm:.0f} x {side_mm:.0f} mm carry {100 * share.sum():.1f} % "
                     f"of the variance, the first alone {100 * share[0]:.0f} % (its share above each)")
    return figure


def draw_quality(numbers: Sequence[int], psnr_db: Mapping[str, Sequence[float]], pixels: int,
                 learned_db: Mapping[str, float] | None = None) -> Figure:
    """Reconstruction PSNR against the numbers kept of a slice.

    psnr_db: {modality: PCA's value at each of `numbers`}; learned_db: {modality: the VAE's value at the largest}.
    """
    figure, ((ax,),) = new_figure(3.6)
    for modality, values in psnr_db.items():
        ax.plot(numbers, values, "o-", color=MODALITY_COLOURS[modality], label=f"PCA {modality}", markersize=4)
        if learned_db:
            ax.plot(numbers[-1], learned_db[modality], "*", color=MODALITY_COLOURS[modality], markersize=13,
                    label=f"VAE {modality}")
    ax.set_xscale("log", base=2)
    ax.set_xticks(numbers, [f"{n:,}" for n in numbers])
    plain_axes(ax, f"numbers kept of {pixels:,} pixels [1]", "PSNR [dB]")
    ax.legend(fontsize=8, ncols=2 if learned_db else 1)
    first, last = (np.mean([values[i] for values in psnr_db.values()]) for i in (0, -1))
    finding = f"PCA: {first:.1f} dB from {numbers[0]:,} numbers, {last:.1f} dB from {numbers[-1]:,}"
    if learned_db:
        finding += f"; the VAE makes it {np.mean(list(learned_db.values())):.1f} dB"
    headline(figure, finding + " (mean of modalities)")
    return figure


def draw_influence(influences: Mapping[str, Any], token: tuple[int, int], finding: str = "") -> Figure:
    """How strongly each source token moves one target token. influences: {title: (h, w)}, relative to the largest."""
    figure, axes = new_figure(3.3, 1, len(influences), WIDTH_IN * max(len(influences), 2) / 2.6)
    for ax, (title, influence) in zip(axes[0], influences.items()):
        relative = np.asarray(influence) / np.asarray(influence).max()
        used = int((relative > 0).sum())
        image = ax.imshow(relative.clip(1e-6), cmap="viridis", norm=LogNorm(1e-6, 1))
        ax.plot(token[1], token[0], "s", markersize=9, fillstyle="none", color="red", markeredgewidth=1.5)
        ax.set_title(f"{title}: {used} of {relative.size} tokens", fontsize=9)
        plain_axes(ax, "column of tokens [1]", "row of tokens [1]")
        ax.label_outer()
        ax.grid(False)
    figure.colorbar(image, ax=axes, label="relative influence [1]", shrink=0.8)
    if finding:
        headline(figure, finding)
    return figure


# ---------------------------------------------------------------------------------------------------------- training
def draw_training(history: Sequence[Mapping[str, float]], name: str, label: str = "") -> Figure:
    """The loss of every recorded step, with its running mean; the KL divergence beside it where there is one.

    Of a loss with several terms it is the image's, which other networks' can be compared with. label: what the loss is, with its
    unit, where that is something else.
    """
    step = np.array([record["step"] for record in history])
    loss = "image" if "image" in history[0] else "loss"
    keys = [key for key in (loss, "kl_per_latent") if key in history[0]]
    labels = {"image": "loss of the image [1]", "loss": "loss [1]", "kl_per_latent": "KL divergence [nat per latent]"}
    labels |= {loss: label} if label else {}
    figure, axes = new_figure(3.0, 1, len(keys))
    window = max(1, len(step) // 10)
    means = {}
    for ax, key in zip(axes[0], keys):
        values = np.array([record[key] for record in history])
        means[key] = np.convolve(values, np.ones(window) / window, "valid")
        ax.plot(step, values, color="0.75", linewidth=0.8, label="one batch")
        ax.plot(step[window - 1:], means[key], color=METHOD_COLOURS["vaelite"], label=f"mean of {window} records")
        plain_axes(ax, "step [1]", labels[key])
        ax.set_ylim(bottom=0)
        ax.legend(fontsize=8)
    last, worst = history[-1], max(history, key=lambda record: record[loss])
    headline(figure, f"{name}: loss {means[loss][0]:.3f} in the first, {means[loss][-1]:.3f} in the last {window} records, worst "
                     f"{worst[loss]:.3f} at step {worst['step']:,} of {last['step']:,} ({last['seconds']:.0f} s)")
    return figure


def draw_power(patients: Sequence[int], power: Mapping[int, Sequence[float]], shift: float, own: int) -> Figure:
    """How surely a reader study finds a shift. power: {readers: fraction of trials at each of `patients`}; own: patients here."""
    figure, ((ax,),) = new_figure(3.4)
    colours = (METHOD_COLOURS["copy"], METHOD_COLOURS["ridge"], METHOD_COLOURS["finetuned"], METHOD_COLOURS["vaelite"])
    for (readers, values), colour, marker in zip(power.items(), colours, "osD^"):
        ax.plot(patients, 100 * np.asarray(values), marker=marker, markersize=4, markevery=-(-len(patients) // 9), color=colour,
                label=f"{readers} reader{'s' if readers > 1 else ''}")
    ax.axhline(80, color="black", linewidth=0.8, linestyle="--", label="80 %, usual aim")
    ax.axvline(own, color="black", linewidth=0.8, linestyle=":", label=f"test patients here: {own}")
    plain_axes(ax, "test patients [1]", f"power: shift of {shift:g} found [% of trials]")
    ax.set(xlim=(0, max(patients) + 1), ylim=(-3, 103))
    ax.legend(fontsize=8, loc="lower right")
    enough = {readers: next((f"{n} patients" for n, value in zip(patients, values) if value >= 0.8),
                            f"more than {max(patients)} patients") for readers, values in power.items()}
    needed = ", ".join(f"{n} with {readers} reader{'s' if readers > 1 else ''}" for readers, n in enough.items())
    headline(figure, f"To find {shift:g} points in 80 % of studies: {needed}. Here are {own}")
    return figure


def draw_direction_matrix(errors: Mapping[str, Mapping[str, float]]) -> Figure:
    """Mean absolute error of every direction, one panel a method, coloured by its ratio to the first method.

    errors: from `evaluation.direction_errors`, {"CBCT>CT": {"copy": error of x in [-1, 1], ...}}. Shown in HU or %.
    """
    pairs = [direction.split(">") for direction in errors]
    modalities = [m for m in MODALITY_COLOURS if any(m in pair for pair in pairs)]
    methods = list(next(iter(errors.values())))
    table = {method: error_table(errors, method, modalities) for method in methods}
    base = table[methods[0]]
    height_in = (0.65 + 0.52 * len(modalities)) * len(methods) + (1.2 if len(methods) > 1 else 0.6)
    figure, axes = new_figure(height_in, len(methods), 1, NARROW_IN)
    names = [METHOD_NAMES.get(method, method) for method in methods]
    columns = [f"{modality}\n[{DISPLAYS[modality].unit}]" for modality in modalities]
    for ax, name, matrix in zip(axes[:, 0], names, table.values()):
        ratio = matrix / base
        image = ax.imshow(ratio, cmap=DIVERGING, norm=TwoSlopeNorm(1, 0, 2))
        for row, column in np.argwhere(np.isfinite(ratio)):
            dark = abs(ratio[row, column] - 1) > 0.6
            ax.text(column, row, f"{matrix[row, column]:.3g}", ha="center", va="center", fontsize=8,
                    color="white" if dark else "black")
        ax.set_xticks(range(len(modalities)), columns, fontsize=8)
        ax.set_yticks(range(len(modalities)), modalities, fontsize=8)
        ax.set_ylabel("source", fontsize=9)
        better = f"better in {(ratio <= 1 - TIE).sum()} of {np.isfinite(ratio).sum()} (by {100 * TIE:g} % or more)"
        ax.set_title(name if matrix is base else f"{name}: {better}", fontsize=9)
    axes[-1, 0].set_xlabel("target", fontsize=9)
    if len(methods) > 1:
        figure.colorbar(image, ax=axes, label=f"error / error of {names[0]} [1]", location="bottom", aspect=30)
        share = 100 * np.nanmedian(table[methods[-1]] / base)
        headline(figure, f"Median of directions: {names[-1]} has {share:.0f} % of the error of {names[0]}")
    else:
        column = modalities.index("CT") if "CT" in modalities else 0
        error, unit = base[:, column], DISPLAYS[modalities[column]].unit
        rows = (np.nanargmin(error), np.nanargmax(error))
        least, most = (f"{error[row]:.3g} {unit} from {modalities[row]}" for row in rows)
        headline(figure, f"Error of {names[0]} to {modalities[column]}: {least}, {most}")
    return figure


def error_table(errors: Mapping[str, Mapping[str, float]], method: str, modalities: Sequence[str]) -> np.ndarray:
    """Errors of one method in the target's shown unit: rows the source, columns the target, nan where there is none."""
    half_range = {m: (DISPLAYS[m].high - DISPLAYS[m].low) / 2 for m in modalities}    # of x, which spans 2
    table = [[errors.get(f"{s}>{t}", {}).get(method, np.nan) * half_range[t] for t in modalities] for s in modalities]
    return np.array(table)
