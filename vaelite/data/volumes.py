"""One NIfTI file: read to its last byte, checked, and written back with the geometry it came with.

Volumes in memory are (z, y, x) in LPS: x to the patient's left, y to posterior, z to superior.
"""
from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import os
import zlib
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
from einops import rearrange
from nibabel import orientations

from ..errors import VaeliteError
from .intensity import HU_MODALITIES, check_modality

GRID_TOLERANCE_MM = 0.01                                     # two grids closer than this are one: our choice
MAX_VOXELS = 2**29                                           # our choice: 1024 x 1024 x 512, above any clinical volume
MAX_TRAILING_BYTES = 2**20                                   # some writers pad the file; much more is not padding
DEFLATE_LIMIT = 1032                                         # RFC 1951: no better than 1032 to 1; more is a wrong header


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

    def same_grid(self, other: Volume) -> bool:
        """Whether both volumes have the same shape and lie at the same place, to GRID_TOLERANCE_MM."""
        return self.file_shape == other.file_shape and np.allclose(self.affine, other.affine, 0, GRID_TOLERANCE_MM)


def load_volume(path, modality: str | None = None) -> Volume:
    """Read one NIfTI file (.nii or .nii.gz) to its last byte and check it.

    modality: with "CT" or "CBCT" the values must be HU, with "T1c" or "T2w" they must not be; None skips this check.
    Returns a Volume in (z, y, x), LPS, whatever the file's orientation.
    Raises VaeliteError: missing, damaged or truncated file, header that cannot be true, no geometry,
    several volumes in one file, NaN or Inf, one constant value, values that are not HU.
    """
    if modality is not None:
        check_modality(modality)
    volume, _ = load_checked(Path(path), modality)
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


def load_checked(path: Path, modality: str | None) -> tuple[Volume, str]:
    """A checked volume and the sha256 of its file."""
    array, header, sha256 = read_nifti(path)
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
    data = to_zyx(array, affine)
    return Volume(data, affine, array.shape, spacing_zyx(affine), path, header), sha256


def read_nifti(path: Path) -> tuple[np.ndarray, nib.Nifti1Header, str]:
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
        raise VaeliteError(f"{path}: no such file.{nearest_names(path)}")
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise VaeliteError(f"{path}: only .nii and .nii.gz are read. Convert it first (see data_scripts).")
    n_bytes = path.stat().st_size
    if n_bytes == 0:
        raise VaeliteError(f"{path}: the file is empty (0 bytes). Copy or download it again.")
    if n_bytes > 16 * MAX_VOXELS:
        raise VaeliteError(f"{path}: {n_bytes / 1e9:.0f} GB is more than vaelite reads. Crop or resample it first.")


def nearest_names(path: Path, folders: bool = False) -> str:
    """What to add to a refusal of a path that is not there: the names like it beside it; folders: of folders alone."""
    if not os.path.isdir(path.parent):
        return f" The folder {path.parent} does not exist either."
    entries = [entry for entry in path.parent.iterdir() if not entry.name.startswith(".")]
    if not entries:
        return f" The folder {path.parent} is empty."
    names = sorted(entry.name for entry in entries if entry.is_dir() or not folders)
    nearest = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    return f" Did you mean {', '.join(nearest)}?" if nearest else ""


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
    _check_scaling(path, header)
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
            f"{path}: voxels of {numbers(spacing)} mm cannot be a patient's. Is the unit metre or micron? Write mm."
        )
    _check_forms_agree(path, header, spacing)


def _check_forms_agree(path: Path, header, spacing: np.ndarray) -> None:
    """Programs differ in which form they believe: two that disagree are a picture that is moved without a word."""
    codes = {"sform": int(header["sform_code"]), "qform": int(header["qform_code"])}
    if min(codes.values()) > 0:
        corners = np.array(list(product(*((0, length - 1) for length in header.get_data_shape()[:3]))))
        placed = [nib.affines.apply_affine(form, corners) for form in (header.get_sform(), header.get_qform())]
        apart_mm = float(np.linalg.norm(placed[0] - placed[1], axis=1).max())
        if not apart_mm < 0.5 * spacing.min():
            raise VaeliteError(f"{path}: its sform and qform place a corner {apart_mm:.1f} mm apart. Find out which is right, "
                               f"and write it into both (nibabel: image.set_sform(affine), image.set_qform(affine)).")
    zooms = np.abs(header["pixdim"][1:4].astype(float))
    if not np.allclose(zooms, spacing, rtol=0.01):
        raise VaeliteError(f"{path}: its header says voxels of {numbers(zooms)} mm (pixdim), its affine {numbers(spacing)} mm. "
                           f"Find out which is right and export it again.")


def _check_scaling(path: Path, header) -> None:
    # a slope of 0 says: not scaled (NIfTI-1 standard); nibabel takes a slope that is no number for the same
    slope, intercept = (float(header[name]) for name in ("scl_slope", "scl_inter"))
    if slope != 0 and not np.isfinite([slope, intercept]).all():
        raise VaeliteError(f"{path}: its scale is no number (scl_slope {slope}, scl_inter {intercept}), so its values are unknown. "
                           f"Export it again.")


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
    if low >= -200:                                          # then nothing tells it from an MR, whose values must stay
        guess += " Or this is an MR: then check the file's name, or --source."
    raise VaeliteError(f"{path}: a {modality} must be in HU, but its values span [{low:g}, {high:g}]. {guess}")


def to_zyx(array_ijk: np.ndarray, affine: np.ndarray) -> np.ndarray:
    own, lps = orientations.io_orientation(affine), orientations.axcodes2ornt("LPS")
    array_xyz = orientations.apply_orientation(array_ijk, orientations.ornt_transform(own, lps))
    return np.ascontiguousarray(rearrange(array_xyz, "x y z -> z y x"))


def _from_zyx(array_zyx: np.ndarray, affine: np.ndarray) -> np.ndarray:
    own, lps = orientations.io_orientation(affine), orientations.axcodes2ornt("LPS")
    array_xyz = rearrange(array_zyx, "z y x -> x y z")
    return orientations.apply_orientation(array_xyz, orientations.ornt_transform(lps, own))


def spacing_zyx(affine: np.ndarray) -> tuple[float, float, float]:
    world_axis_of = orientations.io_orientation(affine)[:, 0].astype(int)  # file axis -> x, y or z
    spacing_xyz = dict(zip(world_axis_of, nib.affines.voxel_sizes(affine)))
    return tuple(float(spacing_xyz[axis]) for axis in (2, 1, 0))


def numbers(values) -> str:
    return " x ".join(f"{value:.4g}" for value in values)
