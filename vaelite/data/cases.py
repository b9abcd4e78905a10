"""The door: every data set enters here, is checked once, and is refused with one clear error.

`load_cases(folder)` reads a data set, `load_volume(path)` a single file (its checks live in `volumes`).
"""
from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import orientations

from ..errors import VaeliteError
from .intensity import MODALITIES, check_modality
from .volumes import Volume, load_checked, load_volume, nearest_names, numbers, read_nifti, spacing_zyx, to_zyx

SPLITS = ("train", "validation", "test")
FORMAT = 1                                                   # of dataset.json


@dataclass(frozen=True, eq=False)
class Case:
    """One examination in a case folder, checked; its volumes are read when asked for.

    modalities: those present, in the order of MODALITIES. spacing_mm: (dz, dy, dx). affine: of the files.
    info: case.json. structure_names: in bit order, () where none are drawn.
    """

    name: str
    patient: str
    split: str
    folder: Path
    modalities: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    affine: np.ndarray
    info: dict
    structure_names: tuple[str, ...]

    def path(self, modality: str) -> Path:
        """The file of one modality. Raises VaeliteError if this case lacks it."""
        if check_modality(modality) not in self.modalities:
            raise VaeliteError(f"{self.folder}: has no {modality}, only {', '.join(self.modalities)}.")
        return self.folder / f"{modality.lower()}.nii.gz"

    def volume(self, modality: str) -> np.ndarray:
        """float32 zyx; HU for CBCT and CT, arbitrary units for MR."""
        return load_volume(self.path(modality), modality).data

    def mask(self) -> np.ndarray:
        """The body, bool zyx."""
        return _read_mask(self.folder / "mask.nii.gz")[0]

    def structures(self) -> dict[str, np.ndarray]:
        """Name -> bool zyx. Structures may overlap (a target inside an organ); empty dict where none are drawn."""
        if not self.structure_names:
            return {}
        bits = _read_structures(self.folder / "structures.nii.gz", self.structure_names)[0]
        return {name: (bits >> np.uint32(i) & np.uint32(1)).astype(bool) for i, name in enumerate(self.structure_names)}

    def published_dose_gy(self) -> np.ndarray | None:
        """The dose that came with the data, float32 zyx [Gy]; None where there is none."""
        path = self.folder / "dose_published.nii.gz"
        return load_checked(path, None)[0].data if path.exists() else None


def load_cases(folder, split: str | None = None) -> list[Case]:
    """Read and check a data set: dataset.json wholly, and every file of the cases asked for.

    folder: holds dataset.json and one folder per case. split: "train", "validation", "test", or None for all.
    Raises VaeliteError: an invalid dataset.json, a patient in two splits, a missing, damaged or changed file,
    files of one case on different grids, an empty or non-binary mask, the same image twice.
    """
    folder = Path(folder)
    entries = read_manifest(folder)["cases"]
    if split is not None and split not in SPLITS:
        raise VaeliteError(f"Unknown split {split!r}. Choose one of {', '.join(SPLITS)}.")
    chosen = [entry for entry in entries if split in (None, entry["split"])]
    if not chosen:
        raise VaeliteError(f"{folder / 'dataset.json'}: has no case in split {split!r}. Add one and its folder.")
    first_seen: dict[str, tuple[str, Path]] = {}
    return [_load_case(folder / entry["name"], entry, first_seen) for entry in chosen]


def data_fingerprint(folder) -> str:
    """sha256 (hex) over every case's name, patient, split and file checksums: it changes when the data do."""
    folder = Path(folder)
    lines = []
    for entry in read_manifest(folder)["cases"]:
        checksums = entry.get("sha256") or _hash_files(folder / entry["name"])
        lines.append(json.dumps([entry["name"], entry["patient"], entry["split"], sorted(checksums.items())]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _hash_files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.nii.gz"))}


def _read_json(path: Path, mend: str) -> dict:
    if not os.path.isfile(path):
        raise VaeliteError(f"{path}: no such file.{nearest_names(path)} {mend}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON or bad UTF-8
        raise VaeliteError(f"{path}: is not valid JSON ({error}). {mend}") from error
    if not isinstance(content, dict):
        raise VaeliteError(f"{path}: must hold one JSON object {{...}}. {mend}")
    return content


def read_manifest(folder: Path) -> dict:
    """dataset.json, checked; no case is opened. Raises VaeliteError if it is missing or cannot be right."""
    path = folder / "dataset.json"
    mend = _how_to_write(path)
    if not os.path.isdir(folder):
        raise VaeliteError(f"{folder}: no such folder.{nearest_names(folder, folders=True)} {mend}")
    manifest = _read_json(path, mend)
    if manifest.get("format") != FORMAT:
        raise VaeliteError(f"{path}: format {manifest.get('format')!r}, but this vaelite reads {FORMAT}. {mend}")
    entries = manifest.get("cases")
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise VaeliteError(f"{path}: 'cases' must be a list of at least one case. {mend}")
    seen_names: set[str] = set()
    split_of: dict[str, tuple[str, str]] = {}
    for entry in entries:
        _check_entry(path, entry)
        name, patient, split = entry["name"], entry["patient"], entry["split"]
        if name.casefold() in seen_names:
            raise VaeliteError(f"{path}: the case name {name!r} occurs twice (capitals aside). Rename one.")
        seen_names.add(name.casefold())
        earlier_split, earlier_name = split_of.setdefault(patient.strip().casefold(), (split, name))
        if earlier_split != split:
            raise VaeliteError(
                f"{path}: patient {patient!r} is in two splits, {earlier_split} ({earlier_name}) and {split} ({name}). "
                f"A test on a patient seen in training proves nothing: put all cases of a patient into one split."
            )
    return manifest


def _how_to_write(path: Path) -> str:
    """The advice for a dataset.json that is missing or wrong: `make data` makes the phantom of a profile, and nothing else."""
    folder = path.parent.absolute()
    if folder.parent.name != "data" or folder.name not in ("phantom-smoke", "phantom-laptop", "phantom-paper"):
        return ("Give another folder, or write the data set: data_scripts/case_folder.py from arrays (README, \"Your own data\"), "
                "make_phantom.py or an importer there.")
    make = f"`make data PROFILE={folder.name.removeprefix('phantom-')}`"
    return f"Remove it and make it again with {make}." if os.path.exists(path) else f"Make it with {make}."


def _check_entry(path: Path, entry: dict) -> None:
    for key in ("name", "patient", "split"):
        if not isinstance(entry.get(key), str) or not entry[key].strip():
            raise VaeliteError(f"{path}: a case lacks {key!r} (text): {json.dumps(entry)[:200]}. Add it.")
    if Path(entry["name"]).name != entry["name"] or entry["name"] in (".", ".."):
        raise VaeliteError(f"{path}: the case name {entry['name']!r} must be a plain folder name. Rename the case.")
    if entry["split"] not in SPLITS:
        raise VaeliteError(
            f"{path}: case {entry['name']} has the split {entry['split']!r}. Choose one of {', '.join(SPLITS)}."
        )
    if not isinstance(entry.get("sha256", {}), dict):
        raise VaeliteError(f"{path}: 'sha256' of case {entry['name']} must map file names to checksums.")


def _load_case(folder: Path, entry: dict, first_seen: dict[str, tuple[str, Path]]) -> Case:
    if not os.path.isdir(folder):
        raise VaeliteError(f"{folder}: listed in dataset.json, but there is no such folder.{nearest_names(folder, folders=True)}")
    info = _read_json(folder / "case.json", "Every case needs one; it may be {}.")
    modalities = tuple(m for m in MODALITIES if (folder / f"{m.lower()}.nii.gz").exists())
    if not modalities:
        raise VaeliteError(f"{folder}: has no image. Expected at least one of cbct, ct, t1c, t2w, each .nii.gz.")
    grids: dict[str, Volume] = {}
    checksums: dict[str, str] = {}
    for modality in modalities:
        path = folder / f"{modality.lower()}.nii.gz"
        volume, checksums[path.name] = load_checked(path, modality)
        _check_new_content(path, volume, entry["patient"], first_seen)
        grids[path.name] = _without_voxels(volume)
    structure_names = _check_companions(folder, info, grids, checksums)
    _check_prescription(folder, info, structure_names)
    _check_one_grid(folder, grids)
    _check_checksums(folder, entry.get("sha256", {}), checksums)
    reference = next(iter(grids.values()))
    return Case(
        entry["name"], entry["patient"], entry["split"], folder, modalities,
        reference.spacing_mm, reference.affine, info, structure_names,
    )


def _check_companions(folder: Path, info: dict, grids: dict, checksums: dict) -> tuple[str, ...]:
    """Check mask, structures and published dose; enter their grids and checksums; return the structures' names."""
    path = folder / "mask.nii.gz"
    if not path.exists():
        raise VaeliteError(f"{path}: no body mask. Write one; vaelite.data.intensity.body_mask estimates it.")
    _, grids[path.name], checksums[path.name] = _read_mask(path)
    names, path = info.get("structures", []), folder / "structures.nii.gz"
    valid = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    if not valid or len(names) > 32:
        raise VaeliteError(f"{folder / 'case.json'}: 'structures' must list at most 32 different names in bit order.")
    if path.exists() != bool(names):
        state = "there" if path.exists() else "missing"
        raise VaeliteError(
            f"{folder}: case.json names {len(names)} structures and structures.nii.gz is {state}. Give both or neither."
        )
    if names:
        _, grids[path.name], checksums[path.name] = _read_structures(path, tuple(names))
    path = folder / "dose_published.nii.gz"
    if path.exists():
        dose, checksums[path.name] = load_checked(path, None)
        if dose.data.min() < 0:
            raise VaeliteError(f"{path}: the dose is negative somewhere ({dose.data.min():g} Gy). Export it again.")
        grids[path.name] = _without_voxels(dose)
    return tuple(names)


def _check_prescription(folder: Path, info: dict, structure_names: tuple[str, ...]) -> None:
    doses = info.get("prescription_gy", {})
    sound = isinstance(doses, dict) and all(
        name in structure_names and type(dose) in (int, float) and 0 < dose < 200 for name, dose in doses.items())
    if not sound:
        raise VaeliteError(
            f"{folder}: case.json has prescription_gy = {doses!r}. Expected {{name of a structure: total dose in Gy}}, "
            f"such as {{\"PTV\": 70.0}}; structures here: {', '.join(structure_names) or 'none'}."
        )


def _read_mask(path: Path) -> tuple[np.ndarray, Volume, str]:
    array, header, sha256 = read_nifti(path)
    values = np.unique(array)
    if not np.isin(values, (0, 1)).all():
        raise VaeliteError(f"{path}: a mask holds 0 and 1 only, this one {_first_values(values)}. Threshold it first.")
    if not array.any():
        raise VaeliteError(f"{path}: the mask is empty. Draw the body; vaelite.data.intensity.body_mask estimates it.")
    grid = _grid(path, array.shape, header)
    return to_zyx(array.astype(bool), grid.affine), grid, sha256


def _read_structures(path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, Volume, str]:
    array, header, sha256 = read_nifti(path)
    if array.dtype.kind not in "iu" or int(array.min()) < 0 or int(array.max()) >= 2 ** len(names):
        raise VaeliteError(
            f"{path}: bit i of each voxel is structure i of case.json: with {len(names)} names, integers from 0 to "
            f"{2 ** len(names) - 1}; found {array.dtype} from {array.min()} to {array.max()}. Write it again."
        )
    grid = _grid(path, array.shape, header)
    return to_zyx(array.astype(np.uint32), grid.affine), grid, sha256


def _grid(path: Path, shape: tuple, header) -> Volume:
    affine = header.get_best_affine()
    return Volume(np.empty(0, np.float32), affine, shape, spacing_zyx(affine), path)


def _without_voxels(volume: Volume) -> Volume:
    return replace(volume, data=np.empty(0, np.float32), header=None)


def _first_values(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")


def _check_one_grid(folder: Path, grids: dict[str, Volume]) -> None:
    reference = next(iter(grids.values()))
    if all(grid.same_grid(reference) for grid in grids.values()):
        return
    rows = [f"  {'file':<24}{'shape':<20}{'axes':<6}{'spacing [mm]':<28}origin [mm]"]
    for name, grid in grids.items():
        axes = "".join(orientations.aff2axcodes(grid.affine))
        spacing = numbers(nib.affines.voxel_sizes(grid.affine))
        origin = ", ".join(f"{value:.2f}" for value in grid.affine[:3, 3])
        rows.append(f"  {name:<24}{numbers(grid.file_shape):<20}{axes:<6}{spacing:<28}{origin}")
    raise VaeliteError(
        f"{folder}: the files of one case must lie on one grid, and these do not:\n" + "\n".join(rows)
        + "\nRegister and resample them onto one grid first (nearest neighbour for mask and structures)."
    )


def _check_new_content(path: Path, volume: Volume, patient: str, first_seen: dict[str, tuple[str, Path]]) -> None:
    content = hashlib.sha256(volume.data).hexdigest()
    earlier_patient, earlier_path = first_seen.setdefault(content, (patient, path))
    if earlier_path.parent == path.parent and earlier_path != path:
        raise VaeliteError(f"{path}: holds the same image as {earlier_path.name}. One of the two is misnamed.")
    if earlier_patient != patient:
        raise VaeliteError(
            f"{path}: holds the same image as {earlier_path}, of another patient ({earlier_patient} and {patient}). "
            f"Remove one, or give both the same patient."
        )


def _check_checksums(folder: Path, expected: dict[str, str], found: dict[str, str]) -> None:
    for name, checksum in expected.items():
        path = folder / name
        if name not in found and not path.is_file():
            raise VaeliteError(f"{path}: dataset.json lists this file, but it is not there. Copy the data set again.")
        if (found.get(name) or hashlib.sha256(path.read_bytes()).hexdigest()) != checksum:
            raise VaeliteError(
                f"{path}: its content is not what dataset.json recorded (sha256 differs). Restore the file, "
                f"or write the data set again if the change was meant."
            )
