"""Tables, sentences and answers about dose, from the rows of report.json."""
from __future__ import annotations

from itertools import permutations
from typing import Any

from scipy.stats import spearmanr

from ..evaluation.rows import METHODS, markdown, row_text, rows_of, verdict
from .metrics import SERIAL_ORGANS

BULK_METHODS = {"water": "water", "bulk": "water + bone + air"}      # for dose alone: they look like no CT
BULK_NOTE = ("\"water\": the body is 0 HU. \"water + bone + air\": also the bone (> 250 HU) and air (< -200 HU) of the real "
             "CT, each at its mean HU (our choice, the best case: a clinic would have to find them elsewhere).")
STAND_IN_METRICS = {"MAE": "MAE in the body [HU]", "MAE bone": "MAE in bone [HU]", "ME": "mean error in the body [HU]",
                    "depth": "error of the radiological depth of the target [mm]"}


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


def gamma_sentence(report: dict[str, Any]) -> str:
    """For each criterion: how many of the CTs pass 99 % on average, and whether gamma orders them as MAE_target does."""
    error = {(row["source"], row["method"]): row["mean"] for row in rows_of(report, table="dose", metric="MAE_target")}
    said = []
    for criterion in dict.fromkeys(row["metric"] for row in rows_of(report, table="gamma")):
        fails = {(row["source"], row["method"]): 100 - row["mean"] for row in rows_of(report, table="gamma", metric=criterion)}
        rho = rank_correlation([(m, s, failing, error[s, m]) for (s, m), failing in fails.items()])
        said.append(f"{criterion.removeprefix('gamma ')}: {sum(f < 1 for f in fails.values())} of {len(fails)} CTs pass 99 %, rank "
                    f"correlation of what fails with MAE_target {'–' if rho is None else f'{rho:+.2f}'}")
    return "; ".join(said) + "."


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


def keep_in_table(metric: str, highest: str) -> bool:
    """What a planner asks first: all points of the highest target, D95 of the others, serial organs Dmax, glands Dmean."""
    structure, _, name = metric.rpartition(" ")
    if structure.startswith("PTV"):
        return name in (("D98", "D95", "D50", "D2", "V95") if structure == highest else ("D95",))
    if structure in SERIAL_ORGANS:
        return name == "Dmax"
    return structure.startswith("Parotid") and name == "Dmean"


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


def dose_verdicts(report: dict[str, Any], limit_percent: float = 2.0) -> list[dict[str, str]]:
    """The lesson's question, source by source: does no patient's target lie farther off than the limit (our choice)?"""
    verdicts, bulk = [], lowest_bulk(report)
    raw = [r["mean"] for r in rows_of(report, table="dose", method="copy", source="CBCT", metric="MAE_target")]
    for row in rows_of(report, table="dose", method="vaelite", metric="MAE_target"):
        worst = max(row["values"])
        verdicts.append({"question": f"Good enough for dose from {row['source']} (MAE_target within {limit_percent:g} % in every "
                                     f"patient planned)?",
                         "answer": ("yes" if worst <= limit_percent else "no") + (", in one patient" if row["n"] == 1 else ""),
                         "numbers": f"MAE_target up to {worst:.2f} %, mean {row['mean']:.2f} % (n = {row['n']})"
                                    + (f"; the raw CBCT {raw[0]:.2f} %" if raw else "")
                                    + (f"; bulk density {bulk:.2f} %" if bulk is not None else "")})
    return verdicts


def lowest_bulk(report: dict[str, Any]) -> float | None:
    """MAE_target [%] of the better bulk-density CT, if there are any."""
    return min((row["mean"] for row in rows_of(report, table="dose", source="CT", metric="MAE_target")), default=None)


def dose_card(report: dict[str, Any]) -> list[dict[str, str]]:
    """The report card's questions about gamma, the rivals and the bulk densities."""
    card = []
    gammas = rows_of(report, table="gamma", method="vaelite")
    for metric in dict.fromkeys(row["metric"] for row in gammas):
        lowest = {row["source"]: min(row["values"]) for row in gammas if row["metric"] == metric}
        worst = min(lowest, key=lowest.get)
        spaced = metric.replace("%/", " %/").removesuffix("mm") + " mm"
        card.append({"question": f"{spaced}: above 99 % for every patient and source?",
                     "answer": "yes" if lowest[worst] > 99 else "no",
                     "numbers": f"lowest {lowest[worst]:.2f} %, from {worst} (n = {gammas[0]['n']})"})
    bulk = lowest_bulk(report)
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


def dose_methods(report: dict[str, Any]) -> list[tuple[str, str]]:
    """(source, method) of every CT that got a dose: synthetic ones by source, then the bulk densities (source "CT")."""
    found = {(row["source"], row["method"]) for row in rows_of(report, table="dose")}
    return [(s, m) for s in ("CBCT", "T1c", "T2w", "CT") for m in (*METHODS, *BULK_METHODS) if (s, m) in found]


def dose_label(source: str, method: str) -> str:
    """What a dose was calculated on, in words; an unchanged CBCT is what a clinic calls the raw one."""
    if method in BULK_METHODS:
        return BULK_METHODS[method]
    return f"raw {source}" if method == "copy" else f"{METHODS[method]} from {source}"
