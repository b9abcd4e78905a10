"""What tissues are made of, and what x-rays of a given tube voltage see of it: the calibration from composition to HU.

The stoichiometric way (Schneider, Pedroni, Lomax, Phys Med Biol 41 (1996) 111): mass attenuation of each element times
its mass fraction, averaged over the beam, relative to water.

Mass attenuation [cm2/g]: NIST tables (Hubbell and Seltzer, NISTIR 5632, 1995). Mass fractions and densities: ICRU
Report 44 (1989) unless a line says otherwise; grey and white matter: Woodard and White, Br J Radiol 59 (1986) 1209. A
test recomputes NIST's own entries for water and for ICRU-44 bone and muscle from the elements.
"""
from __future__ import annotations

import numpy as np

ENERGY_KEV = (30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0)
ELEMENT_CM2_G = {
    "H": (0.3570, 0.3458, 0.3355, 0.3260, 0.3091, 0.2944, 0.2651),
    "C": (0.2562, 0.2076, 0.1871, 0.1753, 0.1610, 0.1514, 0.1347),
    "N": (0.3066, 0.2288, 0.1980, 0.1817, 0.1639, 0.1529, 0.1353),
    "O": (0.3779, 0.2585, 0.2132, 0.1907, 0.1678, 0.1551, 0.1361),
    "Na": (0.7197, 0.3969, 0.2804, 0.2268, 0.1796, 0.1585, 0.1335),
    "Mg": (0.9306, 0.4881, 0.3292, 0.2570, 0.1951, 0.1686, 0.1394),
    "Al": (1.128, 0.5685, 0.3681, 0.2778, 0.2018, 0.1704, 0.1378),
    "P": (1.700, 0.8096, 0.4916, 0.3494, 0.2324, 0.1865, 0.1432),
    "S": (2.113, 0.9872, 0.5849, 0.4053, 0.2585, 0.2020, 0.1506),
    "Cl": (2.425, 1.117, 0.6483, 0.4395, 0.2696, 0.2050, 0.1480),
    "K": (3.413, 1.541, 0.8679, 0.5678, 0.3251, 0.2345, 0.1582),
    "Ca": (4.080, 1.830, 1.019, 0.6578, 0.3656, 0.2571, 0.1674),
    "Fe": (8.176, 3.629, 1.958, 1.205, 0.5952, 0.3717, 0.1964),
    "I": (46.9, 22.10, 12.32, 7.579, 3.510, 1.942, 0.6978),  # 30 keV: as if the K edge (33) lay below
}

WATER = {"H": 0.1119, "O": 0.8881}
ADIPOSE = {"H": 0.114, "C": 0.598, "N": 0.007, "O": 0.278, "Na": 0.001, "S": 0.001, "Cl": 0.001}
MUSCLE = {"H": 0.102, "C": 0.143, "N": 0.034, "O": 0.710, "Na": 0.001, "P": 0.002, "S": 0.003, "Cl": 0.001, "K": 0.004}
BRAIN = {"H": 0.107, "C": 0.145, "N": 0.022, "O": 0.712, "Na": 0.002, "P": 0.004, "S": 0.002, "Cl": 0.003, "K": 0.003}
GREY = {"H": 0.107, "C": 0.095, "N": 0.018, "O": 0.767, "Na": 0.002, "P": 0.003, "S": 0.002, "Cl": 0.003, "K": 0.003}
WHITE = {"H": 0.106, "C": 0.194, "N": 0.025, "O": 0.661, "Na": 0.002, "P": 0.004, "S": 0.002, "Cl": 0.003, "K": 0.003}
BLOOD = {"H": 0.102, "C": 0.110, "N": 0.033, "O": 0.745, "Na": 0.001, "P": 0.001, "S": 0.002, "Cl": 0.003, "K": 0.002,
         "Fe": 0.001}
SKIN = {"H": 0.100, "C": 0.204, "N": 0.042, "O": 0.645, "Na": 0.002, "P": 0.001, "S": 0.002, "Cl": 0.003, "K": 0.001}
CARTILAGE = {"H": 0.096, "C": 0.099, "N": 0.022, "O": 0.744, "Na": 0.005, "P": 0.022, "S": 0.009, "Cl": 0.003}
LENS = {"H": 0.096, "C": 0.195, "N": 0.057, "O": 0.646, "Na": 0.001, "P": 0.001, "S": 0.003, "Cl": 0.001}
THYROID = {"H": 0.104, "C": 0.119, "N": 0.024, "O": 0.745, "Na": 0.002, "P": 0.001, "S": 0.001, "Cl": 0.002, "K": 0.001,
           "I": 0.001}
LYMPH = {"H": 0.108, "C": 0.041, "N": 0.011, "O": 0.832, "Na": 0.003, "S": 0.001, "Cl": 0.004}
GUT = {"H": 0.106, "C": 0.115, "N": 0.022, "O": 0.751, "Na": 0.001, "P": 0.001, "S": 0.001, "Cl": 0.002, "K": 0.001}
PANCREAS = {"H": 0.106, "C": 0.169, "N": 0.022, "O": 0.694, "Na": 0.002, "P": 0.002, "S": 0.001, "Cl": 0.002,
            "K": 0.002}
SPONGIOSA = {"H": 0.085, "C": 0.404, "N": 0.028, "O": 0.367, "Na": 0.001, "Mg": 0.001, "P": 0.034, "S": 0.002,
             "Cl": 0.002, "K": 0.001, "Ca": 0.074, "Fe": 0.001}
CORTICAL_BONE = {"H": 0.034, "C": 0.155, "N": 0.042, "O": 0.435, "Na": 0.001, "Mg": 0.002, "P": 0.103, "S": 0.003,
                 "Ca": 0.225}
CSF = {"H": 0.111, "O": 0.880, "Na": 0.005, "Cl": 0.004}  # Woodard and White 1986
# Teeth as hydroxyapatite Ca10(PO4)6(OH)2 in water and (dentine) collagen, by the mass shares of histology texts
ENAMEL = {"H": 0.006, "O": 0.433, "P": 0.178, "Ca": 0.383}  # 96 % mineral, 4 % water
DENTINE = {"H": 0.027, "C": 0.100, "N": 0.035, "O": 0.428, "P": 0.130, "Ca": 0.280}  # 70 % mineral, 20 % collagen

# tissue of the phantom: (composition, density g/cm3). "our choice" where no table has the tissue.
TISSUE_MATERIALS = {
    "skin": (SKIN, 1.09), "fat": (ADIPOSE, 0.95), "muscle": (MUSCLE, 1.05),
    "grey matter": (GREY, 1.04), "white matter": (WHITE, 1.04), "cerebellum": (BRAIN, 1.04),
    "brainstem": (BRAIN, 1.04), "cord": (BRAIN, 1.04), "nerve": (BRAIN, 1.04), "pituitary": (BRAIN, 1.04),
    "csf": (CSF, 1.01), "vitreous": (CSF, 1.01), "fluid": (LYMPH, 1.03), "necrosis": (LYMPH, 1.03),  # our choice
    "cortical bone": (CORTICAL_BONE, 1.92), "spongy bone": (SPONGIOSA, 1.18),
    "disc": (CARTILAGE, 1.08), "cartilage": (CARTILAGE, 1.10),  # disc: our choice, cartilage with more water
    "mucosa": (GUT, 1.03), "parotid": (PANCREAS, 1.00), "submandibular": (PANCREAS, 1.04),  # parotid: fatty, our choice
    "vessel": (BLOOD, 1.06), "artery": (BLOOD, 1.06), "thyroid": (THYROID, 1.05), "lens": (LENS, 1.07),
    "tumour": (GUT, 1.05), "lymph node": (GUT, 1.04), "dura": (SKIN, 1.06),  # our choice
    "enamel": (ENAMEL, 2.95), "dentin": (DENTINE, 2.14),
}

METAL_HU = 8000.0  # how fillings are marked in ideal HU, beyond a scanner's 3071: our choice
STORED_HU = 3071.0  # the largest HU of a 12-bit scanner
METAL_G_CM3 = 8.3  # a cobalt-chromium crown; iron lies between the two elements (our choice)
BONE_STARTS_HU, BONE_IS_PURE_HU = 100.0, 1600.0  # between them a voxel is part water, part bone (our choice)
CT_KVP = 120.0
FILTER_MM_AL = 6.0  # of the CT; with the next line SpekPy gives a mean of 77 keV, as here
KVP_LIMITS = (40.0, 150.0)  # what the attenuation table holds
HARDENED_BY_MM = 200.0  # of water: the beam for which HU are defined


def mass_attenuation(composition: dict[str, float], energy_kev: np.ndarray) -> np.ndarray:
    """{element: mass fraction} at energies (e,) -> (e,) [cm2/g], log-log interpolated."""
    table = sum(share * np.array(ELEMENT_CM2_G[element]) for element, share in composition.items())
    return np.exp(np.interp(np.log(energy_kev), np.log(ENERGY_KEV), np.log(table)))


def check_kvp(kvp: float) -> None:
    """Raises ValueError for a tube voltage that `spectrum` cannot give."""
    if not KVP_LIMITS[0] <= kvp <= KVP_LIMITS[1]:
        raise ValueError(f"kvp = {kvp:g}: expected {KVP_LIMITS[0]:g} to {KVP_LIMITS[1]:g}")


def spectrum(kvp: float, filter_mm_al: float) -> tuple[np.ndarray, np.ndarray]:
    """Energies (e,) [keV] and the share of the detector's signal that each brings (e,), sum 1.

    Kramers' law behind an aluminium filter, on a detector that integrates energy. No characteristic lines: our choice.
    """
    energy_kev = np.arange(30.0, kvp, 10.0)
    signal = (kvp - energy_kev) * np.exp(-filter_mm_al * 0.27 * mass_attenuation({"Al": 1.0}, energy_kev))
    return energy_kev, signal / signal.sum()


def linear_attenuation(composition: dict[str, float], g_cm3: float, energy_kev: np.ndarray) -> np.ndarray:
    """-> (e,) [1/mm]."""
    return mass_attenuation(composition, energy_kev) * g_cm3 / 10


def hu_of(composition: dict[str, float], g_cm3: float, kvp: float = CT_KVP,
          filter_mm_al: float = FILTER_MM_AL) -> float:
    """HU of a material in the middle of a head, where the beam has passed HARDENED_BY_MM of water."""
    energy_kev, signal = spectrum(kvp, filter_mm_al)
    water = linear_attenuation(WATER, 1.0, energy_kev)
    signal = signal * np.exp(-water * HARDENED_BY_MM)
    return float(1000 * (signal @ linear_attenuation(composition, g_cm3, energy_kev) / (signal @ water) - 1))


def hu_of_tissues(kvp: float = CT_KVP) -> dict[str, float]:
    """{tissue of the phantom: HU}; contrast media, partial volume and the patient's own density are not in it."""
    return {"air": -1000.0, **{name: hu_of(*material, kvp=kvp) for name, material in TISSUE_MATERIALS.items()}}


def split_materials(hu: np.ndarray) -> np.ndarray:
    """Ideal HU (z, y, x) -> (3, z, y, x) float32: water-like, bone-like and metal part of each voxel.

    The first two in units of water's attenuation on the CT's HU scale (their sum is 1 + HU / 1000); metal as the share
    of the voxel that it fills, taken to be a full tooth otherwise.
    """
    hu = np.clip(hu, -1000, METAL_HU).astype(np.float32)
    metal = np.clip((hu - STORED_HU) / (METAL_HU - STORED_HU), 0, 1)
    relative = 1 + np.minimum(hu, STORED_HU) / 1000
    bone_share = np.clip((hu - BONE_STARTS_HU) / (BONE_IS_PURE_HU - BONE_STARTS_HU), 0, 1)
    return np.stack([relative * (1 - bone_share), relative * bone_share, metal]).astype(np.float32)


def attenuation_of_parts(energy_kev: np.ndarray) -> np.ndarray:
    """(3, e) [1/mm]: attenuation of one unit of each part that `split_materials` tells apart.

    Water; as much bone as attenuates like water in the CT's beam; a voxel full of metal.
    """
    water = linear_attenuation(WATER, 1.0, energy_kev)
    bone = linear_attenuation(CORTICAL_BONE, 1.92, energy_kev) / (1 + hu_of(CORTICAL_BONE, 1.92) / 1000)
    return np.stack([water, bone, linear_attenuation({"Fe": 1.0}, METAL_G_CM3, energy_kev)])
