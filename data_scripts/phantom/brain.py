"""The brain: MNI ICBM 152 tissue maps, warped with the rest of the head; its outline also shapes the skull.

The maps ship inside the `nilearn` wheel (folder nilearn/datasets/data); only the files are read, nilearn itself is
never imported. ICBM 152 nonlinear symmetric 2009a: Fonov et al., NeuroImage 54 (2011) 313, and 47 (2009) S102. Their
notice, which every data set made from them repeats, is phantom.ATLAS_NOTICE.
"""
from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import binary_closing, distance_transform_edt, gaussian_filter

from phantom.grid import Streams
from phantom.shapes import SIDES, Canvas, capsule_distance, ellipsoid_distance
from phantom.traits import Traits

MAP_FILE = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
ATLAS_ORIGIN = (98, 134, 72)  # voxel of the anterior commissure; 1 mm voxels, axes right, front, up
ATLAS_SCALE = 1.08  # the template is larger than the average brain (our choice)
ATLAS_PITCH = math.radians(11)  # chin-up pose of a head mask against the template's AC-PC line (our choice)
# The ear canal in the reference head (y, z) and in the template (front, up) [mm]
EAR_CANAL, ATLAS_EAR_CANAL = (12.0, 0.0), (-26.0, -40.0)
BRAIN_FLOOR_MM = -25.0  # the foramen magnum: below it the medulla is the cord's
PAD = 40  # voxels of 1 mm around the template, so that distances reach the skin


@dataclass(frozen=True)
class BrainAtlas:
    """Template volumes (x right, y front, z up), torch float32. outline_mm: signed distance to the brain's envelope."""

    grey: torch.Tensor
    white: torch.Tensor
    outline_mm: torch.Tensor  # every second voxel of the padded template


def atlas_folder() -> Path:
    """The folder of the nilearn wheel that holds the maps; raises FileNotFoundError with what to install."""
    spec = importlib.util.find_spec("nilearn")
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data" if spec else None
    if folder is None or not (folder / MAP_FILE.format("gm")).is_file():
        raise FileNotFoundError("the phantom's brain needs the MNI152 maps that the nilearn package ships "
                                f"({MAP_FILE.format('gm')}): run  pip install nilearn==0.14.1 (or make .venv)")
    return folder


@lru_cache(maxsize=1)
def load_atlas() -> BrainAtlas:
    paths = [atlas_folder() / MAP_FILE.format(kind) for kind in ("gm", "wm", "t1")]
    volumes = [np.asarray(nib.load(path).dataobj, np.float32) for path in paths]
    grey, white = (torch.from_numpy(volume / 255) for volume in volumes[:2])
    envelope = np.pad(volumes[2] > 0, PAD)[::2, ::2, ::2]  # the T1 template is zero outside the brain
    envelope = binary_closing(envelope, iterations=4)
    outline = 2 * (distance_transform_edt(~envelope) - distance_transform_edt(envelope))
    return BrainAtlas(grey, white, torch.from_numpy(gaussian_filter(outline, 2.0).astype(np.float32)))


def atlas_voxel(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Reference-head position [mm] -> template voxel (right, front, up)."""
    back, up = y - EAR_CANAL[0], z - EAR_CANAL[1]
    atlas_back = back * math.cos(ATLAS_PITCH) - up * math.sin(ATLAS_PITCH)
    atlas_up = back * math.sin(ATLAS_PITCH) + up * math.cos(ATLAS_PITCH)
    return (ATLAS_ORIGIN[0] - x * ATLAS_SCALE,
            ATLAS_ORIGIN[1] + ATLAS_EAR_CANAL[0] - atlas_back * ATLAS_SCALE,
            ATLAS_ORIGIN[2] + ATLAS_EAR_CANAL[1] + atlas_up * ATLAS_SCALE)


def head_point(right: float, front: float, up: float) -> tuple[float, float, float]:
    """Template coordinates [mm, MNI] -> reference head (x, y, z) [mm]; the inverse of `atlas_voxel`."""
    atlas_back = (ATLAS_EAR_CANAL[0] - front) / ATLAS_SCALE
    atlas_up = (up - ATLAS_EAR_CANAL[1]) / ATLAS_SCALE
    back = atlas_back * math.cos(ATLAS_PITCH) + atlas_up * math.sin(ATLAS_PITCH)
    height = -atlas_back * math.sin(ATLAS_PITCH) + atlas_up * math.cos(ATLAS_PITCH)
    return -right / ATLAS_SCALE, EAR_CANAL[0] + back, EAR_CANAL[1] + height


def sample(volume: torch.Tensor, voxel: tuple[np.ndarray, ...], padding: str = "zeros") -> np.ndarray:
    """Trilinear values of a template volume at voxel coordinates (three arrays of one shape)."""
    unit = [2 * index / (n - 1) - 1 for index, n in zip(voxel, volume.shape, strict=True)]
    where = torch.from_numpy(np.stack(unit[::-1], axis=-1).astype(np.float32))[None]
    values = torch.nn.functional.grid_sample(volume[None, None], where, align_corners=True, padding_mode=padding)
    return values[0, 0].numpy()


def brain_outline(canvas: Canvas) -> np.ndarray:
    """Signed distance [mm] to the smooth envelope of the brain, on the whole canvas."""
    voxel = tuple((index + PAD) / 2 for index in atlas_voxel(canvas.x, canvas.y, canvas.z))
    return sample(load_atlas().outline_mm, voxel, padding="border") / ATLAS_SCALE


def own_brain(canvas: Canvas, traits: Traits, streams: Streams) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Template voxel of every position in *this* brain: finer deformation, larger or smaller ventricles."""
    x, y, z = canvas.x, canvas.y, canvas.z
    centre = head_point(0, -20, 12)
    squared = ((x - centre[0]) / 26) ** 2 + ((y - centre[1]) / 40) ** 2 + ((z - centre[2]) / 26) ** 2
    widening = (1 - 1 / traits.ventricles) * np.exp(-squared)
    warp = [traits.brain_warp_mm * canvas.grid.smooth_noise(streams(f"brain {axis}"), 42) for axis in "xyz"]
    return atlas_voxel(x - widening * (x - centre[0]) + warp[0], y - widening * (y - centre[1]) + warp[1],
                       z - widening * (z - centre[2]) + warp[2])


def paint_brain(canvas: Canvas, cavity: np.ndarray, traits: Traits, streams: Streams) -> None:
    """Dura, fluid, grey and white matter, brainstem, cerebellum, sinuses inside `cavity` (signed distance)."""
    atlas = load_atlas()
    slices = np.flatnonzero((cavity < 2).any(axis=(1, 2)))
    if not slices.size:
        return
    voxel = own_brain(canvas, traits, streams)
    grey, white = sample(atlas.grey, voxel), sample(atlas.white, voxel)
    inside = np.clip(-cavity / 2, 0, 1).astype(np.float32)
    canvas.paint("dura", cavity)
    canvas.paint("csf", cavity + 1.0)
    keep = 1.15 - traits.atrophy
    brain = np.clip((grey + white) * keep, 0, 1)
    canvas.paint("grey matter", (0.5 - brain) * canvas.edge_mm, mask=inside)
    white_share = np.clip(white / np.maximum(grey + white, 1e-3), 0, 1) * (brain > 0.02)
    canvas.paint("white matter", (0.5 - white_share) * canvas.edge_mm, mask=inside * brain)
    canvas.organ("Brain")[(cavity < -1.0 - traits.csf_mm) & (canvas.z > BRAIN_FLOOR_MM)] = True
    paint_hindbrain(canvas, brain, inside)
    paint_dural_sinuses(canvas, cavity, streams)


def paint_hindbrain(canvas: Canvas, brain: np.ndarray, inside: np.ndarray) -> None:
    x, y, z = canvas.x, canvas.y, canvas.z
    cerebellum = ellipsoid_distance(np.abs(x), y, z, head_point(-20, -62, -40), (34, 30, 22))
    grey = (brain > 0.5) & canvas.is_tissue("grey matter") & (cerebellum < 0)
    canvas.paint("cerebellum", cerebellum, mask=(grey * inside * brain).astype(np.float32))
    stem = np.minimum(capsule_distance(x, y, z, head_point(0, -24, -10), head_point(0, -26, -22), 13, 14),
                      capsule_distance(x, y, z, head_point(0, -26, -24), head_point(0, -29, -42), 15, 13.5))
    stem = np.minimum(stem, capsule_distance(x, y, z, head_point(0, -32, -44), head_point(0, -43, -68), 11, 7))
    canvas.paint("brainstem", stem, mask=inside * brain, organ="Brainstem")


def paint_dural_sinuses(canvas: Canvas, cavity: np.ndarray, streams: Streams) -> None:
    """Falx, superior sagittal and transverse sinuses: enhancing on T1c, dark on T2w."""
    near_bone = (cavity < 2).astype(np.float32)
    shift = float(streams("sagittal sinus").normal(0, 1.5))
    falx = np.maximum(np.abs(canvas.x - 0.4 * shift) - 0.7, np.maximum(-cavity - 14, 20 - canvas.z))
    canvas.paint("dura", falx, mask=(cavity < -1).astype(np.float32))
    sagittal = np.hypot(canvas.x - shift, cavity + 2.5) - 3.2
    canvas.paint("vessel", np.maximum(sagittal, np.maximum(18 - canvas.z, 25 - canvas.y)), mask=near_bone)
    for side in SIDES:
        canvas.capsule("vessel", (side * shift, 90, 14), (54, 42, 3), 3.2, 3.8, mask=near_bone, side=side)
        canvas.capsule("artery", (9, -16, 0), (11, -20, 22), 2.3, side=side)
    canvas.ellipsoid("pituitary", head_point(0, 2, -33), (6, 5, 3.5))
    canvas.capsule("artery", (0, 5, -10), (0, 4, 12), 1.8)
