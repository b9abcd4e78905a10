"""The door: every volume and every data set enters here, is checked once, and is refused with one clear error.

Volumes in memory are (z, y, x) in LPS: x to the patient's left, y to posterior, z to superior.
Three parts: single files (`load_volume`, `save_volume`), data sets (`load_cases`), slices (`load_slices`).
"""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import json
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from einops import rearrange
from nibabel import orientations

from .errors import VaeliteError
from .intensity import HU_MODALITIES, MODALITIES, check_modality, to_unit

SPLITS = ("train", "validation", "test")
FORMAT = 1  # of dataset.json
MAX_VOXELS = 2**29  # our choice: 1024 x 1024 x 512, far above any clinical head-and-neck volume
MAX_TRAILING_BYTES = 2**20  # some writers pad the file; much more than that is not padding
DEFLATE_LIMIT = 1032  # RFC 1951: deflate shrinks at most 1032 to 1, so a header that claims more is wrong
GRID_TOLERANCE_MM = 0.01


# ---- single files ----------------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class Volume:
    """One image with its place in the patient.

    data: float32 zyx in LPS. affine: (4, 4) voxel-to-RAS matrix [mm] of the FILE, in the file's own axis order.
    file_shape: the file's (i, j, k). spacing_mm: (dz, dy, dx) of `data`. header: kept so that saving gives it back.
    """

    data: np.ndarray
    affine: np.ndarray
    file_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    path: Path | None = None
    header: nib.Nifti1Header | None = None

    def like(self, data) -> Volume:
        """The same grid with other voxels. data: zyx. Raises VaeliteError if the shape differs."""
        data = np.asarray(data, dtype=np.float32)
        if data.shape != self.data.shape:
            raise VaeliteError(f"Voxels of shape {data.shape} do not fit the grid {self.data.shape} of {self.path}.")
        return replace(self, data=data)


def load_volume(path, modality: str | None = None) -> Volume:
    """Read one NIfTI file (.nii or .nii.gz) to its last byte and check it.

    modality: with "CT" or "CBCT" the values must be HU, with "T1c" or "T2w" they must not be; None skips this check.
    Returns a Volume in (z, y, x), LPS, whatever the file's orientation.
    Raises VaeliteError: missing, damaged or truncated file, header that cannot be true, no geometry,
    several volumes in one file, NaN or Inf, one constant value, values that are not HU.
    """
    if modality is not None:
        check_modality(modality)
    volume, _ = _load_checked(Path(path), modality)
    return volume


def save_volume(volume: Volume, path, dtype: str = "float32") -> int:
    """Write a volume with the orientation, affine, sform and qform of the file it came from.

    dtype: "float32", or "int16" (HU, rounded; values outside its range saturate). Returns how many voxels saturated.
    The file appears whole or not at all, and the same volume gives the same bytes.
    Raises VaeliteError for another suffix, a missing folder, or if the source file would be overwritten.
    """
    path = Path(path)
    _check_destination(volume, path)
    data, n_saturated = np.asarray(volume.data, dtype=np.float32), 0
    if dtype == "int16":
        limits = np.iinfo(np.int16)
        rounded = np.rint(data)
        data = np.clip(rounded, limits.min, limits.max).astype(np.int16)
        n_saturated = int(np.count_nonzero(rounded != data))
    elif dtype != "float32":
        raise VaeliteError(f"Cannot save {path} as {dtype!r}. Choose 'float32' or 'int16'.")
    image = nib.Nifti1Image(_from_zyx(data, volume.affine), volume.affine, volume.header)
    image.set_data_dtype(dtype)
    if volume.header is None:
        image.set_sform(volume.affine, code=1)
        image.set_qform(volume.affine, code=1)
    for free_text in ("descrip", "aux_file", "db_name"):  # may hold a patient's name
        image.header[free_text] = b""
    content = image.to_bytes()
    if path.name.lower().endswith(".gz"):
        content = gzip.compress(content, compresslevel=6, mtime=0)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
    return n_saturated


def _check_destination(volume: Volume, path: Path) -> None:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise VaeliteError(f"{path}: volumes are saved as NIfTI. Choose a name that ends in .nii.gz or .nii.")
    if not path.parent.is_dir():
        raise VaeliteError(f"{path}: the folder {path.parent} does not exist. Make it first.")
    if volume.path is not None and path.resolve() == Path(volume.path).resolve():
        raise VaeliteError(f"{path}: this would overwrite the file the volume came from. Choose another name.")


def _load_checked(path: Path, modality: str | None) -> tuple[Volume, str]:
    """A checked volume and the sha256 of its file."""
    array, header, sha256 = _read_nifti(path)
    array = np.asarray(array, dtype=np.float32)
    _check_finite(path, array)
    low, high = float(array.min()), float(array.max())
    if low == high:
        raise VaeliteError(f"{path}: every voxel has the value {low:g}, so there is no image. Export it again.")
    if modality in HU_MODALITIES:
        _check_hu(path, array, modality)
    elif modality is not None and np.count_nonzero(array < -200.0) > 0.05 * array.size:
        raise VaeliteError(
            f"{path}: a {modality} should be MR, but 5 % or more of its voxels are below -200, as air is in HU. "
            f"This looks like a CT: save it as ct.nii.gz or cbct.nii.gz, or give the MR."
        )
    affine = header.get_best_affine()
    data = _to_zyx(array, affine)
    return Volume(data, affine, array.shape, _spacing_zyx(affine), path, header), sha256


def _read_nifti(path: Path) -> tuple[np.ndarray, nib.Nifti1Header, str]:
    """Voxels in the file's own axes (3-D, scl_slope applied), checked header, sha256 of the file."""
    _check_path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise VaeliteError(f"{path}: cannot be read ({error.strerror}). Check its permissions and the disk.") from error
    compressed = _check_signature(path, raw)
    stream = gzip.GzipFile(fileobj=io.BytesIO(raw)) if compressed else io.BytesIO(raw)
    try:
        head = stream.read(540)  # a NIfTI-1 header has 348 bytes, a NIfTI-2 header 540
        image_class, header, n_bytes = _check_header(path, head, len(raw) * (DEFLATE_LIMIT if compressed else 1))
        content = head + stream.read(n_bytes + MAX_TRAILING_BYTES - len(head))
        more = stream.read(1)  # past the last byte: only there does the gzip reader compare its checksum
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise VaeliteError(
            f"{path}: the compressed file is damaged or was cut short ({error}). Copy or download it again."
        ) from error
    if more:
        raise VaeliteError(f"{path}: holds far more data than its header describes ({n_bytes} bytes). Export it again.")
    if len(content) < n_bytes:
        raise VaeliteError(
            f"{path}: cut short: its header describes {n_bytes} bytes and {len(content)} are there. "
            f"Copy or download it again."
        )
    try:
        image = image_class.from_bytes(content)
        array = np.asanyarray(image.dataobj).reshape(header.get_data_shape()[:3])
    except Exception as error:  # nibabel raises many kinds; whatever it is, the file is the reason
        raise VaeliteError(f"{path}: not readable as NIfTI ({error}). Export it again.") from error
    return array, image.header, hashlib.sha256(raw).hexdigest()


def _check_path(path: Path) -> None:
    if os.path.isdir(path):  # os.path, because Path raises where a name is too long
        raise VaeliteError(f"{path}: is a folder. Give one .nii.gz file; for a whole data set use load_cases(folder).")
    if not os.path.exists(path):
        raise VaeliteError(f"{path}: no such file.{_nearest_names(path)}")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise VaeliteError(f"{path}: only .nii and .nii.gz are read. Convert it first (see data_scripts).")
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise VaeliteError(f"{path}: the file is empty (0 bytes). Copy or download it again.")
    if n_bytes > 16 * MAX_VOXELS:
        raise VaeliteError(f"{path}: {n_bytes / 1e9:.0f} GB is more than vaelite reads. Crop or resample it first.")


def _nearest_names(path: Path) -> str:
    if not os.path.isdir(path.parent):
        return f" The folder {path.parent} does not exist either."
    names = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    nearest = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4) or names[:3]
    return f" Did you mean {', '.join(nearest)}?" if nearest else f" The folder {path.parent} is empty."


def _check_signature(path: Path, raw: bytes) -> bool:
    """Whether the file is gzip; raises VaeliteError if its first bytes contradict its name."""
    is_gzip = raw[:2] == b"\x1f\x8b"
    named_gzip = path.name.lower().endswith(".gz")
    start = raw[:200].lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise VaeliteError(f"{path}: is a Git LFS pointer, not the image. Run `git lfs pull` in its repository.")
    if start.startswith((b"<", b"{")):
        raise VaeliteError(f"{path}: is a web page or text, not an image. Log in and download it again.")
    if is_gzip and not named_gzip:
        raise VaeliteError(f"{path}: is compressed but not named so. Rename it to {path.name}.gz.")
    if named_gzip and not is_gzip:
        if raw[:4] in (b"\x5c\x01\x00\x00", b"\x00\x00\x01\x5c"):  # 348, the first field of a NIfTI-1 header
            raise VaeliteError(f"{path}: is not compressed. Rename it to {path.name[:-3]}.")
        raise VaeliteError(f"{path}: is not a gzip file, whatever its name. Copy or download it again.")
    return is_gzip


def _check_header(path: Path, head: bytes, most_bytes: int):
    """(nibabel image class, header, bytes the header describes); nothing is allocated before this agrees."""
    sizes = {int.from_bytes(head[:4], order) for order in ("little", "big")}
    image_class = nib.Nifti1Image if 348 in sizes else nib.Nifti2Image if 540 in sizes else None
    if image_class is None or len(head) < min(sizes & {348, 540}):
        raise VaeliteError(f"{path}: has no NIfTI header. Export or download it again.")
    header_class = image_class.header_class
    header = header_class(head[: header_class.template_dtype.itemsize], check=False)
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
        raise VaeliteError(f"{path}: bad magic {header['magic'].item()!r} in its header. Export it as one NIfTI file.")
    code = int(header["datatype"])
    known = nib.nifti1.data_type_codes
    if code not in known.code or known.dtype[code].kind not in "iuf":
        kind = known.label[code] if code in known.code else f"unknown code {code}"
        raise VaeliteError(f"{path}: voxels of type {kind} are no grey values. Convert to one real number each.")
    n_axes, *lengths = (int(n) for n in header["dim"])
    lengths = lengths[: max(n_axes, 0)]
    if not 3 <= n_axes <= 7 or min(lengths) < 1:
        raise VaeliteError(f"{path}: its header gives the shape {tuple(lengths)}; expected three axes, none empty.")
    n_volumes = int(np.prod(lengths[3:], dtype=object))
    if n_volumes > 1:
        raise VaeliteError(
            f"{path}: holds {n_volumes} volumes (shape {tuple(lengths)}). Choose one, for instance the first: "
            f"image = nibabel.load(path); nibabel.save(image.slicer[:, :, :, 0], 'one_volume.nii.gz')."
        )
    n_voxels = int(np.prod(lengths, dtype=object))  # object: an absurd shape must not overflow
    offset = float(header["vox_offset"])
    n_bytes = n_voxels * known.dtype[code].itemsize + (int(offset) if np.isfinite(offset) else 0)
    if n_voxels > MAX_VOXELS or n_bytes > most_bytes or not 0 <= offset <= most_bytes:
        raise VaeliteError(
            f"{path}: cut short, or its header is wrong: it describes {n_bytes / 1e6:,.1f} MB, shape {tuple(lengths)}; "
            f"the file cannot hold that, or it is above the limit of {MAX_VOXELS} voxels. Copy or export it again."
        )
    _check_geometry(path, header)
    return image_class, header, n_bytes


def _check_geometry(path: Path, header) -> None:
    if int(header["sform_code"]) <= 0 and int(header["qform_code"]) <= 0:
        raise VaeliteError(
            f"{path}: has neither sform nor qform, so left and right are unknown. Export it again with its geometry."
        )
    try:
        affine = header.get_best_affine()
        spacing = nib.affines.voxel_sizes(affine)
        volume_mm3 = abs(np.linalg.det(np.nan_to_num(affine[:3, :3])))
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        raise VaeliteError(f"{path}: its geometry is unreadable ({error}). Export it again.") from error
    if not np.isfinite(affine).all() or not volume_mm3 > 1e-3 * np.prod(spacing):
        raise VaeliteError(
            f"{path}: its affine is singular or not finite, so voxels have no place:\n{affine}\nExport it again."
        )
    if spacing.min() < 0.05 or spacing.max() > 50.0:
        raise VaeliteError(
            f"{path}: voxels of {_numbers(spacing)} mm cannot be a patient's. Is the unit metre or micron? Write mm."
        )


def _check_finite(path: Path, array: np.ndarray) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise VaeliteError(
            f"{path}: {int((~finite).sum())} voxels are NaN or Inf, the first at index {first}. "
            f"Replace them (air: -1000 HU in CT, 0 in MR) or export it again."
        )


def _check_hu(path: Path, array: np.ndarray, modality: str) -> None:
    # Our choice. Air is -1000 HU and fat about -100: a scan of a patient has at least 0.1 % of its voxels in air or
    # lung, and at least 0.5 % in fat, water and muscle, also when clipped at -1000 or cut by the field of view.
    low, high = float(array.min()), float(array.max())
    has_air = np.count_nonzero(array < -200.0) >= 1e-3 * array.size
    has_tissue = np.count_nonzero((array > -250.0) & (array < 350.0)) >= 5e-3 * array.size
    if has_air and has_tissue:
        return
    if high - low <= 4.0:
        guess = "They look scaled to [0, 1] or [-1, 1]: undo the scaling."
    elif low >= 0 and high <= 255:
        guess = "They look like 8-bit grey levels [0, 255]: export the original, not a picture of it."
    elif low >= -200 and high > 255:
        guess = "They look shifted by 1024 or 1000 (stored values): subtract it, or apply RescaleIntercept."
    else:
        guess = "Nothing lies at air (-1000) or nothing at water (0): check RescaleSlope and RescaleIntercept."
    raise VaeliteError(f"{path}: a {modality} must be in HU, but its values span [{low:g}, {high:g}]. {guess}")


def _to_zyx(array_ijk: np.ndarray, affine: np.ndarray) -> np.ndarray:
    own, lps = orientations.io_orientation(affine), orientations.axcodes2ornt("LPS")
    array_xyz = orientations.apply_orientation(array_ijk, orientations.ornt_transform(own, lps))
    return np.ascontiguousarray(rearrange(array_xyz, "x y z -> z y x"))


def _from_zyx(array_zyx: np.ndarray, affine: np.ndarray) -> np.ndarray:
    own, lps = orientations.io_orientation(affine), orientations.axcodes2ornt("LPS")
    array_xyz = rearrange(array_zyx, "z y x -> x y z")
    return orientations.apply_orientation(array_xyz, orientations.ornt_transform(lps, own))


def _spacing_zyx(affine: np.ndarray) -> tuple[float, float, float]:
    world_axis_of = orientations.io_orientation(affine)[:, 0].astype(int)  # file axis -> x, y or z
    spacing_xyz = dict(zip(world_axis_of, nib.affines.voxel_sizes(affine)))
    return tuple(float(spacing_xyz[axis]) for axis in (2, 1, 0))


def _numbers(values) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


# ---- data sets -------------------------------------------------------------------------------------------------

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
        return _load_checked(path, None)[0].data if path.exists() else None


def load_cases(folder, split: str | None = None) -> list[Case]:
    """Read and check a data set: dataset.json wholly, and every file of the cases asked for.

    folder: holds dataset.json and one folder per case. split: "train", "validation", "test", or None for all.
    Raises VaeliteError: an invalid dataset.json, a patient in two splits, a missing, damaged or changed file,
    files of one case on different grids, an empty or non-binary mask, the same image twice.
    """
    folder = Path(folder)
    entries = _read_manifest(folder)["cases"]
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
    for entry in _read_manifest(folder)["cases"]:
        checksums = entry.get("sha256") or _hash_files(folder / entry["name"])
        lines.append(json.dumps([entry["name"], entry["patient"], entry["split"], sorted(checksums.items())]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def _hash_files(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.nii.gz"))}


def _read_json(path: Path, mend: str) -> dict:
    if not os.path.isfile(path):
        raise VaeliteError(f"{path}: no such file.{_nearest_names(path)} {mend}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bad JSON or bad UTF-8
        raise VaeliteError(f"{path}: is not valid JSON ({error}). {mend}") from error
    if not isinstance(content, dict):
        raise VaeliteError(f"{path}: must hold one JSON object, not a {type(content).__name__}. {mend}")
    return content


def _read_manifest(folder: Path) -> dict:
    mend = "Write the data set again with `make data` or an importer in data_scripts."
    if not os.path.isdir(folder):
        raise VaeliteError(f"{folder}: no such folder.{_nearest_names(folder)} {mend}")
    path = folder / "dataset.json"
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
            raise VaeliteError(f"{path}: the case name {name!r} occurs twice (capitals aside). Rename one. {mend}")
        seen_names.add(name.casefold())
        earlier_split, earlier_name = split_of.setdefault(patient.strip().casefold(), (split, name))
        if earlier_split != split:
            raise VaeliteError(
                f"{path}: patient {patient!r} is in two splits, {earlier_split} ({earlier_name}) and {split} ({name}). "
                f"A test on a patient seen in training proves nothing: put all cases of a patient into one split."
            )
    return manifest


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
        raise VaeliteError(f"{folder}: listed in dataset.json, but there is no such folder.{_nearest_names(folder)}")
    info = _read_json(folder / "case.json", "Every case needs one; it may be {}.")
    modalities = tuple(m for m in MODALITIES if (folder / f"{m.lower()}.nii.gz").exists())
    if not modalities:
        raise VaeliteError(f"{folder}: has no image. Expected at least one of cbct, ct, t1c, t2w, each .nii.gz.")
    grids: dict[str, Volume] = {}
    checksums: dict[str, str] = {}
    for modality in modalities:
        path = folder / f"{modality.lower()}.nii.gz"
        volume, checksums[path.name] = _load_checked(path, modality)
        _check_new_content(path, volume, entry["patient"], first_seen)
        grids[path.name] = _without_voxels(volume)
    structure_names = _check_companions(folder, info, grids, checksums)
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
        raise VaeliteError(f"{path}: no body mask. Write one; vaelite.intensity.body_mask estimates it.")
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
        dose, checksums[path.name] = _load_checked(path, None)
        if dose.data.min() < 0:
            raise VaeliteError(f"{path}: the dose is negative somewhere ({dose.data.min():g} Gy). Export it again.")
        grids[path.name] = _without_voxels(dose)
    return tuple(names)


def _read_mask(path: Path) -> tuple[np.ndarray, Volume, str]:
    array, header, sha256 = _read_nifti(path)
    values = np.unique(array)
    if not np.isin(values, (0, 1)).all():
        raise VaeliteError(f"{path}: a mask holds 0 and 1 only, this one {_first_values(values)}. Threshold it first.")
    if not array.any():
        raise VaeliteError(f"{path}: the mask is empty. Draw the body; vaelite.intensity.body_mask estimates it.")
    grid = _grid(path, array.shape, header)
    return _to_zyx(array.astype(bool), grid.affine), grid, sha256


def _read_structures(path: Path, names: tuple[str, ...]) -> tuple[np.ndarray, Volume, str]:
    array, header, sha256 = _read_nifti(path)
    if array.dtype.kind not in "iu" or int(array.min()) < 0 or int(array.max()) >= 2 ** len(names):
        raise VaeliteError(
            f"{path}: bit i of each voxel is structure i of case.json: with {len(names)} names, integers from 0 to "
            f"{2 ** len(names) - 1}; found {array.dtype} from {array.min()} to {array.max()}. Write it again."
        )
    grid = _grid(path, array.shape, header)
    return _to_zyx(array.astype(np.uint32), grid.affine), grid, sha256


def _grid(path: Path, shape: tuple, header) -> Volume:
    affine = header.get_best_affine()
    return Volume(np.empty(0, np.float32), affine, shape, _spacing_zyx(affine), path)


def _without_voxels(volume: Volume) -> Volume:
    return replace(volume, data=np.empty(0, np.float32), header=None)


def _first_values(values: np.ndarray) -> str:
    return ", ".join(f"{value:g}" for value in values[:5]) + (", ..." if len(values) > 5 else "")


def _check_one_grid(folder: Path, grids: dict[str, Volume]) -> None:
    reference = next(iter(grids.values()))
    same = [
        grid.file_shape == reference.file_shape and np.allclose(grid.affine, reference.affine, 0, GRID_TOLERANCE_MM)
        for grid in grids.values()
    ]
    if all(same):
        return
    rows = [f"  {'file':<24}{'shape':<20}{'axes':<6}{'spacing [mm]':<28}origin [mm]"]
    for name, grid in grids.items():
        axes = "".join(orientations.aff2axcodes(grid.affine))
        spacing = _numbers(nib.affines.voxel_sizes(grid.affine))
        origin = ", ".join(f"{value:.2f}" for value in grid.affine[:3, 3])
        rows.append(f"  {name:<24}{_numbers(grid.file_shape):<20}{axes:<6}{spacing:<28}{origin}")
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


# ---- slices for the models -------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class SliceSet:
    """Axial slices in model space.

    x: float16 (n, 4, size, size) in [-1, 1], channels as in MODALITIES, -1 where a modality is absent.
    have: bool (n, 4). mask: bool (n, size, size), the body. case: int64 (n,), index into names.
    """

    x: torch.Tensor
    have: torch.Tensor
    mask: torch.Tensor
    case: torch.Tensor
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.x)


def load_slices(cases: list[Case], size: int, skip_empty: bool = True) -> SliceSet:
    """All axial slices of `cases` in [-1, 1], fitted to size x size.

    skip_empty: leave out slices that hold nothing of the body. Memory: 8 bytes per pixel, plus one volume at a time.
    Raises VaeliteError if nothing is left.
    """
    masks, kept = [], []
    for case in cases:
        fitted = fit_in_plane(case.mask().astype(np.float32), size, fill=0.0) >= 0.5
        keep = fitted.any(axis=(1, 2)) if skip_empty else np.ones(len(fitted), dtype=bool)
        masks.append(fitted[keep])
        kept.append(keep)
    n_slices = sum(len(mask) for mask in masks)
    if n_slices == 0:
        raise VaeliteError("No slices: the list of cases is empty, or no mask holds anything at this size.")
    x = torch.full((n_slices, len(MODALITIES), size, size), -1.0, dtype=torch.float16)
    have = torch.zeros((n_slices, len(MODALITIES)), dtype=torch.bool)
    start = 0
    for case, keep in zip(cases, kept):
        rows = slice(start, start + int(keep.sum()))
        body = case.mask()
        for channel, modality in enumerate(MODALITIES):
            if modality in case.modalities:
                unit, _ = to_unit(case.volume(modality), modality, body)
                x[rows, channel] = torch.from_numpy(fit_in_plane(unit[keep], size, fill=-1.0)).half()
                have[rows, channel] = True
        start = rows.stop
    case_index = torch.repeat_interleave(torch.arange(len(cases)), torch.tensor([len(mask) for mask in masks]))
    return SliceSet(x, have, torch.from_numpy(np.concatenate(masks)), case_index, tuple(case.name for case in cases))


def fit_in_plane(volume: np.ndarray, size: int, fill: float) -> np.ndarray:
    """Resize every slice by one factor so that its longer side is `size`, then pad with `fill` to a centred square.

    volume: float zyx -> float32 (z, size, size); unchanged if it is that already. Inverse: `unfit_in_plane`.
    """
    volume = np.asarray(volume, dtype=np.float32)
    height, width = _fitted_shape(volume.shape[1:], size)
    resized = _resize_in_plane(volume, height, width)
    square = np.full((len(volume), size, size), fill, dtype=np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    square[:, top : top + height, left : left + width] = resized
    return square


def unfit_in_plane(fitted: np.ndarray, original_shape: tuple[int, int, int]) -> np.ndarray:
    """Undo `fit_in_plane`: (z, size, size) -> float32 zyx of `original_shape`; exact where nothing was resized."""
    fitted = np.asarray(fitted, dtype=np.float32)
    size = fitted.shape[-1]
    height, width = _fitted_shape(original_shape[1:], size)
    top, left = (size - height) // 2, (size - width) // 2
    return _resize_in_plane(fitted[:, top : top + height, left : left + width], *original_shape[1:])


def _fitted_shape(in_plane_shape: tuple[int, int], size: int) -> tuple[int, int]:
    longer = max(in_plane_shape)
    return tuple(max(1, round(length * size / longer)) for length in in_plane_shape)


def _resize_in_plane(volume: np.ndarray, height: int, width: int) -> np.ndarray:
    if volume.shape[1:] == (height, width):
        return volume
    slices = rearrange(torch.from_numpy(np.ascontiguousarray(volume)), "z y x -> z 1 y x")
    # antialias acts only where an axis shrinks; without it, thin bone would come and go with the phase of the grid
    resized = torch.nn.functional.interpolate(slices, (height, width), mode="bilinear", antialias=True)
    return rearrange(resized, "z 1 y x -> z y x").numpy()
