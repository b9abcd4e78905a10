"""report.json as a document that can be read: in a terminal, a notebook and the README. No figure is typed by hand."""
from __future__ import annotations

from typing import Any

from .dose.tables import dose_card, dose_verdicts, dvh_table, gamma_table, prediction_table
from .evaluation.metrics import CONVENTIONS, REPORTED
from .evaluation.rows import METHODS, markdown, present, rows_of, verdict
from .evaluation.tables import (
    LOOKING_CLOSER,
    NOT_COMPARABLE,
    body_means,
    comparison_table,
    fusion_table,
    reconstruction_table,
    summary_table,
    translation_table,
    uncertainty_table,
)


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
    return "\n\n".join([head, training_table(report), summary_table(report), card_table(report)])


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


def training_table(report: dict[str, Any]) -> str:
    """What each network cost: parameters trained (in stage 3 the mapper's too), steps, seconds, processor seconds, device.

    Processor seconds are those of all threads; on a GPU seconds.
    """
    rows = [[name, f"{s['parameters']:,}", f"{s['steps']:,}", f"{s['seconds']:.0f}", f"{s['processor_seconds']:.0f}", s["device"]]
            for name, s in report["stages"].items()]
    return markdown(["network", "parameters trained", "steps", "seconds", "processor seconds", "device"], rows)


def card_table(report: dict[str, Any]) -> str:
    """The report card, a line a question."""
    return markdown(["question", "answer", "in numbers"], [list(line.values()) for line in report_card(report)])


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
                             "numbers": "none lost" if not lost else "all lost" if len(lost) == len(theirs) else
                                        f"lost: {', '.join(lost)}".replace(">", " → ")})
    for row in rows_of(report, table="lesion", method="vaelite", metric="invented", target="CT"):
        found = {r["method"]: r["mean"] for r in rows_of(report, table="lesion", metric="invented", source=row["source"], target="CT")
                 if r["method"] != "copy" or row["source"] == "CBCT"}    # an MR taken for a CT invents everywhere
        card.append({"question": f"Lesions invented in the CT from {row['source']}: the fewest?",
                     "answer": verdict(found),
                     "numbers": "in " + ", ".join(f"{value:.1f} % ({METHODS[m]})" for m, value in found.items()) + " of the slices"})
    return card + dose_card(report)
