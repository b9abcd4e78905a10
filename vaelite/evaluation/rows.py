"""The rows of report.json: found, and written as the text of a table's cells."""
from __future__ import annotations

from typing import Any

from ..data.intensity import MODALITIES

METHODS = {"vaelite": "vaelite", "unet": "U-Net", "control": "no latents", "ridge": "ridge", "copy": "copy"}


def rows_of(report: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """The rows whose fields equal all of `wanted`, e.g. rows_of(report, table="gamma", source="T1c")."""
    return [row for row in report["rows"] if all(row.get(key) == value for key, value in wanted.items())]


def present(report: dict[str, Any], **wanted: Any) -> list[str]:
    """Modalities that are targets of such rows, in the usual order."""
    found = {row["target"] for row in rows_of(report, **wanted)}
    return [m for m in MODALITIES if m in found]


def mean_of_cases(row: dict[str, Any], cases: list[str]) -> float:
    """The mean of a row over some of its patients alone: those who have all modalities."""
    values = [value for case, value in zip(row["cases"], row["values"]) if case in cases]
    return sum(values) / len(values)


def row_text(row: dict[str, Any], decimals: int | None = None) -> str:
    """'mean ± SD' with decimals that suit the metric; SD is left out for a single patient."""
    if row["mean"] is None:
        return "–"
    mean = number(row["mean"], row["metric"], row["unit"], decimals)
    return mean if row["sd"] is None else f"{mean} ± {number(row['sd'], row['metric'], row['unit'], decimals)}"


def cell(report: dict[str, Any], decimals: int | None = None, **wanted: Any) -> str:
    rows = rows_of(report, **wanted)
    return row_text(rows[0], decimals) if rows else "–"


def number(value: float, metric: str, unit: str = "", decimals: int | None = None) -> str:
    if decimals is None:
        decimals = 3 if metric.startswith("SSIM") or unit == "of range" else 1 if unit == "HU" else 2
    return f"{value:.{decimals}f}"


def verdict(values: dict[str, float]) -> str:
    """Whether "vaelite" has the lowest of {method: value}; a tie is told."""
    lowest = [method for method, value in values.items() if value == min(values.values())]
    rivals = " and ".join(METHODS[method] for method in lowest if method != "vaelite")
    if "vaelite" not in lowest:
        return f"no: {rivals}"
    return f"yes, with {rivals}" if rivals else "yes"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)
