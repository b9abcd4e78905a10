"""Facts of the phantom's x-ray scans: attenuation by composition, cone-beam geometry, CBCT artefacts, CT, metal."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from phantom.cbct import IDEAL, CbctSettings, acquire_cbct, add_swallow, scatter_behind, simulate_cbct
from phantom.composition import (
    CORTICAL_BONE,
    ENERGY_KEV,
    METAL_HU,
    MUSCLE,
    TISSUE_MATERIALS,
    WATER,
    hu_of_tissues,
    mass_attenuation,
)
from phantom.conebeam import (
    ConeBeam,
    Surroundings,
    centred_axis,
    forward_project,
    reconstruct_fdk,
    redundancy_weights,
)
from phantom.ct import CtSettings, acquire_ct
from phantom.scans import draw_patient, hu_texture, textured_hu
from phantom.settings import PhantomSettings
from phantom.tissues import TISSUE_ID
from phantom.traits import AnatomySettings

CPU = "cpu"
SPACING_MM = (6.0, 4.0, 4.0)
FULL_CIRCLE = CbctSettings(**IDEAL, arc_degree=360.0, views=120)
SHORT_SCAN = replace(FULL_CIRCLE, arc_degree=200.0)
HALF_FAN = replace(FULL_CIRCLE, fan="half")


pytestmark = pytest.mark.usefixtures("one_thread")


def plane(size: int = 64, step_mm: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """y and x of each pixel [mm]."""
    axis = centred_axis(size, step_mm).numpy()
    return np.meshgrid(axis, axis, indexing="ij")


def disc(radius_mm: float, y0: float = 0.0, x0: float = 0.0, size: int = 64, step_mm: float = 4.0) -> np.ndarray:
    """Share of each pixel inside a disc, about."""
    y, x = plane(size, step_mm)
    return np.clip(0.5 + (radius_mm - np.hypot(y - y0, x - x0)) / step_mm, 0, 1)


def water_cylinder(radius_mm: float = 70.0, slices: int = 16) -> np.ndarray:
    """HU (z, y, x) on SPACING_MM."""
    return np.repeat((-1000 + 1000 * disc(radius_mm))[None], slices, axis=0).astype(np.float32)


def head_like(slices: int = 16) -> np.ndarray:
    """A water cylinder with two bones and an airway."""
    hu = water_cylinder()[0]
    for y0, x0, radius, value in ((-20, -40, 12, 1100), (-20, 40, 12, 1100), (30, 0, 14, 700), (-15, 0, 9, -1000)):
        hu += disc(radius, y0, x0) * (value - hu)
    return np.repeat(hu[None], slices, axis=0).astype(np.float32)


DISTANCE_MM = np.hypot(*plane())
INSIDE = DISTANCE_MM < 60


def cbct_of(hu: np.ndarray, settings: CbctSettings, seed: int = 0, **more) -> np.ndarray:
    return simulate_cbct(hu, SPACING_MM, seed, settings, device=CPU, **more)


def error_hu(hu: np.ndarray, settings: CbctSettings) -> float:
    return float(np.abs(cbct_of(hu, settings) - hu)[:, INSIDE].mean())


# --------------------------------------------------------------------------------------------------------- compositions
@pytest.mark.parametrize(("composition", "published"), [
    (WATER, (0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505)),
    (CORTICAL_BONE, (1.331, 0.6655, 0.4242, 0.3148, 0.2229, 0.1855, 0.1480)),
    (MUSCLE, (0.3783, 0.2685, 0.2262, 0.2048, 0.1823, 0.1693, 0.1492))])
def test_elements_add_up_to_the_published_mixtures(composition, published):
    """NIST lists these mixtures on their own pages."""
    assert mass_attenuation(composition, np.array(ENERGY_KEV)) == pytest.approx(published, rel=3e-3)


def test_mass_fractions_sum_to_one():
    for name, (composition, _) in TISSUE_MATERIALS.items():
        assert sum(composition.values()) == pytest.approx(1, abs=0.0015), name


def test_hu_from_compositions_are_those_of_a_120_kvp_scanner():
    """Against the same ICRU-44 materials in SpekPy's 120 kVp spectrum (mean 77 keV behind 20 cm of water)."""
    hu = hu_of_tissues()
    expected_hu = {"muscle": 43, "fat": -80, "skin": 74, "cartilage": 106, "vessel": 57, "lens": 48}
    for name, expected in expected_hu.items():
        assert hu[name] == pytest.approx(expected, abs=4), name
    assert hu["cortical bone"] == pytest.approx(1668, rel=0.03) and hu["spongy bone"] == pytest.approx(315, rel=0.03)
    assert 3 < hu["grey matter"] - hu["white matter"] < 12
    assert hu_of_tissues(kvp=100.0)["cortical bone"] > hu["cortical bone"] + 50           # bone gains at lower voltage


# ------------------------------------------------------------------------------------------------------------- geometry
def test_a_ray_through_a_sphere_measures_its_chord():
    radius, step = 50.0, 2.0
    axis = centred_axis(80, step)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    sphere = (0.5 + (radius - torch.sqrt(z ** 2 + y ** 2 + x ** 2)) / step).clamp(0, 1)
    scan = ConeBeam(n_views=3, n_u=21, n_v=21, pixel_u_mm=4.0, pixel_v_mm=4.0)
    paths = forward_project(sphere[None], (step, step, step), scan, radius_mm=60.0)[:, 0]
    u, v = scan.u_mm()[None, :], scan.v_mm()[:, None]
    distance = torch.sqrt(u ** 2 + v ** 2) / torch.sqrt(1 + (u ** 2 + v ** 2) / scan.source_isocentre_mm ** 2)
    chord = 2 * torch.sqrt((radius ** 2 - distance ** 2).clamp(min=0))
    inside = distance < 0.9 * radius
    assert (paths - chord).abs()[:, inside].max() < 1.0                                  # of up to 100 mm


def test_what_lies_near_the_source_is_magnified_more():
    """A bead 60 mm from the axis casts its shadow at u = l / (1 + t / D): 60 mm nearer to the source, farther out."""
    step = 2.0
    y, x = (torch.from_numpy(a) for a in plane(96, step))
    scan = ConeBeam(n_views=4, n_u=160, n_v=2, pixel_u_mm=1.0, pixel_v_mm=2.0)
    angle = scan.view_angles()[0]
    for depth in (-60.0, 0.0, 60.0):
        lateral = 40.0
        x0 = depth * math.cos(angle) - lateral * math.sin(angle)
        y0 = depth * math.sin(angle) + lateral * math.cos(angle)
        bead = (0.5 + (5 - torch.hypot(y - y0, x - x0)) / step).clamp(0, 1)[None].expand(8, -1, -1).float()
        shadow = forward_project(bead[None], (step, step, step), scan, radius_mm=90.0, views=range(1))[0, 0, 0]
        u_mm = float((shadow * scan.u_mm()).sum() / shadow.sum())
        assert u_mm == pytest.approx(lateral / (1 + depth / 1000), abs=0.3)


@pytest.mark.parametrize("settings", [FULL_CIRCLE, SHORT_SCAN, HALF_FAN], ids=["full", "short", "half fan"])
def test_an_asymmetric_object_comes_back_where_it_was(settings):
    """Beads of different density off all axes: place within 1 mm, density within 6 %, no mirror image."""
    hu = water_cylinder()
    beads = ((-30.0, 20.0, 300.0), (10.0, -42.0, 600.0), (35.0, 30.0, 900.0))
    for y0, x0, value in beads:
        hu += (value * disc(10, y0, x0)).astype(np.float32)
    hu[10:] = water_cylinder()[10:]                                                       # the upper slices hold none
    rebuilt, y_x = cbct_of(hu, settings), plane()
    for y0, x0, value in beads:
        near = np.hypot(y_x[0] - y0, y_x[1] - x0) < 18
        weight, truth = (np.clip(volume[4], 0, None) * near for volume in (rebuilt, hu))
        for axis, at in zip(y_x, (y0, x0), strict=True):
            assert (weight * axis).sum() / weight.sum() == pytest.approx(at, abs=1.0)
        assert weight.sum() == pytest.approx(truth.sum(), rel=0.06)
    assert np.abs(rebuilt[14][INSIDE]).max() < 30
    assert rebuilt[2][INSIDE].max() > 250


def test_fdk_keeps_the_scale_off_the_middle_plane():
    """A short cylinder, away from its ends: the cone angle costs little within the middle two thirds."""
    axis_z, axis = centred_axis(32, 4.0), centred_axis(64, 4.0)
    z, y, x = torch.meshgrid(axis_z, axis, axis, indexing="ij")
    body = ((0.5 + (40 - torch.hypot(x, y)) / 4).clamp(0, 1) * (0.5 + (40 - z.abs()) / 4).clamp(0, 1))[None]
    scan = ConeBeam(n_views=60, n_u=64, n_v=44, pixel_u_mm=2.0, pixel_v_mm=4.0)
    paths = forward_project(body, (4.0, 4.0, 4.0), scan, radius_mm=50.0)
    volume = reconstruct_fdk(paths[:, 0], (4.0, 4.0, 4.0), (32, 64, 64), scan)
    core = (torch.hypot(x, y) < 28) & (z.abs() < 27)
    assert abs(float(volume[core].mean()) - 1) < 0.02


def test_half_fan_and_short_scan_agree_with_the_full_circle():
    """Noise-free, within 4 HU on average and 25 HU anywhere away from edges."""
    hu = head_like()
    full = cbct_of(hu, FULL_CIRCLE)
    for other in (SHORT_SCAN, HALF_FAN):
        difference = np.abs(cbct_of(hu, other) - full)[:, INSIDE]
        assert difference.mean() < 4 and difference.max() < 25


def test_a_ray_and_its_opposite_count_one():
    """Parker: weight(beta, gamma) + weight(beta + 180 + 2 gamma, -gamma) = 1."""
    scan = ConeBeam(n_views=400, n_u=41, n_v=1, pixel_u_mm=5.0, pixel_v_mm=1.0, arc_degree=200.0)
    weights, gamma = redundancy_weights(scan).numpy(), np.degrees(np.arctan(scan.u_mm().numpy() / 1000))
    beta = np.degrees(scan.view_angles())
    for u in (0, 8, 20, 33, 40):
        opposite = np.interp(beta + 180 + 2 * gamma[u], beta, weights[:, 40 - u], right=np.nan)
        both = ~np.isnan(opposite)
        assert both.any() and (weights[both, u] + opposite[both]) == pytest.approx(1, abs=0.01)


def test_impossible_scans_are_refused():
    with pytest.raises(ValueError, match="at least 19"):
        cbct_of(water_cylinder(120), replace(SHORT_SCAN, arc_degree=181.0))
    with pytest.raises(ValueError, match="half-fan scan needs"):
        CbctSettings(fan="half")
    with pytest.raises(ValueError, match="reach beyond the axis"):
        cbct_of(water_cylinder(), replace(HALF_FAN, half_fan_offset_mm=300.0))
    with pytest.raises(ValueError, match="check the spacing"):
        simulate_cbct(water_cylinder(), (6.0, 60.0, 60.0), 0, FULL_CIRCLE, device=CPU)


# ------------------------------------------------------------------------------------------------------- CBCT artefacts
@pytest.mark.parametrize("arc_degree", [360.0, 200.0])
@pytest.mark.parametrize("beam_hardening", [False, True])
def test_water_is_flat_without_scatter(arc_degree, beam_hardening):
    """+-15 HU everywhere, behind a bowtie too: the water calibration takes its hardening out."""
    cbct = cbct_of(water_cylinder(), replace(FULL_CIRCLE, arc_degree=arc_degree, beam_hardening=beam_hardening))
    assert np.abs(cbct[:, INSIDE]).max() < 15
    assert (cbct[:, DISTANCE_MM > 95] == -1000).all()


def test_scatter_makes_a_cup():
    """Half of it left uncorrected: the centre lies 30-120 HU below the rim, and more scatter digs deeper."""
    depth = []
    for ratio in (0.4, 0.8):
        settings = replace(FULL_CIRCLE, scatter_to_primary=(ratio, ratio), scatter_left=(0.5, 0.5))
        cbct = cbct_of(water_cylinder(), settings)
        depth.append(float(cbct[:, (DISTANCE_MM > 50) & INSIDE].mean() - cbct[:, DISTANCE_MM < 15].mean()))
    assert 30 < depth[0] < depth[1] < 120


def test_a_perfect_scatter_correction_leaves_no_cup():
    corrected = replace(FULL_CIRCLE, scatter_to_primary=(0.8, 0.8), scatter_left=(0.0, 0.0))
    assert np.abs(cbct_of(water_cylinder(), corrected)[:, INSIDE]).max() < 15


def test_the_scatter_to_primary_ratio_is_that_behind_a_wide_slab():
    scan = ConeBeam(n_views=1, n_u=40, n_v=24, pixel_u_mm=4.0, pixel_v_mm=4.0)
    behind_slab = math.exp(-FULL_CIRCLE.beam.slab_attenuation(180.0))
    primary = torch.full((1, 24, 40), behind_slab)
    scatter = scatter_behind(primary, torch.ones(40), scan, FULL_CIRCLE)
    assert (scatter / primary).numpy() == pytest.approx(1, rel=1e-3)


def test_what_lies_between_patient_and_picture_fits_together():
    """Less arrives behind longer paths; the detector counts primary and scatter; correction gives the paths back."""
    settings = replace(FULL_CIRCLE, scatter_to_primary=(0.5, 0.5), scatter_left=(0.0, 0.0))
    scan = acquire_cbct(head_like(), SPACING_MM, 0, settings, device=CPU)
    paths_mm = scan.paths_mm.sum(dim=1)
    column = scan.geometry.n_u // 2                                                       # behind one bowtie thickness
    longer_mm, order = paths_mm[:, :, column].flatten().sort()
    primary = scan.primary[:, :, column].flatten()[order]
    assert longer_mm[-1] > longer_mm[0] + 10 and (primary.diff() <= 1e-6).all() and primary[-1] < 0.9 * primary[0]
    assert scan.scatter.min() > 0 and torch.equal(scan.counts, scan.primary + scan.scatter)
    assert (scan.water_path_mm - paths_mm).abs().max() < 1.0


def test_noise_variance_goes_as_one_over_photons():
    """Over a decade, in the difference from the noise-free scan of one object."""
    variance = {}
    clean = cbct_of(water_cylinder(), FULL_CIRCLE)
    for log10 in (4.0, 5.0):
        noisy = replace(FULL_CIRCLE, noise=True, electronic_noise=0.0, photons_log10=(log10, log10))
        variance[log10] = float((cbct_of(water_cylinder(), noisy) - clean)[:, INSIDE].var())
    assert variance[4.0] / variance[5.0] == pytest.approx(10, rel=0.1)


def test_beam_hardening_darkens_between_bones():
    hu = water_cylinder()
    y, x = plane()
    for centre in (-40, 40):
        hu[:, np.hypot(x - centre, y) < 14] = 1500
    between, beside = (np.abs(x) < 8) & (np.abs(y) < 4), (np.abs(x) < 4) & (np.abs(np.abs(y) - 45) < 6)
    change = cbct_of(hu, replace(FULL_CIRCLE, beam_hardening=True)) - cbct_of(hu, FULL_CIRCLE)
    assert change[:, between].mean() < change[:, beside].mean() - 3


@pytest.mark.parametrize("fault", [{"noise": True, "photons_log10": (3.0, 3.0)}, {"lag": 0.1}, {"ring_gain": 0.01},
                                   {"drift_mm": (2.0, 2.0)}, {"swallow_chance": 1.0, "swallow_share": 0.3},
                                   {"scatter_to_primary": (0.8, 0.8), "scatter_left": (0.4, 0.4)}, {"views": 20}],
                         ids=lambda fault: next(iter(fault)))
def test_each_imperfection_raises_the_error(fault):
    hu = head_like()
    assert error_hu(hu, replace(FULL_CIRCLE, **fault)) > error_hu(hu, FULL_CIRCLE) + 1


def test_gain_errors_make_rings():
    """The same all the way round: along a circle the error is far more alike than it is across circles."""
    hu = water_cylinder()
    error = (cbct_of(hu, replace(FULL_CIRCLE, ring_gain=0.01)) - cbct_of(hu, FULL_CIRCLE))[8]
    rings = [error[(DISTANCE_MM >= r) & (DISTANCE_MM < r + 4)] for r in range(8, 56, 4)]
    means = np.array([ring.mean() for ring in rings])
    shuffled = np.random.default_rng(0).permutation(np.concatenate(rings))
    by_chance = np.array([part.mean() for part in np.split(shuffled, np.cumsum([len(r) for r in rings])[:-1])])
    assert means.std() > 2 * by_chance.std()


def test_a_swallow_touches_the_throat_alone_and_only_for_its_share_of_the_views():
    hu, settings = head_like(), replace(FULL_CIRCLE, swallow_share=0.25)
    step = acquire_cbct(hu, SPACING_MM, 0, settings, device=CPU)
    paths = step.paths_mm.clone()
    add_swallow(paths, hu, SPACING_MM, step.geometry, 76.0, np.random.default_rng(1), settings)
    longer = (paths - step.paths_mm)[:, 0]
    assert longer.min() > -1e-3 and 14 < longer.max() < 25                               # an airway 18 mm wide
    assert ((longer.amax(dim=(1, 2)) > 1).sum() == 30)                                   # of 120 views
    assert (longer.amax(dim=(0, 1))[step.geometry.u_mm().abs() > 40] < 1e-3).all()


def surrounded(slices: int = 16) -> tuple[np.ndarray, Surroundings]:
    """A narrow box cut out of wide shoulders."""
    y, x = plane(60, 8.0)
    shoulders = np.where(np.hypot(y / 70, x / 210) < 1, 0.0, -1000.0).astype(np.float32)
    wide = Surroundings(np.repeat(shoulders[None], 24, axis=0), (12.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    y, x = plane()
    box = np.where(np.hypot(y / 70, x / 210) < 1, 0.0, -1000.0).astype(np.float32)
    return np.repeat(box[None], slices, axis=0), wide


def test_shoulders_beyond_the_field_raise_the_error_at_its_edge():
    box, wide = surrounded()
    y, x = plane()
    edge = (np.abs(y) < 40) & (np.abs(x) > 95) & (np.abs(x) < 115)
    for seen, settings in ((True, FULL_CIRCLE), (False, SHORT_SCAN)):
        with_them, without = cbct_of(box, settings, surroundings=wide), cbct_of(box, settings)
        rise = np.abs(with_them)[4:12, edge].mean() - np.abs(without)[4:12, edge].mean()
        assert rise > 20, f"full circle: {seen}"
        rows = np.abs(y) < 20
        centre = np.abs(with_them)[4:12, rows & (np.abs(x) < 30)].mean()
        assert centre < np.abs(with_them)[4:12, edge].mean()


def test_surroundings_inside_the_box_change_nothing():
    """What the box tells is not counted twice: a cylinder within it, told by both, projects as it does alone."""
    hu = water_cylinder()
    axis = plane(60, 8.0)
    wide = np.where(np.hypot(*axis) < 70, 0.0, -1000.0).astype(np.float32)
    around = Surroundings(np.repeat(wide[None], 24, axis=0), (12.0, 8.0, 8.0), (0.0, 0.0, 0.0))
    difference = cbct_of(hu, FULL_CIRCLE, surroundings=around) - cbct_of(hu, FULL_CIRCLE)
    assert np.abs(difference[2:-2][:, INSIDE]).max() < 5


def test_cbct_works_on_any_grid_and_a_seed_fixes_it():
    hu = water_cylinder(90)[:10, 4:, 8:]
    first, again, other = (simulate_cbct(hu, (5.0, 4.0, 4.0), seed, CbctSettings(views=60), device=CPU)
                           for seed in (1, 1, 2))
    assert first.shape == (10, 60, 56)
    assert np.isfinite(first).all() and first.min() >= -1000 and first.max() <= 3071
    assert (first == again).all() and (first != other).any()


# ------------------------------------------------------------------------------------------------------------------- CT
def test_ct_noise_is_larger_behind_more_attenuation():
    thin, thick = (acquire_ct(water_cylinder(radius), SPACING_MM, 0, device=CPU).noise[:, DISTANCE_MM < 25].std()
                   for radius in (50, 100))
    # 100 mm more water at 77 keV, 0.0185 / mm: e^1.85 fewer photons, 2.5 times the noise
    assert thick / thin == pytest.approx(2.5, rel=0.1)
    long_axis = np.where(np.hypot(plane()[0] / 40, plane()[1] / 120) < 1, 0.0, -1000.0).astype(np.float32)
    noise = acquire_ct(np.repeat(long_axis[None], 16, axis=0), SPACING_MM, 0, device=CPU).noise[:, 26:38, 26:38]
    along, across = (np.mean(noise * np.roll(noise, 1, axis=axis)) for axis in (2, 1))
    assert along > across                                                               # bands run along the long axis


def test_ct_noise_is_correlated_between_neighbours():
    noise = acquire_ct(water_cylinder(), SPACING_MM, 0, device=CPU).noise[:, 16:48, 16:48]
    neighbours = np.corrcoef(noise[:, :, 1:].ravel(), noise[:, :, :-1].ravel())[0, 1]
    assert abs(neighbours) > 0.05 and abs(np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1]) < 0.05


def with_fillings() -> tuple[np.ndarray, np.ndarray]:
    """HU of a head with two fillings in slices 6-8, and (y, x) well away from them."""
    hu = head_like()
    for x0 in (-34.0, 34.0):
        hu[6:9] += (disc(4, -30, x0) * (METAL_HU - hu[6:9])).astype(np.float32)
    far = INSIDE & (hu[7] < 100) & (hu[7] > -100)
    for x0 in (-34.0, 34.0):
        far &= np.hypot(plane()[0] + 30, plane()[1] - x0) > 15
    return hu, far


def test_metal_makes_streaks_outside_the_metal_and_leaves_other_slices_alone():
    hu, far = with_fillings()
    settings = CtSettings(noise=False)
    scan, bare = (acquire_ct(hu, SPACING_MM, 0, s, device=CPU) for s in (settings, replace(settings, streaks=False)))
    y, x = plane()
    assert np.abs(scan.streaks[6:9][:, far]).mean() > 10
    assert scan.streaks[7][(np.abs(x) < 15) & (np.abs(y + 30) < 4)].mean() < -30          # dark between the two
    without_metal = [k for k in range(len(hu)) if not 6 <= k < 9]
    assert (scan.streaks[without_metal] == 0).all() and (scan.hu[without_metal] == bare.hu[without_metal]).all()
    assert scan.hu.max() == 3071


def test_ct_without_noise_is_the_blurred_patient():
    hu = head_like()
    assert np.abs(acquire_ct(hu, SPACING_MM, 0, CtSettings(noise=False), device=CPU).hu - hu)[8][INSIDE].mean() < 20


def test_a_patient_without_fillings_gets_no_streaks():
    """Dense enamel does not pass for metal."""
    without_fillings = replace(PhantomSettings(), anatomy=AnatomySettings(filled_share=0.0))
    patient = draw_patient(seed=0, index=1, size=64, settings=without_fillings)
    hu = textured_hu(patient.planned, hu_texture(patient.grid, patient.streams))
    assert patient.planned.metal is None and (patient.planned.label == TISSUE_ID["enamel"]).any()
    scan = acquire_ct(hu, patient.grid.spacing_mm, 0, CtSettings(noise=False), patient.around, CPU)
    assert (scan.streaks == 0).all()
