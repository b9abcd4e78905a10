"""Judging a run on its test patients: image quality in every direction. (Dose has its own file, `dose_evaluation`.)

Every number becomes a report row {"table", "method", "source", "target", "metric", "unit", "convention", "split", "n", "mean",
"sd", "values", "cases"}.
"""
from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from .cases import Case, data_fingerprint
from .intensity import HU_MODALITIES, from_unit, to_unit
from .metrics import image_metrics, summarise, tissue_mae_hu
from .runs import Run, code_version
from .translate import Translator

IMAGE_METHODS = ("vaelite", "unet", "control", "ridge", "copy")
UNITS = {"PSNR": "dB", "SSIM": "1"}
Values = dict[tuple, dict[str, float | None]]                # row key -> {case: value}
OnCase = Callable[[str], None]


def evaluate_images(translator: Translator, cases: list[Case], on_case: OnCase = print) -> list[dict[str, Any]]:
    """Tables "reconstruction", "translation", "fusion", "uncertainty" and "tissue" for the given test cases -> report rows.

    Every method predicts every direction whose two volumes a case has; "fusion" does so from all other modalities at once
    (source "CBCT+T1c+T2w"). Methods: "vaelite" (all three stages) and those baselines of IMAGE_METHODS that the run has; "copy"
    hands the source's [-1, 1] values to the target's scale. A predicted MR is put on the reference's own intensity scale, since
    MR has no unit.
    """
    collected: Values = defaultdict(dict)
    for number, case in enumerate(cases, 1):
        start, mask = time.perf_counter(), case.mask()
        reference = {m: case.volume(m) for m in case.modalities if m in translator.modalities}
        unit = {m: to_unit(volume, m, mask) for m, volume in reference.items()}
        for target, wanted in reference.items():
            decoded = from_unit(translator.reconstruct(unit[target][0]), target, unit[target][1])
            collect(collected, case.name, ("reconstruction", "vaelite", target, target), wanted, decoded, mask)
            for source in (m for m in reference if m != target):
                for method in (m for m in IMAGE_METHODS if m in translator.methods()):
                    if method == "vaelite" and f"{source}>{target}" in translator.widths:
                        predicted, half = translator.volume_interval(unit[source][0], source, target)
                        for metric, value in judge_interval(unit[target][0], predicted, half, mask).items():
                            collected["uncertainty", method, source, target, *metric][case.name] = value
                    else:
                        predicted = translator.volume_unit(unit[source][0], source, target, method)
                    predicted = from_unit(predicted, target, unit[target][1])
                    collect(collected, case.name, ("translation", method, source, target), wanted, predicted, mask)
        for sources, target in translator.fusions():
            if {*sources, target} <= set(reference):
                for method in (m for m in IMAGE_METHODS if m in translator.methods(len(sources))):
                    predicted = translator.volume_unit([unit[s][0] for s in sources], sources, target, method)
                    predicted = from_unit(predicted, target, unit[target][1])
                    key = ("fusion", method, "+".join(sources), target)
                    collect(collected, case.name, key, reference[target], predicted, mask)
        on_case(f"images {number}/{len(cases)}  {case.name}  {time.perf_counter() - start:.0f} s")
    return [as_row(key, values) for key, values in collected.items()]


def collect(collected: Values, case: str, key: tuple, reference: np.ndarray, predicted: np.ndarray, mask: np.ndarray) -> None:
    """Add all metrics of one predicted volume to `collected`."""
    table, method, source, target = key
    for (convention, metric), value in image_metrics(reference, predicted, mask, target).items():
        collected[table, method, source, target, metric, mae_unit(target) if metric == "MAE" else UNITS[metric],
                  convention][case] = value
    if target in HU_MODALITIES and table == "translation":
        for tissue, value in tissue_mae_hu(reference, predicted, mask).items():
            collected["tissue", method, source, target, f"MAE {tissue}", "HU", "body mask"][case] = value


def judge_interval(wanted: np.ndarray, predicted: np.ndarray, half_width: np.ndarray, mask: np.ndarray,
                   patch: int = 8) -> dict[tuple[str, str, str], float | None]:
    """Does an interval hold what it promises, and is it wide where the error is large? All (z, y, x), one unit.

    "coverage": share of the body's voxels whose truth lies inside [%]. "spearman": rank correlation of half width and
    absolute error [1], means over patch x patch pixels: of whole slices, where telling body from air helps, and in the body;
    None where all patches are alike or none lies in the body.
    """
    error = np.abs(predicted - wanted)
    z, y, x = (np.array(mask.shape) // (1, patch, patch)) * (1, patch, patch)

    def patches(volume: np.ndarray) -> np.ndarray:
        return volume[:z, :y, :x].reshape(z, y // patch, patch, x // patch, patch).mean((2, 4))

    def rank(where: np.ndarray) -> float | None:
        a, b = width[where], wrong[where]
        return float(spearmanr(a, b).statistic) if min(np.unique(a).size, np.unique(b).size) > 1 else None

    inside, width, wrong = patches(mask.astype(np.float32)) == 1, patches(half_width), patches(error)
    return {("coverage", "%", "body mask"): float(100 * (error <= half_width)[mask].mean()),
            ("spearman", "1", f"{patch} x {patch} pixels"): rank(np.ones_like(inside)),
            ("spearman", "1", f"{patch} x {patch} pixels in the body"): rank(inside)}


def mae_unit(modality: str) -> str:
    return "HU" if modality in HU_MODALITIES else "of range"


def as_row(key: tuple, values: dict[str, float | None], **more: Any) -> dict[str, Any]:
    """One report row: mean and SD over patients, and the value of each patient."""
    table, method, source, target, metric, unit, convention = key
    if all(value is None for value in values.values()):
        summary = {"n": 0, "mean": None, "sd": None}
    else:
        summary = summarise(values.values())
    return {"table": table, "method": method, "source": source, "target": target, "metric": metric, "unit": unit,
            "convention": convention, "split": "test", **summary, **more,
            "values": list(values.values()), "cases": list(values)}


# ---------------------------------------------------------------------------------------------------------------- report
def build_report(run: Run, cases: list[Case], rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The whole report: which data, which code, what training cost, and the rows."""
    stages = {name: {key: record[key] for key in
                     ("seconds", "processor_seconds", "steps", "parameters", "device", "code_version", "metrics")}
              | ({"choice": record["choice"]} if "choice" in record else {}) for name, record in run.stages.items()}
    counts = {split: sum(case.split == split for case in cases) for split in ("train", "validation", "test")}
    folder = cases[0].folder.parent
    return {"format": 1, "run": run.name, "profile": run.stages["vae"]["config"]["profile"], "seed": seed,
            "data": {"name": folder.name, "fingerprint": data_fingerprint(folder), "cases": counts,
                     "modalities": sorted({m for case in cases for m in case.modalities}),
                     "sources": sorted({str(case.info.get("source", "not stated")) for case in cases})},
            "code_version": code_version(), "stages": stages, "rows": rows}
