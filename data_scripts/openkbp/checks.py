"""What a patient's own anatomy says about the axes, and what its tissues say about the HU scale.

Neither is documented by OpenKBP, so both are checked for each patient before anything is written.
A volume mirrored together with its contours would pass: left and right rest on the names of the parotids. In patients
whose scan reaches the chest, the aorta was seen on the left, as it should be.
"""
from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_erosion, gaussian_filter1d

from vaelite.errors import VaeliteError

# (axis of z y x, sign, word, structure, the one it must lie beyond): several per direction, as not all are drawn
ORDERS = (
    (0, +1, "superior", "Brainstem", "Larynx"),
    (0, +1, "superior", "Brainstem", "SpinalCord"),
    (0, +1, "superior", "Mandible", "Larynx"),
    (1, -1, "anterior", "Larynx", "SpinalCord"),
    (1, -1, "anterior", "Mandible", "SpinalCord"),
    (1, -1, "anterior", "Mandible", "Brainstem"),
    (2, +1, "left", "Parotid_L", "Parotid_R"),
)
DIRECTIONS = ("superior", "anterior", "left")
PAROTIDS_APART_MM = (60.0, 180.0)          # centre to centre, an adult (our choice; 105-128 mm in 12 patients)

MUSCLE_HU, FAT_HU = (-10.0, 110.0), (-140.0, -40.0)      # where their peaks may lie (our choice; nominal 50 and -90)
BETWEEN_FAT_AND_MUSCLE_HU = -40.0


def check_orientation(structures: dict[str, np.ndarray], spacing_mm: tuple[float, float, float], name: str) -> dict:
    """Compare the centres of structures -> {"checked": [sentences], "not_checked": [directions]}.

    structures: {name: bool (z, y, x)}, expected in LPS. Raises VaeliteError at the first contradiction.
    """
    centre_mm = {key: np.argwhere(mask).mean(axis=0) * spacing_mm for key, mask in structures.items()}
    checked, directions = [], set()
    for axis, sign, word, beyond, other in ORDERS:
        if beyond not in centre_mm or other not in centre_mm:
            continue
        distance_mm = sign * float(centre_mm[beyond][axis] - centre_mm[other][axis])
        if distance_mm <= 0:
            raise VaeliteError(f"{name}: {beyond} should lie {word} to {other}, but lies {-distance_mm:.0f} mm on the "
                               f"other side. The axes are not OpenKBP's (y, x, -z), or two structures are exchanged: "
                               f"look at this patient, mend it or move its folder away.")
        checked.append(f"{beyond} {word} to {other} by {distance_mm:.0f} mm")
        directions.add(word)
    check_parotid_distance(centre_mm, name)
    return {"checked": checked, "not_checked": [word for word in DIRECTIONS if word not in directions]}


def check_parotid_distance(centre_mm: dict[str, np.ndarray], name: str) -> None:
    """The parotids lie a face's width apart: a check of voxel_dimensions' order and unit."""
    if not {"Parotid_L", "Parotid_R"} <= set(centre_mm):
        return
    apart_mm = float(np.linalg.norm(centre_mm["Parotid_L"] - centre_mm["Parotid_R"]))
    low, high = PAROTIDS_APART_MM
    if not low <= apart_mm <= high:
        raise VaeliteError(f"{name}: the parotids are {apart_mm:.0f} mm apart, expected {low:.0f} to {high:.0f} mm. "
                           f"Check voxel_dimensions.csv: in-plane, in-plane, slice, in mm.")


def tissue_peaks_hu(ct_hu: np.ndarray, body: np.ndarray) -> tuple[float | None, float | None]:
    """The peaks of fat and of muscle (with other soft tissue) in the body's histogram [HU]; None where there is none.

    The two outer voxel layers are left out: they mix with air.
    """
    inside = ct_hu[binary_erosion(body, iterations=2)]
    counts, edges = np.histogram(inside, bins=np.arange(-300, 301, 4))
    smooth = gaussian_filter1d(counts.astype(float), 2.0)
    is_peak = np.r_[False, (smooth[1:-1] > smooth[:-2]) & (smooth[1:-1] >= smooth[2:]), False]
    is_peak &= smooth > 0.03 * smooth.max()                     # ripples
    centres = edges[:-1] + 2.0
    fat, muscle = (tallest(centres, smooth, is_peak & side) for side in
                   (centres < BETWEEN_FAT_AND_MUSCLE_HU, centres >= BETWEEN_FAT_AND_MUSCLE_HU))
    return fat, muscle


def tallest(centres: np.ndarray, heights: np.ndarray, chosen: np.ndarray) -> float | None:
    return float(centres[chosen][np.argmax(heights[chosen])]) if chosen.any() else None


def check_hu(ct_hu: np.ndarray, body: np.ndarray, name: str) -> dict:
    """Refuse a CT whose tissues do not lie where HU = stored - 1024 puts them -> the peaks found [HU]."""
    fat, muscle = tissue_peaks_hu(ct_hu, body)
    muscle_wrong = muscle is None or not MUSCLE_HU[0] <= muscle <= MUSCLE_HU[1]
    fat_wrong = fat is not None and not FAT_HU[0] <= fat <= FAT_HU[1]           # a thin patient may show no fat peak
    if muscle_wrong or fat_wrong:
        raise VaeliteError(f"{name}: with HU = stored - 1024 the peaks lie at {in_hu(fat)} (fat, expected about -90) "
                           f"and {in_hu(muscle)} (muscle, expected about 50). Its ct.csv has another scale: compare it "
                           f"with the published file.")
    return {"fat": fat, "muscle": muscle}


def in_hu(peak: float | None) -> str:
    return "none" if peak is None else f"{peak:.0f} HU"
