"""report.json as tables that can be read: in a terminal, a notebook and the README. No figure is typed by hand.

The paper's numbers stand beside ours with the reason why the two cannot be compared.
"""
from __future__ import annotations

from itertools import count, permutations
from typing import Any

from scipy.stats import spearmanr

from ..figures import TIE
from .metrics import CONVENTIONS, REPORTED

METHODS = {"vaelite": "vaelite", "unet": "U-Net", "control": "no latents", "ridge": "ridge", "copy": "copy"}
BULK_METHODS = {"water": "water", "bulk": "water + bone + air"}      # for dose alone: they look like no CT
BULK_NOTE = ("\"water\": the body is 0 HU. \"water + bone + air\": also the bone (> 250 HU) and air (< -200 HU) of the real "
             "CT, each at its mean HU (our choice, the best case: a clinic would have to find them elsewhere).")
STAND_IN_METRICS = {"MAE": "MAE in the body [HU]", "MAE bone": "MAE in bone [HU]", "ME": "mean error in the body [HU]",
                    "depth": "error of the radiological depth of the target [mm]"}

# Liang et al. 2025 (doi 10.1002/mp.17912), abstract: mean +- SD over its private patients, mask and window not stated
PAPER = {
    ("CBCT", "CT", "MAE"): "21.60 ± 8.80", ("T1c", "CT", "MAE"): "45.23 ± 13.21", ("T2w", "CT", "MAE"): "47.55 ± 13.88",
    ("T1c", "T2w", "PSNR"): "26.33 ± 1.36", ("T1c", "T2w", "SSIM"): "0.8521 ± 0.0221",
    ("T2w", "T1c", "PSNR"): "26.03 ± 1.67", ("T2w", "T1c", "SSIM"): "0.8573 ± 0.0266",
    ("reconstruction", "PSNR"): "32.80", ("reconstruction", "SSIM"): "0.9233",
}
NOT_COMPARABLE = ("Not comparable: other patients (the paper's 87 are private; ours are a phantom, or real CTs with simulated "
                  "CBCTs, or yours), other image size, mask and window not published.")
NO_PAPER_VALUE = "the abstract gives none"


def report_tables(report: dict[str, Any]) -> str:
    """All tables of a report as Markdown, each with its convention and n."""
    return f"{report_summary(report)}\n\n{report_details(report)}"


def report_details(report: dict[str, Any]) -> str:
    """Every direction, metric and dose."""
    data = report["data"]
    parts = ["Mean ± SD over test patients.", "## Reconstruction", reconstruction_table(report), "## Translation"]
    parts += [translation_table(report, metric, on_grid) for metric in ("MAE", "PSNR", "SSIM") for on_grid in (False, True)]
    if rows_of(report, table="comparison"):
        targets = present(report, table="comparison")
        parts += ["## vaelite minus baseline", *[comparison_table(report, target) for target in targets]]
    for name, table in LOOKING_CLOSER.items():
        parts += [f"## {name}", text] if (text := table(report)) else []
    if rows_of(report, table="fusion"):
        parts += ["## Fusion", fusion_table(report)]
    if rows_of(report, table="uncertainty"):
        parts += ["## Uncertainty", uncertainty_table(report)]
    if rows_of(report, table="gamma"):
        parts += ["## Dose", gamma_table(report), dvh_table(report), prediction_table(report)]
    used = dict.fromkeys(convention for modality in data["modalities"] for convention in REPORTED[modality])
    parts.append("Conventions: " + "; ".join(f"`{name}`: {CONVENTIONS[name].label}" for name in used)
                 + ". PSNR and SSIM use that range; \"of range\": 1 is the reference's p0.5-p99.5.")
    parts.append(f"Paper: Liang et al. 2025, abstract. {NOT_COMPARABLE}")
    return "\n\n".join(part for part in parts if part)


def report_summary(report: dict[str, Any]) -> str:
    """Which data, what training cost, one line a method, and the report card: what fits on one screen."""
    data, counts = report["data"], report["data"]["cases"]
    head = (f"Run `{report['run']}` (profile {report['profile']}, seed {report['seed']}) on `{data['name']}`: "
            f"{counts['train']} training, {counts['validation']} validation, {counts['test']} test patients; "
            f"means over test patients. Images: {'; '.join(data['sources'])}. Research and teaching only.")
    card = markdown(["question", "answer", "in numbers"], [list(line.values()) for line in report_card(report)])
    return "\n\n".join([head, training_table(report), summary_table(report), card])


def fill(text: str, report: dict[str, Any]) -> str:
    """A document with this run's tables written anew between `<!-- summary:RUN -->` or `<!-- details:RUN -->` and
    `<!-- end -->`: so no result in it is typed by hand."""
    for kind, write in (("summary", report_summary), ("details", report_details)):
        mark = f"{kind}:{report['run']}"
        if f"<!-- {mark} -->" in text:
            text = put(text, mark, write(report).replace("\n## ", "\n#### "))
    return text


def put(text: str, mark: str, content: str) -> str:
    """A document with `content` between the line `<!-- mark -->` and the next `<!-- end -->`."""
    before, start, after = text.partition(f"<!-- {mark} -->")
    return f"{before}{start}\n{content}\n<!-- end -->{after.partition('<!-- end -->')[2]}"


def rows_of(report: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """The rows whose fields equal all of `wanted`, e.g. rows_of(report, table="gamma", source="T1c")."""
    return [row for row in report["rows"] if all(row.get(key) == value for key, value in wanted.items())]


def training_table(report: dict[str, Any]) -> str:
    """What each network cost: parameters trained (in stage 3 the mapper's too), steps, seconds, processor seconds, device.

    Processor seconds are those of all threads; on a GPU seconds.
    """
    rows = [[name, f"{s['parameters']:,}", f"{s['steps']:,}", f"{s['seconds']:.0f}", f"{s['processor_seconds']:.0f}", s["device"]]
            for name, s in report["stages"].items()]
    return markdown(["network", "parameters trained", "steps", "seconds", "processor seconds", "device"], rows)


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


def mean_of_cases(row: dict[str, Any], cases: list[str]) -> float:
    """The mean of a row over some of its patients alone: those who have all modalities."""
    values = [value for case, value in zip(row["cases"], row["values"]) if case in cases]
    return sum(values) / len(values)


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
    return f"Jump ratios: {smooth}; " + (f"flickering, most of all {high} ({ratios[high]:.2f})." if ratios[high] > 1.05
                                         else "none flickers (all below 1.05).")


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


def gamma_table(report: dict[str, Any], case: str | None = None) -> str:
    """Gamma pass rates and target dose errors of everything that replaced the CT: mean ± SD, or of one patient."""
    criteria = list(dict.fromkeys(row["metric"] for row in rows_of(report, table="gamma")))
    lines = []
    for source, method in dose_methods(report):
        wanted = [*(("gamma", criterion) for criterion in criteria), ("dose", "MAE_target"), ("dose", "ME_target")]
        found = [rows_of(report, table=table, source=source, method=method, metric=metric) for table, metric in wanted]
        texts = ["–" if not rows else row_text(rows[0], 2) if case is None else
                 f"{rows[0]['values'][rows[0]['cases'].index(case)]:.2f}" for rows in found]
        lines.append([dose_label(source, method), *texts, str(found[0][0]["n"] if case is None else 1)])
    row = rows_of(report, table="gamma")[0]
    parameters, spacing = row["parameters"], next(iter(row["spacing_mm"].values()))
    doses, voxels = sorted(set(row["normalisation_gy"].values())), sorted(row["n_voxels"].values())
    note = (f"Gamma pass rate [%]: {parameters['mode']}, normalised to {' or '.join(f'{gy:g}' for gy in doses)} Gy (the "
            f"highest prescription), voxels of at least {parameters['cutoff_percent']:g} % of it ({voxels[0]:,} to "
            f"{voxels[-1]:,} a patient), reference = {parameters['reference']}, {parameters['interpolation']} search on the CT "
            f"grid ({' x '.join(f'{mm:.2g}' for mm in spacing)} mm; the dose is calculated at {report['dose']['dose.grid_mm']:g} mm "
            f"or on the CT's grid, where that is coarser, and interpolated). matRad counts other voxels: above the criterion's %. "
            f"MAE_target and ME_target: mean absolute and mean signed dose error in % of the prescription where the plan has at "
            f"least 90 % of it. {BULK_NOTE} Paper: every pass rate > 99 % (criteria not published).")
    header = ["dose calculated on", *[c.replace("gamma ", "") for c in criteria], "MAE_target [%]", "ME_target [%]", "n"]
    return note + "\n\n" + markdown(header, lines)


def dvh_table(report: dict[str, Any]) -> str:
    """DVH: the plan, and what each other CT changes: all points of the highest target, D95 of the others, the organs' one."""
    plan = rows_of(report, table="dvh", method="plan")
    highest = max((row for row in plan if row["metric"].endswith(" V95")),      # V95 is there for targets alone
                  key=lambda row: max(mean_of_plan(plan, row["metric"].removesuffix("V95") + "D50"), 0.0))["metric"]
    shown = [row for row in plan if keep_in_table(row["metric"], highest.removesuffix(" V95"))]
    lines = [["plan", *[row_text(row, 1) for row in shown]]]
    for s, m in dose_methods(report):
        found = [rows_of(report, table="dvh", source=s, method=m, metric=row["metric"]) for row in shown]
        lines.append([dose_label(s, m), *["–" if not rows else signed_text(rows[0]) for rows in found]])
    header = ["dose calculated on", *[f"{row['metric'].replace('_', ' ')} [{row['unit']}]" for row in shown]]
    return f"DVH: the plan, and the difference of each other CT from it, n = {plan[0]['n']}\n\n" + markdown(header, lines)


def mean_of_plan(plan: list[dict[str, Any]], metric: str) -> float:
    return next(row["mean"] for row in plan if row["metric"] == metric)


def signed_text(row: dict[str, Any]) -> str:
    """'+0.21 ± 0.10': a difference says its sign."""
    return f"{row['mean']:+.2f}" if row["sd"] is None else f"{row['mean']:+.2f} ± {row['sd']:.2f}"


def judged_table(judged: dict[str, dict[str, float]]) -> str:
    """Altered CTs side by side: {"bone" | "noise" | "bias": {measure: value}}, and how far a measure tells them apart."""
    rows = []
    for measure in judged["bone"]:
        values = {name: abs(of_ct[measure]) for name, of_ct in judged.items()}
        ratios = ["–", "–"]
        if max(values.values()) >= 0.01:                     # less is nothing, in all of these units
            pairs = ((max(values.values()), min(values.values())), (values["bone"], values["bias"]))
            ratios = [f"{above / max(below, 0.01):.1f}" for above, below in pairs]
        rows.append([measure, *[f"{of_ct[measure]:.2f}" for of_ct in judged.values()], *ratios])
    return markdown(["measure", *judged, "largest : smallest", "bone : bias"], rows)


def stand_in_points(report: dict[str, Any], metric: str) -> list[tuple[str, str, float, float]]:
    """(method, source, metric of the CT, MAE_target [%]) of every CT a dose was calculated on; metrics: STAND_IN_METRICS."""
    points = []
    for row in rows_of(report, table="dose", metric="MAE_target"):
        (of_ct,) = rows_of(report, table="stand-in", method=row["method"], source=row["source"], metric=metric)
        values = dict(zip(of_ct["cases"], of_ct["values"]))
        points += [(row["method"], row["source"], values[case], error) for case, error in zip(row["cases"], row["values"])
                   if values[case] is not None]
    return points


def rank_correlation(points: list[tuple[str, str, float, float]]) -> float | None:
    """Spearman's rho between |metric of the CT| and the dose error; None for fewer than 4 points or where all are alike."""
    metric, error = ([abs(point[i]) for point in points] for i in (2, 3))
    return float(spearmanr(metric, error).statistic) if min(len(set(metric)), len(set(error))) > 3 else None


def order_sentence(report: dict[str, Any], method: str = "vaelite") -> str:
    """Does the source with the lower image error have the lower dose error? The two sources that disagree most, with numbers."""
    mae, dose = ({row["source"]: row["mean"] for row in rows_of(report, table=table, method=method, metric=metric)}
                 for table, metric in (("stand-in", "MAE"), ("dose", "MAE_target")))
    if len(mae) < 2:
        return "One source alone: no order of sources to compare."
    turned = [pair for pair in permutations(mae, 2) if mae[pair[0]] < mae[pair[1]] and dose[pair[0]] > dose[pair[1]]]
    if not turned:
        return f"By {METHODS[method]}, the source with the lower image error has the lower dose error here; it need not be so."
    a, b = max(turned, key=lambda pair: dose[pair[0]] / max(dose[pair[1]], 0.01))
    return (f"A lower image error need not be a lower dose error: by {METHODS[method]}, {a} has the lower MAE ({mae[a]:.1f} "
            f"against {mae[b]:.1f} HU), {b} the lower MAE_target ({dose[b]:.2f} against {dose[a]:.2f} %).")


def prediction_table(report: dict[str, Any]) -> str:
    """What of a CT predicts its dose? Rank correlation of each metric with MAE_target, over all CTs and within each source."""
    sources, lines = list(dict.fromkeys(s for s, _ in dose_methods(report) if s != "CT")), []
    for metric, name in STAND_IN_METRICS.items():
        points = stand_in_points(report, metric)
        groups = [points, *([p for p in points if p[1] == source] for source in sources)]
        rho = [rank_correlation(group) for group in groups]
        lines.append([name, *["–" if r is None else f"{r:+.2f} (n = {len(group)})" for r, group in zip(rho, groups)]])
    patients = len(rows_of(report, table="dose")[0]["cases"])
    note = (f"Spearman's rank correlation with MAE_target. One point is one CT of one of {patients} patient(s): points of one "
            "patient are not independent, so no p-value")
    return note + "\n\n" + markdown(["of the CT", "all", *[f"from {s}" for s in sources]], lines)


def prediction_panels(report: dict[str, Any]) -> tuple[dict[str, tuple[str, list]], str]:
    """MAE and radiological depth against the dose error, as `dose.figures.draw_error_against_dose` takes them, and its title."""
    panels, said = {}, []
    for metric, name in {"MAE": "MAE", "depth": "radiological depth"}.items():
        points = stand_in_points(report, metric)
        rho = rank_correlation(points)
        said += [] if rho is None else [f"{name} {rho:+.2f}"]
        finding = "too few CTs to say" if rho is None else f"rank correlation {rho:+.2f}, n = {len(points)}"
        panels[STAND_IN_METRICS[metric]] = (finding, points)
    return panels, f"What orders the doses of {len(points)} CTs? Rank correlation: {', '.join(said) or 'too few to say'}"


def sensitivity_curves(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """{kind of error: {"unit", "amount": [...], "<metric>": [...]}} of the table "sensitivity"; metrics as its rows name them."""
    curves: dict[str, dict[str, Any]] = {}
    for row in rows_of(report, table="sensitivity"):
        curve = curves.setdefault(row["method"], {"unit": row["amount_unit"], "amount": []})
        curve["amount"] += [] if row["amount"] in curve["amount"] else [row["amount"]]
        curve.setdefault(row["metric"], []).append(row["mean"])
    return curves


def sensitivity_table(curve: dict[str, Any], name: str) -> str:
    """One knob turned, all else equal: a curve of `sensitivity_curves`, a line each size; `name` says what was turned."""
    strict = ("2%/2mm", "1%/1mm")
    rows = [[f"{amount:g}", f"{shift:+.2f}", *[f"{100 - curve[f'gamma {criterion}'][i]:.2f}" for criterion in strict]]
            for i, (amount, shift) in enumerate(zip(curve["amount"], curve["ME_target"]))]
    return markdown([f"{name} [{curve['unit']}]", "ME_target [%]", *[f"{criterion} fails [%]" for criterion in strict]], rows)


def report_card(report: dict[str, Any]) -> list[dict[str, str]]:
    """Questions a clinic would ask, answered by the report, whoever wins: [{"question", "answer", "numbers"}]."""
    card = dose_verdicts(report)
    for rival, name in (("copy", "doing nothing"), ("ridge", "the closed-form ridge"), ("unet", "the U-Net"),
                        ("control", "the same without latents")):
        for metric, sign in (("MAE", -1), ("SSIM", 1)):
            ours, theirs = body_means(report, "vaelite", metric), body_means(report, rival, metric)
            lost = [d for d in theirs if sign * ours[d] <= sign * theirs[d]]
            if theirs:
                card.append({"question": f"{metric}: better than {name}?",
                             "answer": f"{len(theirs) - len(lost)} of {len(theirs)} directions",
                             "numbers": f"lost: {', '.join(lost)}".replace(">", " → ") if lost else "none lost"})
    for row in rows_of(report, table="lesion", method="vaelite", metric="invented", target="CT"):
        found = {r["method"]: r["mean"] for r in rows_of(report, table="lesion", metric="invented", source=row["source"], target="CT")
                 if r["method"] != "copy" or row["source"] == "CBCT"}    # an MR taken for a CT invents everywhere
        card.append({"question": f"Lesions invented in the CT from {row['source']}: the fewest?",
                     "answer": verdict(found),
                     "numbers": "in " + ", ".join(f"{value:.1f} % ({METHODS[m]})" for m, value in found.items()) + " of the slices"})
    gammas = rows_of(report, table="gamma", method="vaelite")
    for metric in dict.fromkeys(row["metric"] for row in gammas):
        lowest = {row["source"]: min(row["values"]) for row in gammas if row["metric"] == metric}
        worst = min(lowest, key=lowest.get)
        spaced = metric.replace("%/", " %/").removesuffix("mm") + " mm"
        card.append({"question": f"{spaced}: above 99 % for every patient and source?",
                     "answer": "yes" if lowest[worst] > 99 else "no",
                     "numbers": f"lowest {lowest[worst]:.2f} %, from {worst} (n = {gammas[0]['n']})"})
    bulk = min((row["mean"] for row in rows_of(report, table="dose", source="CT", metric="MAE_target")), default=None)
    for source in dict.fromkeys(source for source, _ in dose_methods(report) if source != "CT"):
        errors = {row["method"]: row["mean"] for row in rows_of(report, table="dose", source=source, metric="MAE_target")}
        card.append({"question": f"Target dose on the CT made from {source}: are we the closest?",
                     "answer": verdict(errors),
                     "numbers": "MAE_target " + ", ".join(f"{METHODS[m]} {value:.2f} %" for m, value in errors.items())})
        if bulk is not None and "vaelite" in errors:
            card.append({"question": f"Target dose from {source}: closer than the best bulk-density CT?",
                         "answer": "yes" if errors["vaelite"] < bulk else "no",
                         "numbers": f"MAE_target {errors['vaelite']:.2f} %, bulk density {bulk:.2f} %"})
    return card


def verdict(values: dict[str, float]) -> str:
    """Whether "vaelite" has the lowest of {method: value}; a tie is told."""
    lowest = [method for method, value in values.items() if value == min(values.values())]
    rivals = " and ".join(METHODS[method] for method in lowest if method != "vaelite")
    if "vaelite" not in lowest:
        return f"no: {rivals}"
    return f"yes, with {rivals}" if rivals else "yes"


def dose_verdicts(report: dict[str, Any], limit_percent: float = 2.0) -> list[dict[str, str]]:
    """The lesson's question, source by source: does no patient's target lie farther off than the limit (our choice)?"""
    verdicts = []
    for row in rows_of(report, table="dose", method="vaelite", metric="MAE_target"):
        worst = max(row["values"])
        raw = [r["mean"] for r in rows_of(report, table="dose", method="copy", source="CBCT", metric="MAE_target")]
        verdicts.append({"question": f"Good enough for dose from {row['source']} (MAE_target within {limit_percent:g} % in every "
                                     f"patient)?",
                         "answer": "yes" if worst <= limit_percent else "no",
                         "numbers": f"MAE_target up to {worst:.2f} %, mean {row['mean']:.2f} % (n = {row['n']})"
                                    + (f"; the raw CBCT {raw[0]:.2f} %" if raw else "")})
    return verdicts


def body_means(report: dict[str, Any], method: str, metric: str) -> dict[str, float]:
    """{"CBCT>CT": mean of the metric in the body mask} over all directions of one method."""
    rows = rows_of(report, table="translation", method=method, metric=metric)
    return {f"{row['source']}>{row['target']}": row["mean"] for row in rows
            if row["convention"] == REPORTED[row["target"]][0]}


def keep_in_table(metric: str, highest: str) -> bool:
    """What a planner asks first: all points of the highest target, D95 of the others, serial organs Dmax, glands Dmean."""
    structure, _, name = metric.rpartition(" ")
    if structure.startswith("PTV"):
        return name in (("D98", "D95", "D50", "D2", "V95") if structure == highest else ("D95",))
    if structure in ("SpinalCord", "Brainstem"):
        return name == "Dmax"
    return structure.startswith("Parotid") and name == "Dmean"


def dose_methods(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(source, method) of every CT that got a dose: synthetic ones by source, then the bulk densities (source "CT")."""
    found = {(row["source"], row["method"]) for row in rows_of(report, table="dose")}
    return [(s, m) for s in ("CBCT", "T1c", "T2w", "CT") for m in (*METHODS, *BULK_METHODS) if (s, m) in found]


def dose_label(source: str, method: str) -> str:
    """What a dose was calculated on, in words; an unchanged CBCT is what a clinic calls the raw one."""
    if method in BULK_METHODS:
        return BULK_METHODS[method]
    return f"raw {source}" if method == "copy" else f"{METHODS[method]} from {source}"


def present(report: dict[str, Any], **wanted: Any) -> list[str]:
    """Modalities that are targets of such rows, in the usual order."""
    found = {row["target"] for row in rows_of(report, **wanted)}
    return [m for m in ("CBCT", "CT", "T1c", "T2w") if m in found]


def cell(report: dict[str, Any], decimals: int | None = None, **wanted: Any) -> str:
    rows = rows_of(report, **wanted)
    return row_text(rows[0], decimals) if rows else "–"


def row_text(row: dict[str, Any], decimals: int | None = None) -> str:
    """'mean ± SD' with decimals that suit the metric; SD is left out for a single patient."""
    if row["mean"] is None:
        return "–"
    mean = number(row["mean"], row["metric"], row["unit"], decimals)
    return mean if row["sd"] is None else f"{mean} ± {number(row['sd'], row['metric'], row['unit'], decimals)}"


def number(value: float, metric: str, unit: str = "", decimals: int | None = None) -> str:
    if decimals is None:
        decimals = 3 if metric.startswith("SSIM") or unit == "of range" else 1 if unit == "HU" else 2
    return f"{value:.{decimals}f}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)
