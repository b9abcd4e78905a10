"""Tables and sentences about images, from the rows of report.json.

The paper's numbers stand beside ours with the reason why the two cannot be compared.
"""
from __future__ import annotations

from itertools import count
from typing import Any

from ..figures import TIE
from .metrics import CONVENTIONS, REPORTED
from .rows import METHODS, cell, markdown, mean_of_cases, number, present, row_text, rows_of

# Liang et al. 2025 (doi 10.1002/mp.17912), abstract: mean +- SD over its private patients, mask and window not stated
PAPER = {
    ("CBCT", "CT", "MAE"): "21.60 ± 8.80", ("T1c", "CT", "MAE"): "45.23 ± 13.21", ("T2w", "CT", "MAE"): "47.55 ± 13.88",
    ("T1c", "T2w", "PSNR"): "26.33 ± 1.36", ("T1c", "T2w", "SSIM"): "0.8521 ± 0.0221",
    ("T2w", "T1c", "PSNR"): "26.03 ± 1.67", ("T2w", "T1c", "SSIM"): "0.8573 ± 0.0266",
    ("reconstruction", "PSNR"): "32.80", ("reconstruction", "SSIM"): "0.9233",
}
NOT_COMPARABLE = ("Not comparable: other patients (the paper's 87 are private; ours are a phantom, or real CTs with simulated "
                  "CBCTs, or yours), other image size, mask and window not published.")


def summary_table(report: dict[str, Any]) -> str:
    """One line a method: means over the directions in the body, MAE by what the target is, and who is best how often."""
    metrics = [("MAE", "HU"), ("MAE", "of range"), ("PSNR", "dB"), ("SSIM", "1")]
    found = {}
    for method in METHODS:
        rows = [row for row in rows_of(report, table="translation", method=method)
                if row["convention"] == REPORTED[row["target"]][0]]
        if rows:
            found[method] = {key: {(row["source"], row["target"]): row["mean"] for row in rows
                                   if (row["metric"], row["unit"]) == key} for key in metrics}
    shown = [key for key in metrics if any(means[key] for means in found.values())]
    maes = {method: means["MAE", "HU"] | means["MAE", "of range"] for method, means in found.items()}
    best = [min(maes, key=lambda method: maes[method][direction]) for direction in next(iter(maes.values()))]
    lines = [[METHODS[method], *[number(sum(means[key].values()) / len(means[key]), key[0], key[1]) for key in shown],
              f"{best.count(method)} of {len(best)}"] for method, means in found.items()]
    header = [f"{metric} [{unit}], {len(found[next(iter(found))][metric, unit])} directions" for metric, unit in shown]
    return ("Means over directions, body mask; HU where the target is CT or CBCT, else of the reference's range\n\n"
            + markdown(["method", *header, "lowest MAE"], lines))


def conventions_table(values: dict[str, dict[str, float]]) -> str:
    """What `metrics.every_convention` says of one pair of images: {convention: {"MAE", "PSNR", "SSIM"}}."""
    rows = []
    for name, found in values.items():
        mae = f"{100 * found['MAE']:.1f} % of range" if CONVENTIONS[name].clip is None else f"{found['MAE']:.1f} HU"
        rows.append([name, CONVENTIONS[name].label, mae, f"{found['PSNR']:.2f}", f"{found['SSIM']:.3f}"])
    return markdown(["convention", "meaning", "MAE", "PSNR [dB]", "SSIM"], rows)


def reconstruction_table(report: dict[str, Any]) -> str:
    """PSNR and SSIM of decode(encode(x)) per modality, in the body and over the whole grid."""
    rows = []
    for modality in present(report, table="reconstruction"):
        in_body, on_grid = REPORTED[modality]
        cells = [cell(report, table="reconstruction", target=modality, metric=metric, convention=convention)
                 for metric in ("PSNR", "SSIM") for convention in (in_body, on_grid)]
        rows.append([modality, in_body, on_grid, *cells])
    means = [mean_of(report, metric, on_grid) for metric in ("PSNR", "SSIM") for on_grid in (False, True)]
    rows.append(["mean", "", "", *means])
    rows.append(["paper", "not stated", "", PAPER["reconstruction", "PSNR"], "", PAPER["reconstruction", "SSIM"], ""])
    return markdown(["modality", "in body", "whole grid", "PSNR body [dB]", "PSNR grid [dB]", "SSIM body", "SSIM grid"], rows)


def mean_of(report: dict[str, Any], metric: str, on_grid: bool) -> str:
    """Mean over the modalities of the reconstruction's means."""
    values = [row["mean"] for modality in present(report, table="reconstruction")
              for row in rows_of(report, table="reconstruction", target=modality, metric=metric,
                                 convention=REPORTED[modality][on_grid])]
    return number(sum(values) / len(values), metric)


def translation_table(report: dict[str, Any], metric: str, on_grid: bool = False) -> str:
    """One metric, all directions x all methods, the best mean in bold; in the body, or over the whole grid.

    MAE is in HU where the target is CT or CBCT, else a fraction of the reference's p0.5-p99.5 range.
    """
    lower_is_better = metric == "MAE"
    methods = [m for m in METHODS if rows_of(report, table="translation", method=m)]
    lines = []
    for source in present(report, table="translation"):
        for target in present(report, table="translation"):
            convention = REPORTED[target][on_grid]
            found = {m: rows_of(report, table="translation", method=m, source=source, target=target, metric=metric,
                                convention=convention) for m in methods}
            if not any(found.values()):
                continue
            means = {m: rows[0]["mean"] for m, rows in found.items() if rows}
            best = (min if lower_is_better else max)(means, key=means.get)
            cells = [("**{}**" if m == best else "{}").format(row_text(found[m][0])) for m in methods]
            row = next(iter(found.values()))[0]
            lines.append([f"{source} → {target}", row["unit"], convention, *cells, str(row["n"]),
                          PAPER.get((source, target, metric), "–")])
    where = "whole grid" if on_grid else "body mask"
    return f"**{metric}, {where}**\n\n" + markdown(
        ["direction", "unit", "convention", *[METHODS[m] for m in methods], "n", "paper (not comparable)"], lines)


def fusion_table(report: dict[str, Any]) -> str:
    """All other modalities at once against the best single source of the same method, in the body."""
    lines, methods = [], [m for m in METHODS if rows_of(report, table="fusion", method=m)]
    for target in present(report, table="fusion"):
        for metric in ("MAE", "PSNR", "SSIM"):
            cells = []
            for method in methods:
                fused, best = fused_and_best_single(report, target, metric, method)
                cells.append(f"{row_text(fused)} ({number(best, metric, fused['unit'])})")
            lines.append([target, f"{metric} [{fused['unit']}]", fused["convention"], *cells, str(fused["n"])])
    return ("All other modalities at once; in brackets the mean of the same patients from the best single source\n\n"
            + markdown(["target", "metric", "convention", *[METHODS[m] for m in methods], "n"], lines))


def fusion_sentence(report: dict[str, Any], method: str = "vaelite") -> str:
    """The MAE in the body from all sources at once against that from the best single one, target by target, same patients."""
    change: dict[str, float] = {}
    for target in present(report, table="fusion", method=method):
        fused, best = fused_and_best_single(report, target, "MAE", method)
        change[target] = fused["mean"] / best - 1
    sides = {"lower": [t for t, c in change.items() if c <= -TIE], "the same": [t for t, c in change.items() if abs(c) < TIE],
             "higher": [t for t, c in change.items() if c >= TIE]}
    said = "; ".join(f"{side} for {', '.join(f'{t} ({100 * change[t]:+.1f} %)' for t in targets)}"
                     for side, targets in sides.items() if targets)
    return f"MAE from all sources at once against the best single one ({METHODS[method]}): {said}. Within {100 * TIE:g} % is a tie."


def fused_and_best_single(report: dict[str, Any], target: str, metric: str, method: str) -> tuple[dict[str, Any], float]:
    """The row of all sources at once, in the body, and the best single source's mean over the same patients."""
    wanted = {"target": target, "metric": metric, "convention": REPORTED[target][0], "method": method}
    (fused,) = rows_of(report, table="fusion", **wanted)
    singles = [mean_of_cases(row, fused["cases"]) for row in rows_of(report, table="translation", **wanted)]
    return fused, (min if metric == "MAE" else max)(singles)


def uncertainty_table(report: dict[str, Any]) -> str:
    """Do the intervals around a translation hold what they promise on patients that calibrated nothing?"""
    rows = rows_of(report, table="uncertainty", metric="coverage")
    ranks = ("8 x 8 pixels", "8 x 8 pixels in the body")
    lines = []
    for row in rows:
        task = {"source": row["source"], "target": row["target"], "metric": "spearman"}
        lines.append([f"{row['source']} → {row['target']}", row_text(row, 1),
                      *[cell(report, table="uncertainty", convention=where, **task) for where in ranks], str(row["n"])])
    return ("Intervals made to hold 80 % of the validation patients' body; spearman: rank correlation of their width with the "
            "error\n\n" + markdown(["direction", "inside [%]", *[f"spearman, {where}" for where in ranks], "n"], lines))


def uncertainty_sentence(report: dict[str, Any]) -> str:
    """How many voxels the intervals hold, and whether a wide one announces a large error."""
    held = [row["mean"] for row in rows_of(report, table="uncertainty", metric="coverage")]
    ranks = {f"{row['source']} → {row['target']}": row["mean"] for row in
             rows_of(report, table="uncertainty", metric="spearman", convention="8 x 8 pixels in the body")}
    wrong = [direction for direction, rho in ranks.items() if rho < 0]
    return (f"The 80 % intervals hold {min(held):.0f} to {max(held):.0f} % of the test patients' body, direction by direction. "
            f"In the body their width and the error have a rank correlation of {min(ranks.values()):+.2f} to "
            f"{max(ranks.values()):+.2f}" + (f"; negative, wide where the error is small: {', '.join(wrong)}." if wrong else "."))


def comparison_table(report: dict[str, Any], target: str, metric: str = "MAE") -> str:
    """vaelite minus each baseline, from each source to one target, patient by patient: is the difference more than luck?"""
    rows = rows_of(report, table="comparison", target=target, metric=metric)
    sign, lines = -1 if metric == "MAE" else 1, []
    for row in rows:
        better = sum(sign * value > 0 for value in row["values"])
        sure = [f"{row['p']:.2g}", f"{row['p_holm']:.2g}"] if row["p"] is not None else ["–", "–"]
        lines.append([f"{row['source']} → {target}", METHODS[row["baseline"]], signed(row, row["mean"]), interval_text(row),
                      f"{better} of {row['n']}", *sure, str(row["n"])])
    unit, convention, most = rows[0]["unit"], rows[0]["convention"], max(row["n"] for row in rows)
    note = (f"**{metric} to {target}, vaelite minus baseline**, {convention}: {'below' if sign < 0 else 'above'} 0 vaelite is "
            f"better. Interval: bootstrap by patient. p: Wilcoxon signed-rank; Holm: corrected over {len(rows)} comparisons.")
    if rows[0]["p"] is not None and (least := 2 / 2**most) * len(rows) > 0.05:
        note += (f" With {most} patients p is never below {least:.2g}, corrected {min(1, least * len(rows)):.2g}: no table like "
                 f"this one can reach 0.05.")
    if any(row["p"] is None for row in rows):
        alone, corrected = (next(n for n in count(1) if 2 / 2**n * tests <= 0.05) for tests in (1, len(rows)))
        note += (f" –: too few patients. The smallest p is 2 / 2^n: below 0.05 it needs n >= {alone}, corrected over {len(rows)} "
                 f"comparisons n >= {corrected}.")
    header = ["direction", "baseline", f"difference [{unit}]", "95 % interval", "patients better", "p", "p (Holm)", "n"]
    return note + "\n\n" + markdown(header, lines)


def interval_text(row: dict[str, Any]) -> str:
    """'-12.3 to -9.1', or a dash where there were too few patients."""
    return " to ".join(signed(row, end) for end in row["ci95"]) if row["ci95"] else "–"


def signed(row: dict[str, Any], value: float) -> str:
    text = number(value, row["metric"], row["unit"])
    return text if value < 0 else f"+{text}"


def shape_table(report: dict[str, Any]) -> str:
    """MAE of each tissue and overlap of air, bone and edges of every synthetic CT."""
    columns = [("tissue", f"MAE {tissue}") for tissue in ("air", "soft", "bone")]
    columns += [("shape", f"Dice {shape}") for shape in ("air", "bone", "edge")]
    note = ("MAE by the real CT's HU, in the body: air below -200, bone above 250, soft tissue between. Dice: overlap of what "
            "lies beyond these HU in either CT, and of the edges of at least 250 HU; 1 overlaps exactly, 0 nowhere.")
    return method_table(report, columns, ["MAE air [HU]", "soft [HU]", "bone [HU]", "Dice air", "bone", "edge"], note)


def slices_table(report: dict[str, Any]) -> str:
    """Do neighbouring slices of every synthetic CT fit together?"""
    columns = [("slices", metric) for metric in ("jump ratio", "MAE of jumps", "SSIM along z")]
    note = ("A jump is the difference between a voxel and the one in the next slice, both in the body. Ratio to the real CT's: "
            "above 1 slices flicker, below 1 they are smoother than the anatomy.")
    text = method_table(report, columns, ["jump ratio", "MAE of jumps [HU]", "SSIM along z"], note)
    return f"{text}\n\n{jumps_sentence(report)}" if text else ""


def jumps_sentence(report: dict[str, Any], target: str = "CT") -> str:
    """Who is too smooth from slice to slice, who flickers: the farthest from 1 each way (a copied MR is no CT)."""
    ratios = {f"{METHODS[row['method']]} from {row['source']}": row["mean"]
              for row in rows_of(report, table="slices", target=target, metric="jump ratio")
              if row["method"] != "copy" or row["source"] == "CBCT"}
    low, high = min(ratios, key=ratios.get), max(ratios, key=ratios.get)
    smooth = f"smoother than the anatomy, most of all {low} ({ratios[low]:.2f})" if ratios[low] < 0.95 else "none too smooth"
    flicker = (f"flickering, most of all {high} ({ratios[high]:.2f})" if ratios[high] > 1.05
               else f"none flickers by more than 5 % (at most {ratios[high]:.2f})")
    return f"Jump ratios: {smooth}; {flicker}. A copied MR is no CT and left out here."


def lesion_table(report: dict[str, Any]) -> str:
    """Does a lesion planted in the source reach the synthetic CT, and does one appear that is not there?"""
    columns = [("lesion", metric) for metric in ("contrast kept", "erased", "invented")]
    note = ("A lesion of 8 mm and +150 HU in the source's most uniform tissue. Kept: its contrast in the result; erased: lesions "
            "that kept less than half; invented: slices in which, without a lesion, uniform tissue shows one half as strong "
            "(noise as strong as that counts; a copy: what the source itself shows). An MR has no HU to plant.")
    return method_table(report, columns, ["contrast kept [%]", "erased [% of lesions]", "invented [% of slices]"], note, 0)


def method_table(report: dict[str, Any], columns: list[tuple[str, str]], header: list[str], note: str,
                 decimals: int | None = None, target: str = "CT") -> str:
    """One line for each source and method, one column for each (table, metric) into `target`; "" if the report has none."""
    found = {(row["source"], row["method"]): row for row in rows_of(report, table=columns[0][0], target=target)}
    lines = [[f"{source} → {target}", METHODS[method],
              *[cell(report, decimals, source=source, method=method, target=target, table=table, metric=metric)
                for table, metric in columns], str(row["n"])] for (source, method), row in found.items()]
    return note + "\n\n" + markdown(["direction", "by", *header, "n"], lines) if lines else ""


def distribution_table(report: dict[str, Any]) -> str:
    """KID of each method's images to the real ones, beside what real images have among themselves; "" if there is none."""
    lines = []
    for target in present(report, table="distribution"):
        null = rows_of(report, table="distribution", target=target, method="real")
        for row in rows_of(report, table="distribution", target=target):
            if row["method"] != "real":
                error = f" ± {row['se']:.4f}" if row["se"] is not None else ""
                lines.append([f"{row['source']} → {target}", METHODS[row["method"]], f"{row['mean']:+.4f}{error}",
                              f"± {null[0]['sd']:.4f}" if null else "–", row["convention"], str(row["n"])])
    note = ("KID: distance of the synthetic images from the real ones of the same patients as a crowd, ± standard error by "
            "patient; 0 on average, below it by chance, for images of the same law. Real against real: half the patients against "
            "the other half, SD over the splits: so far apart are real images of other patients. It says whether textures look "
            "alike, not whether the anatomy is right. No FID: that needs Inception.")
    header = ["direction", "by", "KID [1]", "real against real", "features", "n"]
    return note + "\n\n" + markdown(header, lines) if lines else ""


LOOKING_CLOSER = {"Tissues and shapes": shape_table, "From slice to slice": slices_table, "Lesions": lesion_table,
                  "As a crowd": distribution_table}


def body_means(report: dict[str, Any], method: str, metric: str) -> dict[str, float]:
    """{"CBCT>CT": mean of the metric in the body mask} over all directions of one method."""
    rows = rows_of(report, table="translation", method=method, metric=metric)
    return {f"{row['source']}>{row['target']}": row["mean"] for row in rows
            if row["convention"] == REPORTED[row["target"]][0]}
