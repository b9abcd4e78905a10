"""Judging a run on its test patients: image quality in every direction, then dose. Every number becomes a report row.

A row is {"table", "method", "source", "target", "metric", "unit", "convention", "split", "n", "mean", "sd", "values",
"cases"}; a dose row adds "structure", a gamma row every parameter the number depends on.
"""
from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from .cases import Case, data_fingerprint
from .dose import DoseConfig, dvh_metrics, plan_imrt, recalculate, target_dose_error
from .errors import VaeliteError
from .gamma import gamma_pass_rate
from .intensity import HU_MODALITIES, MODALITIES, from_unit, to_unit
from .metrics import image_metrics, summarise, tissue_mae_hu
from .report import conventions, dose_methods, rows_of
from .runs import Run, code_version
from .slices import SliceSet, fit_in_plane, unfit_in_plane
from .translate import Translator

IMAGE_METHODS = ("vaelite", "unet", "ridge", "copy")
UNITS = {"PSNR": "dB", "SSIM": "1"}
Values = dict[tuple, dict[str, float | None]]                # row key -> {case: value}
OnCase = Callable[[str], None]


def evaluate_images(translator: Translator, cases: list[Case], on_case: OnCase = print) -> list[dict[str, Any]]:
    """Tables "reconstruction", "translation" and "tissue" for the given test cases -> report rows.

    Every method predicts every direction whose two volumes a case has. Methods: "vaelite" (all three stages), "unet",
    "ridge" and "copy"; "copy" hands the source's [-1, 1] values to the target's scale. A predicted MR is put on the
    reference's own intensity scale, since MR has no unit.
    """
    collected: Values = defaultdict(dict)
    for number, case in enumerate(cases, 1):
        start, mask = time.perf_counter(), case.mask()
        reference = {m: case.volume(m) for m in case.modalities if m in translator.modalities}
        unit = {m: to_unit(volume, m, mask) for m, volume in reference.items()}
        for target, wanted in reference.items():
            decoded = from_unit(reconstruct(translator, unit[target][0]), target, unit[target][1])
            collect(collected, case.name, ("reconstruction", "vaelite", target, target), wanted, decoded, mask)
            for source in (m for m in reference if m != target):
                for method in IMAGE_METHODS:
                    if method == "unet" and translator.unet is None:
                        continue
                    predicted = translator.volume_unit(unit[source][0], source, target, method)
                    predicted = from_unit(predicted, target, unit[target][1])
                    collect(collected, case.name, ("translation", method, source, target), wanted, predicted, mask)
        on_case(f"images {number}/{len(cases)}  {case.name}  {time.perf_counter() - start:.0f} s")
    return [as_row(key, values) for key, values in collected.items()]


def reconstruct(translator: Translator, unit_zyx: np.ndarray) -> np.ndarray:
    """A volume through the VAE and back, in [-1, 1] on its own grid: what the latents can hold."""
    fitted = torch.from_numpy(fit_in_plane(unit_zyx, translator.size, fill=-1.0))[:, None]
    device = translator.vae.patch_mean.device
    with torch.no_grad():
        parts = [translator.vae.decode(translator.vae.encode(x.to(device)).mean).cpu() for x in fitted.split(16)]
    return unfit_in_plane(torch.cat(parts)[:, 0].clamp(-1, 1).numpy(), unit_zyx.shape)


def collect(collected: Values, case: str, key: tuple, reference: np.ndarray, predicted: np.ndarray, mask: np.ndarray) -> None:
    """Add all metrics of one predicted volume to `collected`."""
    table, method, source, target = key
    for (convention, metric), value in image_metrics(reference, predicted, mask, target).items():
        collected[table, method, source, target, metric, mae_unit(target) if metric == "MAE" else UNITS[metric],
                  convention][case] = value
    if target in HU_MODALITIES and table == "translation":
        for tissue, value in tissue_mae_hu(reference, predicted, mask).items():
            collected["tissue", method, source, target, f"MAE {tissue}", "HU", "body mask"][case] = value


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


# ------------------------------------------------------------------------------------------------------------------ dose
def evaluate_dose(translator: Translator, cases: list[Case], config: DoseConfig, run: Run,
                  on_case: OnCase = print) -> list[dict[str, Any]]:
    """Tables "dose", "dvh" and "gamma": a plan on each patient's CT, its fluence on every synthetic CT.

    Also writes runs/<name>/dose/<case>.npz with the doses [Gy, float32, zyx] under "CT" (the plan) and
    "<method>/<source>", so that figures and other gamma criteria need no new calculation.
    """
    collected: Values = defaultdict(dict)
    parameters: dict[tuple, dict[str, Any]] = {}
    planned = [case for case in cases if prescriptions(case)][:config.cases]
    for number, case in enumerate(planned, 1):
        start = time.perf_counter()
        plan, structures, doses = dose_of_case(translator, case, config)
        levels = plan.prescriptions_gy
        wanted = {(row["structure"], row["metric"]): row for row in dvh_metrics(plan.dose_gy, structures, levels)}
        for (structure, metric), row in wanted.items():
            collected["dvh", "plan", "CT", "CT", f"{structure} {metric}", row["unit"], "planned dose"][case.name] = row["value"]
        for (method, source), dose_gy in doses.items():
            direction = (method, source, "CT")
            for row in dvh_metrics(dose_gy, structures, levels):
                name = (row["structure"], row["metric"])
                collected["dvh", *direction, " ".join(name), row["unit"],
                          "difference from planned dose"][case.name] = row["value"] - wanted[name]["value"]
            collected["dose", *direction, "MAE_target", "% of prescription", "where the plan has >= 90 %"][case.name] = \
                target_dose_error(plan.dose_gy, dose_gy, plan.prescription_gy)
            for dose_percent, distance_mm in config.gamma_criteria:
                result = gamma_pass_rate(
                    plan.dose_gy, dose_gy, case.spacing_mm, dose_percent=dose_percent, distance_mm=distance_mm,
                    normalisation_gy=plan.prescription_gy, cutoff_percent=config.cutoff_percent, mode=config.gamma_mode)
                key = ("gamma", *direction, f"gamma {dose_percent:g}%/{distance_mm:g}mm", "%", "pass rate")
                collected[key][case.name] = result["pass_percent"]
                voxels = parameters.setdefault(key, {"parameters": result | {"normalisation_gy": {}}, "n_voxels": {}})
                voxels["parameters"]["normalisation_gy"][case.name] = plan.prescription_gy
                voxels["n_voxels"][case.name] = result["n_voxels"]
        save_doses(run, case.name, plan.dose_gy, doses)
        on_case(f"dose {number}/{len(planned)}  {case.name}  {time.perf_counter() - start:.0f} s")
    for entry in parameters.values():                        # these three belong to single patients
        for single in ("pass_percent", "mean_gamma", "n_voxels", "spacing_mm"):
            entry["parameters"].pop(single)
    return [as_row(key, values, **parameters.get(key, {})) for key, values in collected.items()]


def dose_of_case(translator: Translator, case: Case, config: DoseConfig):
    """(plan on the CT, structures used, {(method, source): dose_gy on the synthetic CT}) of one patient."""
    body, structures = case.mask(), {name: mask for name, mask in case.structures().items() if mask.any()}
    plan = plan_imrt(case.volume("CT"), case.spacing_mm, structures, body, prescriptions(case), config)
    structures = {name: mask & body for name, mask in structures.items() if (mask & body).any()}
    doses = {}
    for source in (m for m in case.modalities if m != "CT" and m in translator.modalities):
        unit, _ = to_unit(case.volume(source), source, body)
        for method in IMAGE_METHODS:
            if (method == "unet" and translator.unet is None) or (method == "copy" and source not in HU_MODALITIES):
                continue                                     # an MR is no CT: its grey values are no densities
            sct_hu = from_unit(translator.volume_unit(unit, source, "CT", method), "CT")
            doses[method, source] = recalculate(plan, sct_hu, max_missing_percent=100.0)   # a bad method is a result too
    return plan, structures, doses


def prescriptions(case: Case) -> dict[str, float]:
    """The prescribed dose [Gy] of each target this case really has; empty for a case that cannot be planned."""
    if "CT" not in case.modalities:
        return {}
    return {name: float(dose) for name, dose in case.info.get("prescription_gy", {}).items() if name in case.structure_names}


def save_doses(run: Run, case: str, planned_gy: np.ndarray, doses: dict[tuple[str, str], np.ndarray]) -> None:
    folder = run.path / "dose"
    folder.mkdir(exist_ok=True)
    arrays = {"CT": planned_gy} | {f"{method}/{source}": dose for (method, source), dose in doses.items()}
    np.savez(folder / f"{case}.npz", **{name: dose.astype(np.float32) for name, dose in arrays.items()})


def load_doses(run: Run, case: str) -> dict[str, np.ndarray]:
    """The doses [Gy] that `evaluate_dose` kept of one patient, by name; "CT" is the plan."""
    file = run.path / "dose" / f"{case}.npz"
    if not file.exists():
        raise VaeliteError(f"{file} does not exist. Run `vaelite evaluate {run.path}` first.")
    with np.load(file) as arrays:
        return {name: arrays[name] for name in arrays.files}


# ---------------------------------------------------------------------------------------------------------------- report
def build_report(run: Run, cases: list[Case], rows: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The whole report: which data, which code, what training cost, and the rows."""
    stages = {name: {key: record[key] for key in ("seconds", "steps", "parameters", "device", "code_version", "metrics")}
              | ({"choice": record["choice"]} if "choice" in record else {}) for name, record in run.stages.items()}
    counts = {split: sum(case.split == split for case in cases) for split in ("train", "validation", "test")}
    folder = cases[0].folder.parent
    return {"format": 1, "run": run.name, "profile": run.stages["vae"]["config"]["profile"], "seed": seed,
            "data": {"name": folder.name, "fingerprint": data_fingerprint(folder), "cases": counts,
                     "modalities": sorted({m for case in cases for m in case.modalities})},
            "code_version": code_version(), "stages": stages, "rows": rows}



# ------------------------------------------------------------------------------------ looking closer (notebooks 03 and 04)
def direction_errors(translator: Translator, slices: SliceSet, methods: tuple[str, ...]) -> dict[str, dict[str, float]]:
    """Mean absolute error in the body [1, images in -1..1] of each direction and method: {"CBCT>CT": {"copy": ...}}.

    The method "tokenizer" decodes the true target's own latents: what is left if the mapping were perfect.
    """
    errors: dict[str, dict[str, float]] = {}
    for source, target in translator.directions():
        s, t = MODALITIES.index(source), MODALITIES.index(target)
        rows = slices.have[:, s] & slices.have[:, t]
        wanted, mask = slices.x[rows, t].float(), slices.mask[rows]
        for method in methods if rows.any() else ():
            if method == "tokenizer":
                predicted = torch.from_numpy(reconstruct(translator, wanted.numpy()))
            else:
                predicted = translator.slices(slices.x[rows, s][:, None], source, target, method)[:, 0]
            errors.setdefault(f"{source}>{target}", {})[method] = float((predicted - wanted).abs()[mask].mean())
    return errors


def thinned(slices: SliceSet, at_most: int) -> SliceSet:
    """Every n-th slice, so that no more than `at_most` are left and all patients stay represented."""
    rows = torch.arange(0, len(slices), max(1, -(-len(slices) // at_most)))
    return replace(slices, x=slices.x[rows], have=slices.have[rows], mask=slices.mask[rows], case=slices.case[rows])


def radial_power(x: torch.Tensor, mask: torch.Tensor, pixel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Power spectrum averaged over rings of equal spatial frequency -> (frequency [1/mm], power [1]), mean over slices.

    x: (n, h, h) in [-1, 1]; mask: (n, h, h), outside it x counts as air. From the first ring to the Nyquist frequency.
    """
    size = x.shape[-1]
    body = ((x.float() + 1) * mask).double()                 # air is 0: the square's edges add no power
    power = torch.fft.fft2(body, norm="ortho").abs().square().mean(0)
    index = torch.fft.fftfreq(size) * size
    ring = torch.hypot(index[:, None], index[None]).round().long().flatten()
    mean = torch.bincount(ring, power.flatten()) / torch.bincount(ring)
    rings = np.arange(1, size // 2)
    return rings / (size * pixel_mm), mean[rings].numpy()


def plant_lesions(x: torch.Tensor, mask: torch.Tensor, pixel_mm: float, amount: float,
                  diameter_mm: float = 8.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc of `amount` added to each slice where its tissue is most uniform -> (x with lesion, disc).

    x: (n, h, w) in [-1, 1]; mask, disc: (n, h, w) bool. A slice without room for a lesion keeps an empty disc.
    """
    _, h, w = x.shape
    rows, columns = (np.arange(h) + 0.5) * pixel_mm, (np.arange(w) + 0.5) * pixel_mm
    width = 2 * int(np.ceil(diameter_mm / pixel_mm)) + 1     # the neighbourhood is twice the lesion
    disc = np.zeros(x.shape, bool)
    for i, (image, body) in enumerate(zip(x.float().numpy(), mask.numpy())):
        spread = ndimage.maximum_filter(ndimage.gaussian_gradient_magnitude(image, 1.0), width)
        inside = ndimage.minimum_filter(body & (image > -0.5), width)     # tissue all around: no air
        if inside.any():
            row, column = np.unravel_index(np.argmin(np.where(inside, spread, np.inf)), spread.shape)
            centre = (row + 0.5) * pixel_mm, (column + 0.5) * pixel_mm
            disc[i] = np.hypot(rows[:, None] - centre[0], columns[None] - centre[1]) <= diameter_mm / 2 + 1e-6
    disc = torch.from_numpy(disc)
    return (x.float() + amount * disc).clamp(-1, 1), disc


def lesion_response(translator: Translator, x: torch.Tensor, planted: torch.Tensor, disc: torch.Tensor, source: str,
                    target: str, method: str) -> tuple[torch.Tensor, float, float]:
    """What a planted lesion changes in the translation -> (change (n, h, w), kept [%], elsewhere [%]).

    kept: the mean change in the disc; elsewhere: the largest |change| more than two pixels from it, mean over slices.
    Both are relative to the lesion's contrast; 100 % and 0 % are faithful where both modalities share one scale.
    Slices with an empty disc do not count.
    """
    some = disc.flatten(1).any(1)
    x, planted, disc = x[some].float(), planted[some].float(), disc[some]
    before, after = (translator.slices(image[:, None], source, target, method)[:, 0] for image in (x, planted))
    change, lesion = after - before, planted - x
    near = torch.nn.functional.max_pool2d(disc[:, None].float(), 5, 1, 2)[:, 0] > 0
    contrast = lesion[disc].mean()
    elsewhere = (change.abs() * ~near).flatten(1).amax(1).mean()
    return change, float(100 * change[disc].mean() / contrast), float(100 * elsewhere / contrast)


def report_card(report: dict[str, Any]) -> list[dict[str, str]]:
    """Questions a clinic would ask, answered by the report, whoever wins: [{"question", "answer", "numbers"}]."""
    card = []
    for rival, name in (("copy", "doing nothing"), ("ridge", "the closed-form ridge"), ("unet", "the U-Net")):
        for metric, sign in (("MAE", -1), ("SSIM", 1)):
            ours, theirs = body_means(report, "vaelite", metric), body_means(report, rival, metric)
            lost = [d for d in theirs if sign * ours[d] <= sign * theirs[d]]
            if theirs:
                card.append({"question": f"{metric}: better than {name}?",
                             "answer": f"{len(theirs) - len(lost)} of {len(theirs)} directions",
                             "numbers": f"lost: {', '.join(lost)}".replace(">", " → ") if lost else "none lost"})
    gammas = rows_of(report, table="gamma", method="vaelite")
    for metric in dict.fromkeys(row["metric"] for row in gammas):
        lowest = {row["source"]: min(row["values"]) for row in gammas if row["metric"] == metric}
        worst = min(lowest, key=lowest.get)
        spaced = metric.replace("%/", " %/").removesuffix("mm") + " mm"
        card.append({"question": f"{spaced}: above 99 % for every patient and source?",
                     "answer": "yes" if lowest[worst] > 99 else "no",
                     "numbers": f"lowest {lowest[worst]:.2f} %, from {worst} (n = {gammas[0]['n']})"})
    for source in dict.fromkeys(source for source, _ in dose_methods(report)):
        errors = {row["method"]: row["mean"] for row in rows_of(report, table="dose", source=source, metric="MAE_target")}
        best = min(errors, key=errors.get)
        card.append({"question": f"Target dose on the CT made from {source}: are we the closest?",
                     "answer": "yes" if best == "vaelite" else f"no, {best} is",
                     "numbers": "MAE_target " + ", ".join(f"{m} {value:.2f} %" for m, value in errors.items())})
    return card


def body_means(report: dict[str, Any], method: str, metric: str) -> dict[str, float]:
    """{"CBCT>CT": mean of the metric in the body mask} over all directions of one method."""
    rows = rows_of(report, table="translation", method=method, metric=metric)
    return {f"{row['source']}>{row['target']}": row["mean"] for row in rows
            if row["convention"] == conventions(row["target"])[0]}
