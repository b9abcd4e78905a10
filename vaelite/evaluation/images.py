"""Judging a run on its test patients: image quality in every direction. (Dose: `dose.evaluation`.)

Every number becomes a report row {"table", "method", "source", "target", "metric", "unit", "convention", "split", "n", "mean",
"sd", "ci95", "values", "cases"}; a comparison adds "baseline", "p" and "p_holm", a distance between sets "se".
"""
from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

from ..data.cases import Case, data_fingerprint
from ..data.intensity import HU_MODALITIES, from_unit, to_unit
from ..runs import Run, code_version
from ..translate import Translator
from .comparison import bootstrap_interval, holm, paired_comparison
from .distribution import kid, same_law_null, texture_extractor
from .metrics import REPORTED, dice_hu, image_metrics, slice_consistency, summarise, tissue_mae_hu
from .probes import invented_lesions, lesion_verdict

IMAGE_METHODS = ("vaelite", "unet", "control", "ridge", "copy")
UNITS = {"PSNR": "dB", "SSIM": "1"}
LESION_HU = 150.0                                            # of the planted lesion of 8 mm: our choice
PROBED = 16                                                  # slices a patient for lesions and textures: neighbours are alike
Values = dict[tuple, dict[str, float | None]]                # row key -> {case: value}
OnCase = Callable[[str], None]


def evaluate_images(translator: Translator, cases: list[Case], on_case: OnCase = print) -> list[dict[str, Any]]:
    """Tables "reconstruction", "translation", "fusion", "uncertainty", "tissue", "shape", "slices", "lesion", "distribution" and
    "comparison" for the given test cases -> report rows.

    Every method predicts every direction of the run whose two volumes a case has; "fusion" does so from all other modalities at once
    (source "CBCT+T1c+T2w"). Methods: "vaelite" (all three stages) and those baselines of IMAGE_METHODS that the run has; "copy"
    hands the source's [-1, 1] values to the target's scale. A predicted MR is put on the reference's own intensity scale, since
    MR has no unit.
    """
    collected: Values = defaultdict(dict)
    crowds: dict[tuple[str, str, str], dict[str, np.ndarray]] = defaultdict(dict)
    for number, case in enumerate(cases, 1):
        start, mask = time.perf_counter(), case.mask()
        slices = ProbedSlices(translator, case)
        reference = {m: case.volume(m) for m in case.modalities if m in translator.modalities}
        unit = {m: to_unit(volume, m, mask) for m, volume in reference.items()}
        for target, wanted in reference.items():
            decoded = from_unit(translator.reconstruct(unit[target][0]), target, unit[target][1])
            collect(collected, case.name, ("reconstruction", "vaelite", target, target), wanted, decoded, mask)
            crowds["real", target, target][case.name] = slices.texture(unit[target][0])
            for source in (m for m in reference if (m, target) in translator.directions()):
                for method in (m for m in IMAGE_METHODS if m in translator.methods()):
                    if method == "vaelite" and f"{source}>{target}" in translator.widths:
                        predicted, half = translator.volume_interval(unit[source][0], source, target)
                        for metric, value in judge_interval(unit[target][0], predicted, half, mask).items():
                            collected["uncertainty", method, source, target, *metric][case.name] = value
                    else:
                        predicted = translator.volume_unit(unit[source][0], source, target, method)
                    crowds[method, source, target][case.name] = slices.texture(predicted)
                    for key, value in slices.lesions(unit, predicted, source, target, method).items():
                        collected["lesion", method, source, target, *key][case.name] = value
                    predicted = from_unit(predicted, target, unit[target][1])
                    collect(collected, case.name, ("translation", method, source, target), wanted, predicted, mask)
                    judge_shape(collected, case, (method, source, target), wanted, predicted, mask)
        for sources, target in translator.fusions():
            if {*sources, target} <= set(reference):
                for method in (m for m in IMAGE_METHODS if m in translator.methods(len(sources))):
                    predicted = translator.volume_unit([unit[s][0] for s in sources], sources, target, method)
                    predicted = from_unit(predicted, target, unit[target][1])
                    key = ("fusion", method, "+".join(sources), target)
                    collect(collected, case.name, key, reference[target], predicted, mask)
        on_case(f"images {number}/{len(cases)}  {case.name}  {time.perf_counter() - start:.0f} s")
    rows = [as_row(key, values) for key, values in collected.items()]
    return rows + comparison_rows(rows) + distribution_rows(crowds)


def collect(collected: Values, case: str, key: tuple, reference: np.ndarray, predicted: np.ndarray, mask: np.ndarray) -> None:
    """Add all metrics of one predicted volume to `collected`."""
    table, method, source, target = key
    for (convention, metric), value in image_metrics(reference, predicted, mask, target).items():
        collected[table, method, source, target, metric, mae_unit(target) if metric == "MAE" else UNITS[metric],
                  convention][case] = value


def judge_shape(collected: Values, case: Case, direction: tuple[str, str, str], reference: np.ndarray, predicted: np.ndarray,
                mask: np.ndarray) -> None:
    """Add to `collected` what a mean over the body hides: the error of each tissue, the shapes of bone and air, the slices."""
    target = direction[-1]
    if target in HU_MODALITIES:
        for tissue, value in tissue_mae_hu(reference, predicted, mask).items():
            collected["tissue", *direction, f"MAE {tissue}", "HU", "body mask"][case.name] = value
        for shape, value in dice_hu(reference, predicted, mask, case.spacing_mm).items():
            collected["shape", *direction, f"Dice {shape}", "1", "body mask"][case.name] = value
    for metric, value in slice_consistency(reference, predicted, mask, target).items():
        unit = mae_unit(target) if metric.startswith("MAE") else "1"
        collected["slices", *direction, metric, unit, REPORTED[target][0]][case.name] = value


class ProbedSlices:
    """Some slices of one patient at the model's size, evenly from the body, for the judgements that need no whole volume."""

    def __init__(self, translator: Translator, case: Case):
        self.translator, self.texture_of = translator, texture_extractor()
        mask = translator.fitted([case.mask() * 2.0 - 1])[:, 0] >= 0
        inside = mask.flatten(1).any(1).nonzero()[:, 0]
        self.rows = inside[torch.linspace(0, len(inside) - 1, min(PROBED, len(inside))).round().long()]
        self.mask = mask[self.rows]
        self.pixel_mm = case.spacing_mm[2] * max(case.mask().shape[1:]) / translator.size

    def of(self, unit_zyx: np.ndarray) -> torch.Tensor:
        return self.translator.fitted([unit_zyx])[self.rows, 0]

    def texture(self, unit_zyx: np.ndarray) -> np.ndarray:
        """Features (slices, d) of the body alone: what lies around it is air in every volume."""
        return self.texture_of(torch.where(self.mask, self.of(unit_zyx), -1.0))

    def lesions(self, unit: dict[str, tuple], predicted: np.ndarray, source: str, target: str,
                method: str) -> dict[tuple[str, str, str], float | None]:
        """A lesion planted in the source: kept or erased? One that is not there: invented? Where the target is in HU."""
        if target not in HU_MODALITIES or (method == "copy" and source not in HU_MODALITIES):
            return {}                                        # grey values are no HU
        amount, convention = LESION_HU / 1500.0, f"8 mm, +{LESION_HU:g} HU"        # 1500 HU are 1 in model space
        found = {("invented", "% of slices", convention):
                 invented_lesions(self.of(predicted), self.of(unit[target][0]), self.mask, self.pixel_mm, amount)}
        if source in HU_MODALITIES:
            x = self.of(unit[source][0])
            verdict = lesion_verdict(self.translator, x, self.mask, self.pixel_mm, source, target, method, amount)
            found |= {("contrast kept", "%", convention): verdict["contrast kept"],
                      ("erased", "% of lesions", convention): verdict["erased"]}
        return found


def comparison_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Table "comparison": vaelite minus each baseline on the same patients, in the body, one row a direction and metric.

    p_holm: corrected over all comparisons of one metric and one target, which is what one table shows.
    """
    cells = {(r["method"], r["source"], r["target"], r["metric"]): r for r in rows
             if r["table"] == "translation" and r["convention"] == REPORTED[r["target"]][0]}
    families: dict[tuple, list[dict[str, Any]]] = defaultdict(list)
    for (baseline, source, target, metric), row in cells.items():
        ours = cells.get(("vaelite", source, target, metric))
        if baseline != "vaelite" and ours and ours["cases"] == row["cases"]:
            fields = {key: row[key] for key in ("source", "target", "metric", "unit", "convention", "split", "cases")}
            families[target, metric].append({"table": "comparison", "method": "vaelite", "baseline": baseline, **fields,
                                             **paired_comparison(ours["values"], row["values"])})
    for family in families.values():
        tested = [row for row in family if row["p"] is not None]
        for row, p in zip(tested, holm([row["p"] for row in tested])):
            row |= {"p_holm": p, "comparisons": len(tested)}
    return [row for family in families.values() for row in family]


def distribution_rows(crowds: dict[tuple[str, str, str], dict[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Table "distribution": KID of the made slices of each direction to the real ones, and of real ones among themselves.

    crowds: (method, source, target) -> {patient: features}, the method "real" among them. Needs two patients; the null
    (method "real": every split of the patients in two, "mean" and "sd" over splits) four.
    """
    rows = []
    for (method, source, target), crowd in crowds.items():
        real = {name: crowds["real", target, target][name] for name in crowd}
        names = [name for name, features in crowd.items() for _ in features]
        if len(crowd) < (4 if method == "real" else 2):
            continue
        made, truth = (np.concatenate(list(one.values())) for one in (crowd, real))
        row = {"table": "distribution", "method": method, "source": source, "target": target, "metric": "KID", "unit": "1",
               "convention": f"texture, axial, N={len(names)}, pairs of one patient left out", "split": "test",
               "n": len(crowd), "cases": [], "values": []}    # of all patients at once
        if method == "real":
            null = same_law_null(made, names)
            rows.append(row | {"mean": float(np.mean(null)), "sd": float(np.std(null)), "ci95": None, "se": None,
                               "convention": "texture, axial, half the patients against the other half"})
        else:
            value, error = kid(made, truth, names, names)
            rows.append(row | {"mean": value, "sd": None, "ci95": None, "se": error if np.isfinite(error) else None})
    return rows


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
    """One report row: mean, SD and 95 % confidence interval over patients, and the value of each patient."""
    table, method, source, target, metric, unit, convention = key
    if all(value is None for value in values.values()):
        summary = {"n": 0, "mean": None, "sd": None, "ci95": None}
    else:
        ci95 = bootstrap_interval([value for value in values.values() if value is not None])
        summary = summarise(values.values()) | {"ci95": ci95}
    return {"table": table, "method": method, "source": source, "target": target, "metric": metric, "unit": unit,
            "convention": convention, "split": "test", **summary, **more,
            "values": list(values.values()), "cases": list(values)}


# ---------------------------------------------------------------------------------------------------------------- report
def build_report(run: Run, cases: list[Case], rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The whole report: which data, which code, what training cost, and the rows."""
    stages = {name: {key: record[key] for key in
                     ("seconds", "processor_seconds", "steps", "parameters", "device", "code_version", "metrics", "files")}
              | ({"choice": record["choice"]} if "choice" in record else {}) for name, record in run.stages.items()}
    counts = {split: sum(case.split == split for case in cases) for split in ("train", "validation", "test")}
    folder, used = cases[0].folder.parent, run.stages["decoder"]["config"]
    return {"format": 1, "run": run.name, "profile": run.stages["vae"]["config"]["profile"], "seed": seed,
            "data": {"name": folder.name, "fingerprint": data_fingerprint(folder), "cases": counts,
                     "modalities": sorted({m for case in cases for m in case.modalities}),
                     "sources": sorted({str(case.info.get("source", "not stated")) for case in cases})},
            "code_version": code_version(), "stages": stages,
            "dose": {knob: value for knob, value in used.items() if knob.startswith("dose.")}, "rows": rows}
