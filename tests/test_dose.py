"""Plans, recalculated doses, DVHs and gamma against facts of the field and independent implementations."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest

from vaelite.dose.altered_ct import SWEEPS, bulk_density, noise, shifted, truncated, water
from vaelite.dose.evaluation import one_beam_table, telling_curves
from vaelite.dose.gamma import gamma_map, gamma_of_slice, gamma_pass_rate
from vaelite.dose.metrics import dvh, dvh_metrics, target_dose_error, target_dose_shift
from vaelite.dose.plan import (
    DoseConfig,
    depth_dose_in_water,
    load_plan,
    plan_imrt,
    radiological_depth,
    recalculate,
    relative_density_table,
    save_plan,
)
from vaelite.errors import VaeliteError

SHAPE, SPACING_MM = (24, 48, 48), (6.0, 4.5, 4.5)           # z y x
CONFIG = DoseConfig(n_fields=5, bixel_mm=12.0, grid_mm=5.0, iterations=40)
GAMMA = {"normalisation_gy": 70.0, "cutoff_percent": 10.0, "mode": "global"}


def ellipsoid(centre_mm, radius_mm):
    """centre and radius as (x, y, z) from the middle of the grid; x to the left, y to the back, z up."""
    z, y, x = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(SHAPE, SPACING_MM)], indexing="ij")
    return sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), centre_mm, radius_mm)) <= 1


@pytest.fixture(scope="module")
def head():
    """CT [HU], structures and body of an egg-shaped head: skull, sinus, a target on the left, organs around it."""
    body = ellipsoid((0, 0, 0), (75, 92, 150))
    skull = ellipsoid((0, 0, 0), (70, 87, 100)) & ~ellipsoid((0, 0, 0), (60, 77, 90))
    ct_hu = np.where(body, 40, -1000).astype(np.float32)
    ct_hu[skull & body] = 900
    ct_hu[ellipsoid((0, -50, 0), (14, 18, 24))] = -1000
    structures = {
        "PTV": ellipsoid((22, -5, 0), (24, 24, 26)), "PTV56": ellipsoid((22, -5, -20), (30, 28, 40)),
        "SpinalCord": ellipsoid((0, 40, -30), (8, 8, 40)), "Brainstem": ellipsoid((0, 38, 25), (14, 14, 16)),
        "Parotid_L": ellipsoid((56, 5, 0), (10, 16, 22)), "Parotid_R": ellipsoid((-56, 5, 0), (10, 16, 22)),
        "Larynx": np.zeros(SHAPE, bool), "Mandible": ellipsoid((22, -5, 0), (12, 12, 12)),
    }
    return ct_hu, structures, body


@pytest.fixture(scope="module")
def plan(head):
    ct_hu, structures, body = head
    return plan_imrt(ct_hu, SPACING_MM, structures, body, {"PTV56": 56.0, "PTV": 70.0}, CONFIG)


def smooth_dose(shape=(14, 16, 18), spacing_mm=(3.0, 2.5, 2.0), shift_mm=0.0, seed=None):
    """A plateau of 70 Gy with soft edges, shifted along x; with a seed, also disturbed by a smooth random field."""
    z, y, x = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm)], indexing="ij")
    x = x - shift_mm
    dose_gy = 70 / (1 + np.exp((np.sqrt(x**2 + y**2 + z**2) - 11) / 2))
    if seed is not None:
        waves = np.random.default_rng(seed).uniform(-0.4, 0.4, (6, 3))
        dose_gy = dose_gy * (1 + 0.012 * sum(np.sin(a * z + b * y + c * x) for a, b, c in waves))
    return dose_gy


# ---------------------------------------------------------------- plan and recalculation


def test_the_plan_covers_its_targets_and_spares_the_organs(plan, head):
    _, structures, body = head
    lower = structures["PTV56"] & ~structures["PTV"]
    rows = dvh_metrics(plan.dose_gy, {**structures, "PTV56": lower, "Larynx": body}, plan.prescriptions_gy)
    value = {(row["structure"], row["metric"]): row["value"] for row in rows}
    assert value["PTV", "D50"] == pytest.approx(70, abs=1e-3)
    assert value["PTV", "D95"] > 0.93 * 70 and value["PTV", "D2"] < 1.08 * 70
    assert value["PTV56", "D95"] > 0.9 * 56
    assert value["SpinalCord", "Dmax"] < 45 and value["Brainstem", "Dmax"] < 54
    assert value["Parotid_R", "Dmean"] < 26 < value["Parotid_L", "Dmean"], "the parotid inside the low-dose target pays"
    assert plan.dose_gy.shape == SHAPE and plan.dose_gy.dtype == np.float32 and not plan.dose_gy[~body].any()


def test_the_plan_says_what_it_left_out(plan):
    assert plan.left_out == ("Larynx", "Mandible"), "an empty organ, and one that lies wholly inside a target"


def test_optimisation_only_goes_down_and_is_deterministic(plan, head):
    ct_hu, structures, body = head
    assert np.all(np.diff(plan.cost) <= 0) and plan.cost[-1] < 0.1 * plan.cost[0]
    again = plan_imrt(ct_hu, SPACING_MM, structures, body, plan.prescriptions_gy, CONFIG)
    np.testing.assert_array_equal(again.dose_gy, plan.dose_gy)


def test_recalculation_on_the_same_ct_is_the_plan(plan, head):
    np.testing.assert_allclose(recalculate(plan, head[0]), plan.dose_gy, atol=1e-4)


def test_what_lies_outside_the_body_does_not_matter(plan, head):
    ct_hu, _, body = head
    np.testing.assert_allclose(recalculate(plan, np.where(body, ct_hu, 500.0)), plan.dose_gy, atol=1e-4)


def test_denser_bone_lowers_the_dose_behind_it(plan, head):
    ct_hu, structures, _ = head
    denser, lighter = (recalculate(plan, np.where(ct_hu > 500, hu, ct_hu)) for hu in (1800.0, 40.0))
    inside = structures["PTV"]
    assert denser[inside].mean() < 0.99 * plan.dose_gy[inside].mean() < 0.99 * lighter[inside].mean()
    assert target_dose_error(plan.dose_gy, plan.dose_gy, 70.0) == 0 < target_dose_error(plan.dose_gy, denser, 70.0) < 20


def test_fields_are_the_sum_of_their_beamlets(head):
    """One open field of uneven fluence against pyRadPlan's own sum over beamlets: same engine, two routes."""
    from vaelite.dose import plan as dose

    ct_hu, structures, body = head
    config = dataclasses.replace(CONFIG, n_fields=3, iterations=10, lateral_cutoff_mm=120.0)
    plan = plan_imrt(ct_hu, SPACING_MM, structures, body, {"PTV": 70.0, "PTV56": 56.0}, config)
    with dose._quiet():
        from pyRadPlan import generate_stf
        from pyRadPlan.dose import calc_dose_forward

        ct, contours = dose._patient(ct_hu, SPACING_MM, body, plan.target, config)
        settings = dose._settings(SPACING_MM, contours, config, config.lateral_cutoff_mm)
        beams = generate_stf(ct, contours, settings)
        weights = []
        for beam, fluence in zip(beams.beams, plan.fluence):
            for ray in beam.rays:
                x, _, z = np.rint(ray.ray_pos_bev / config.bixel_mm).astype(int)
                row, column = z + len(fluence) // 2, x + len(fluence) // 2
                weights.append(fluence[row, column])
        beamlets_gy = dose._array(calc_dose_forward(ct, contours, beams, settings, np.array(weights)))
    fields_gy = plan.dose_gy[dose._body_box(body, SPACING_MM, config)] / plan.monitor_units
    inside = body[dose._body_box(body, SPACING_MM, config)]
    difference = np.abs(beamlets_gy - fields_gy)[inside]
    assert difference.mean() < 0.1 and np.percentile(difference, 99) < 1.0


def test_depth_dose_of_6_mv_in_water():
    depth_cm, percent = depth_dose_in_water()
    assert np.interp(10.0, depth_cm, percent) == pytest.approx(66.5, abs=2), "BJR supplement 25: about 67 %"
    assert 1.0 <= depth_cm[percent.argmax()] <= 1.7 and percent[0] < 60
    deep = (depth_cm > 5) & (depth_cm < 25)
    assert np.all(np.diff(percent[deep]) < 0)


def test_density_table_is_water_at_zero_hu_and_rises():
    hu, density = relative_density_table()
    assert np.interp(0, hu, density) == 1 and np.all(np.diff(hu) > 0) and np.all(np.diff(density) >= 0)


def test_air_taken_for_water_costs_its_whole_length():
    line = one_beam_table({"cavity": (-1000, 0, 25), "nothing": (0, 0, 100)}, percent_per_mm=0.4).splitlines()
    name, off, shift_mm, dose = (cell.strip() for cell in line[2].strip("|").split("|"))
    assert (name, off) == ("cavity", "1000") and float(shift_mm) == pytest.approx(25, abs=0.2)
    assert float(dose.removesuffix(" %")) == pytest.approx(-10, abs=0.1) and "+0.0" in line[3]


def test_the_organ_drawn_is_the_one_whose_mean_is_most_wrong():
    planned = np.full((2, 2, 3), 10.0)
    masks = {name: np.arange(12).reshape(2, 2, 3) % 3 == i for i, name in enumerate(("PTV", "Parotid_L", "SpinalCord"))}
    other = planned + 1.0 * masks["PTV"] - 0.5 * masks["Parotid_L"] + 0.2 * masks["SpinalCord"]
    doses = {"plan": planned, "vaelite": other}
    assert list(telling_curves(doses, masks, "PTV")) == ["PTV", "Parotid_L"]
    assert list(telling_curves(doses, {"PTV": masks["PTV"]}, "PTV")) == ["PTV"]


def test_radiological_depth_of_a_water_tank_is_the_depth(plan, head):
    """In water the depth is a length; a uniform CT scales it by its density."""
    _, _, body = head
    of_water = radiological_depth(plan, water(head[0], body))
    assert of_water.shape[0] == CONFIG.n_fields and 20 < of_water.min() < of_water.max() < 200
    front = list(plan.gantry_deg).index(0.0)
    surface_mm = SPACING_MM[1] * np.argmax(body.any((0, 2)))
    target_y_mm = SPACING_MM[1] * np.nonzero(plan.target)[1]
    assert of_water[front].mean() == pytest.approx(target_y_mm.mean() - surface_mm, rel=0.15), "from the front: along y"
    hu, density = relative_density_table()
    denser = radiological_depth(plan, np.where(body, 100.0, -1000.0))
    np.testing.assert_allclose(denser / of_water, np.interp(100, hu, density), rtol=1e-5)


def test_a_plan_read_back_gives_the_same_bits(plan, head, tmp_path):
    with open(tmp_path / "plan.npz", "wb") as file:
        save_plan(plan, file)
    again = load_plan(tmp_path / "plan.npz")
    for part in dataclasses.fields(plan):
        one, other = getattr(plan, part.name), getattr(again, part.name)
        if part.name == "fluence":
            assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
        else:
            assert np.array_equal(one, other) if isinstance(one, np.ndarray) else one == other, part.name
    np.testing.assert_array_equal(recalculate(again, head[0]), recalculate(plan, head[0]))
    (tmp_path / "plan.npz").write_bytes((tmp_path / "plan.npz").read_bytes()[:1000])
    with pytest.raises(VaeliteError, match="Remove it"):
        load_plan(tmp_path / "plan.npz")


def test_planning_is_silent(head, capfd):
    ct_hu, structures, body = head
    level = logging.getLogger("pyRadPlan").level
    plan_imrt(ct_hu, SPACING_MM, structures, body, {"PTV": 70.0}, dataclasses.replace(CONFIG, n_fields=1, iterations=2))
    assert capfd.readouterr() == ("", "") and logging.getLogger("pyRadPlan").level == level


def one_voxel(mask: np.ndarray) -> np.ndarray:
    """A voxel of the mask that the coarser dose grid has no point in."""
    z, y, x = np.argwhere(mask)[0]
    found = np.zeros_like(mask)
    found[z, y, x] = True
    return found


@pytest.mark.parametrize("spoil, message", [
    (lambda a: a.update(ct_hu=a["ct_hu"][1:]), "resample"),
    (lambda a: a.update(ct_hu=np.where(a["body"], np.nan, a["ct_hu"])), "not finite"),
    (lambda a: a.update(ct_hu=a["ct_hu"] / 1500), "no Hounsfield units"),
    (lambda a: a.update(ct_hu=np.full(SHAPE, 40.0)), "no Hounsfield units"),
    (lambda a: a.update(ct_hu=a["ct_hu"] + 1024), "offset of -1024"),
    (lambda a: a.update(body=np.zeros(SHAPE, bool)), "No body"),
    (lambda a: a.update(body=None), "No body"),
    (lambda a: a.update(prescriptions_gy={}), "No prescription"),
    (lambda a: a.update(prescriptions_gy={"PTV70": 70.0}), "PTV70 is missing"),
    (lambda a: a.update(prescriptions_gy={"Larynx": 70.0}), "Larynx is empty"),
    (lambda a: a.update(prescriptions_gy={"PTV": -1.0}), "above 0 Gy"),
    (lambda a: a.update(body=a["body"] & ~ellipsoid((22, -5, 0), (12, 12, 12))), "outside the body"),
    (lambda a: a["structures"].update(PTV=np.ones((2, 2, 2), bool)), "one grid"),
    (lambda a: (a["structures"].update(Boost=one_voxel(a["structures"]["PTV"])), a.update(prescriptions_gy={"PTV": 56.0, "Boost": 70.0})),
     "Boost is too small"),
])
def test_bad_input_to_a_plan_is_refused(head, spoil, message):
    ct_hu, structures, body = head
    arguments = {"ct_hu": ct_hu, "structures": dict(structures), "body": body, "prescriptions_gy": {"PTV": 70.0}}
    spoil(arguments)
    with pytest.raises(VaeliteError, match=message):
        plan_imrt(arguments.pop("ct_hu"), SPACING_MM, **arguments, config=CONFIG)


def test_bad_input_to_a_recalculation_is_refused(plan, head):
    ct_hu, _, _ = head
    with pytest.raises(VaeliteError, match="resample"):
        recalculate(plan, ct_hu[:, 1:])
    with pytest.raises(VaeliteError, match="not finite"):
        recalculate(plan, np.full(SHAPE, np.inf))
    truncated = ct_hu.copy()
    truncated[SHAPE[0] // 2:] = -1000                       # the scanner's field of view ended half-way
    with pytest.raises(VaeliteError, match="field of view"):
        recalculate(plan, truncated)
    with pytest.raises(VaeliteError, match="dose.grid_mm"):
        DoseConfig(grid_mm=0)


# ---------------------------------------------------------------- CTs altered on purpose


def test_bulk_density_keeps_the_mean_of_bone_and_air_and_forgets_the_rest(head):
    ct_hu, _, body = head
    noisy = np.where(body, ct_hu + np.random.default_rng(0).normal(0, 30, SHAPE), ct_hu).astype(np.float32)
    bulk = bulk_density(noisy, body)
    bone, air = body & (noisy > 250), body & (noisy < -200)
    assert len(np.unique(bulk[body])) == 3 and not bulk[body & ~bone & ~air].any()
    assert bulk[bone].mean() == pytest.approx(noisy[bone].mean(), rel=1e-4)
    assert bulk[air].mean() == pytest.approx(noisy[air].mean(), rel=1e-4)
    assert np.array_equal(bulk[~body], noisy[~body]) and not water(noisy, body)[body].any()


def test_every_error_grows_from_none(head):
    """The size called "none" changes nothing; MAE grows away from it."""
    ct_hu, _, body = head
    for name, sweep in SWEEPS.items():
        mae = {amount: np.abs(sweep.alter(ct_hu, body, amount, SPACING_MM) - ct_hu)[body].mean(dtype=np.float64)
               for amount in (sweep.none, *sweep.amounts)}
        assert mae[sweep.none] == 0, name
        for side in (1, -1):
            away = sorted((side * (amount - sweep.none), error) for amount, error in mae.items()
                          if side * (amount - sweep.none) > 0)
            assert all(value > 0 for _, value in away) and [v for _, v in away] == sorted(v for _, v in away), name


def test_noise_has_the_mean_absolute_error_asked_for_and_no_bias(head):
    ct_hu, _, body = head
    error = noise(ct_hu, body, 60.0)[body].astype(np.float64) - ct_hu[body]
    assert np.abs(error).mean() == pytest.approx(60, rel=0.02) and abs(error.mean()) < 2
    assert np.array_equal(noise(ct_hu, body, 60.0), noise(ct_hu, body, 60.0)), "a seed, so twice the same"


def test_a_bias_costs_dose_and_noise_of_the_same_mae_does_not(plan, head):
    """Why MAE alone cannot say what a synthetic CT is worth."""
    ct_hu, _, body = head
    bias, grain = (recalculate(plan, other) for other in (shifted(ct_hu, body, 80.0), noise(ct_hu, body, 80.0)))
    assert target_dose_shift(plan.dose_gy, bias, 70.0) < -1
    assert abs(target_dose_shift(plan.dose_gy, grain, 70.0)) < 0.5
    depth_mm = [np.abs((radiological_depth(plan, other) - radiological_depth(plan, ct_hu)).mean(0)).mean()
                for other in (shifted(ct_hu, body, 80.0), noise(ct_hu, body, 80.0))]
    assert depth_mm[0] > 3 * depth_mm[1], "and the radiological depth tells them apart without a dose"


@pytest.mark.parametrize("alter", [water, bulk_density, lambda ct, body: truncated(ct, body, 10, SPACING_MM)])
def test_bad_input_to_an_altered_ct_is_refused(head, alter):
    ct_hu, _, body = head
    with pytest.raises(VaeliteError, match="No body"):
        alter(ct_hu, np.zeros(SHAPE, bool))
    with pytest.raises(VaeliteError, match="resample"):
        alter(ct_hu[1:], body)
    with pytest.raises(VaeliteError, match="not finite"):
        alter(np.where(body, np.nan, ct_hu), body)


# ---------------------------------------------------------------- dose-volume histograms


def test_dvh_of_a_uniform_dose_is_a_step():
    mask = np.zeros((4, 5, 6), bool)
    mask[1:3] = True
    axis_gy, volume = dvh(np.where(mask, 50.0, 7.0), mask, bins=100, max_gy=80.0)
    assert np.all(volume[axis_gy <= 50] == 100) and np.all(volume[axis_gy > 50] == 0)


def test_dvh_falls_and_its_area_is_the_mean_dose(plan, head):
    mask = head[1]["Parotid_L"]
    axis_gy, volume = dvh(plan.dose_gy, mask, bins=4000)
    assert volume[0] == 100 and volume[-1] == 0 and np.all(np.diff(volume) <= 0)
    assert np.trapezoid(volume / 100, axis_gy) == pytest.approx(plan.dose_gy[mask].mean(), abs=0.02)


def test_dvh_metrics_keep_their_order_and_units(plan, head):
    structures = {name: head[1][name] for name in ("PTV", "SpinalCord")}
    rows = dvh_metrics(plan.dose_gy, structures, plan.prescriptions_gy)
    value = {(row["structure"], row["metric"]): row["value"] for row in rows}
    assert value["PTV", "D98"] <= value["PTV", "D95"] <= value["PTV", "D50"] <= value["PTV", "D2"]
    assert value["SpinalCord", "D2"] <= value["SpinalCord", "Dmax"] == plan.dose_gy[head[1]["SpinalCord"]].max()
    assert {row["unit"] for row in rows if row["metric"] == "V95"} == {"%"}


def test_dvh_refuses_an_empty_structure_and_another_grid(plan, head):
    with pytest.raises(VaeliteError, match="Larynx is empty"):
        dvh_metrics(plan.dose_gy, {"Larynx": head[1]["Larynx"]}, plan.prescriptions_gy)
    with pytest.raises(VaeliteError, match="one grid"):
        dvh(plan.dose_gy, np.ones((2, 2, 2), bool))
    with pytest.raises(VaeliteError, match="not finite"):
        dvh(np.full(SHAPE, np.nan), head[2])
    with pytest.raises(VaeliteError, match="90 %"):
        target_dose_error(plan.dose_gy, plan.dose_gy, 700.0)
    for error in (target_dose_error, target_dose_shift):
        with pytest.raises(VaeliteError, match="grids"):
            error(plan.dose_gy, plan.dose_gy[1:], 70.0)
        with pytest.raises(VaeliteError, match="not finite"):
            error(plan.dose_gy, np.full(SHAPE, np.nan, np.float32), 70.0)
        with pytest.raises(VaeliteError, match="reference dose is not finite"):
            error(np.where(plan.dose_gy == plan.dose_gy.max(), np.nan, plan.dose_gy), plan.dose_gy, 70.0)
        with pytest.raises(VaeliteError, match="above 0 Gy"):
            error(plan.dose_gy, plan.dose_gy, 0.0)
    with pytest.raises(VaeliteError, match="no mask of 0 and 1"):
        dvh(plan.dose_gy, 0.3 * head[2])


def test_target_dose_error_of_a_scaled_dose_by_hand():
    dose_gy = np.full((3, 4, 5), 70.0)
    dose_gy[0] = 50.0                                       # below 90 %: does not count
    assert target_dose_error(dose_gy, 1.02 * dose_gy, 70.0) == pytest.approx(2.0)
    uneven = np.where(np.arange(5) % 2, 1.05, 0.95) * dose_gy
    assert target_dose_error(dose_gy, uneven, 70.0) == pytest.approx(5.0)
    assert target_dose_shift(dose_gy, uneven, 70.0) == pytest.approx(-1.0), "two of five columns up, three down"


# ---------------------------------------------------------------- gamma


def brute_force_gamma(reference_gy, evaluated_gy, spacing_mm, dose_percent, distance_mm, mode, max_gamma, steps):
    """Every voxel against every point of the search ball, scipy's interpolation, no early stop."""
    from scipy.ndimage import map_coordinates

    reach = int(np.ceil(max_gamma * steps))
    steps_along = np.arange(-reach, reach + 1) * distance_mm / steps
    offsets = np.array(np.meshgrid(*[steps_along] * 3, indexing="ij")).reshape(3, -1)
    offsets = offsets[:, np.sqrt((offsets**2).sum(0)) <= max_gamma * distance_mm * (1 + 1e-9)]
    result = np.full(reference_gy.shape, np.nan)
    for index in zip(*np.nonzero(reference_gy >= 7.0)):
        points = np.array(index)[:, None] + offsets / np.array(spacing_mm)[:, None]
        inside = np.all((points >= 0) & (points <= np.array(reference_gy.shape)[:, None] - 1), axis=0)
        sampled = map_coordinates(evaluated_gy, points[:, inside], order=1)
        criterion_gy = dose_percent / 100 * (70.0 if mode == "global" else reference_gy[index])
        distance2 = (offsets[:, inside] ** 2).sum(0) / distance_mm**2
        difference2 = ((sampled - reference_gy[index]) / criterion_gy) ** 2
        result[index] = min(max_gamma, np.sqrt((distance2 + difference2).min()))
    return result


@pytest.mark.parametrize("mode", ["global", "local"])
def test_gamma_agrees_with_brute_force_voxel_by_voxel(mode):
    reference, evaluated = smooth_dose(), smooth_dose(shift_mm=0.7, seed=1)
    spacing_mm, criteria = (3.0, 2.5, 2.0), {"dose_percent": 2.0, "distance_mm": 2.0, "max_gamma": 1.5, "steps": 5}
    ours = gamma_map(reference, evaluated, spacing_mm, **criteria, **{**GAMMA, "mode": mode})
    theirs = brute_force_gamma(reference, evaluated, spacing_mm, mode=mode, **criteria)
    assert 0.1 < np.nanmean(theirs) < 1.4 and np.isnan(theirs).any()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("percent, mm", DoseConfig().gamma_criteria)
def test_gamma_agrees_with_pymedphys(percent, mm):
    pymedphys = pytest.importorskip("pymedphys", reason="pymedphys does not install on Python 3.13")

    reference, evaluated = smooth_dose(), smooth_dose(shift_mm=0.9, seed=2)
    axes = tuple(np.arange(n) * s for n, s in zip(reference.shape, (3.0, 2.5, 2.0)))
    theirs = pymedphys.gamma(axes, reference, axes, evaluated, percent, mm, lower_percent_dose_cutoff=10,
                             interp_fraction=10, max_gamma=1.5, global_normalisation=70.0)
    ours = gamma_map(reference, evaluated, (3.0, 2.5, 2.0), dose_percent=percent, distance_mm=mm, **GAMMA)
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    above = np.isfinite(ours)
    assert 100 * abs(np.mean(ours[above] <= 1) - np.mean(theirs[above] <= 1)) < 1.5         # the search grids differ
    assert np.median(np.abs(ours - theirs)[above]) < 0.05


def test_gamma_gives_pymedphys_verdict_on_a_real_plan(plan, head):
    """Bone twice as dense on the CT: more than 99.9 % of the voxels pass or fail as pymedphys says."""
    pymedphys = pytest.importorskip("pymedphys", reason="pymedphys does not install on Python 3.13")

    denser = recalculate(plan, np.where(head[0] > 500, 1800, head[0]))
    axes = tuple(np.arange(n) * s for n, s in zip(SHAPE, SPACING_MM))
    theirs = pymedphys.gamma(axes, plan.dose_gy, axes, denser, 1, 1, lower_percent_dose_cutoff=10, interp_fraction=10,
                             max_gamma=1.5, global_normalisation=70.0)
    ours = gamma_map(plan.dose_gy, denser, SPACING_MM, dose_percent=1, distance_mm=1, **GAMMA)
    counted = np.isfinite(theirs)
    np.testing.assert_array_equal(np.isfinite(ours), counted)
    assert 0.3 < np.mean(theirs[counted] <= 1) < 0.999, "some fail, or equal verdicts would say nothing"
    assert np.mean((ours <= 1)[counted] == (theirs <= 1)[counted]) > 0.999


def test_gamma_of_a_dose_with_itself_is_zero():
    result = gamma_pass_rate(smooth_dose(), smooth_dose(), (3.0, 2.5, 2.0), dose_percent=1, distance_mm=1, **GAMMA)
    assert result["pass_percent"] == 100 and result["mean_gamma"] == 0


def test_a_shift_by_one_millimetre_passes_two():
    moved = np.roll(smooth_dose(spacing_mm=(1.0, 1.0, 1.0), shape=(30, 30, 30)), 1, axis=2)
    still = smooth_dose(spacing_mm=(1.0, 1.0, 1.0), shape=(30, 30, 30))
    gamma = gamma_map(still, moved, (1.0, 1.0, 1.0), dose_percent=2, distance_mm=2, **GAMMA)
    assert np.nanmax(gamma[:, :, 1:-1]) <= 0.5 + 1e-6, "one of two millimetres is half a gamma"


def test_three_percent_more_dose_in_the_plateau():
    plateau = np.full((8, 8, 8), 70.0)
    rates = {}
    for percent in (2.0, 2.9, 3.1):
        result = gamma_pass_rate(plateau, 1.03 * plateau, (2.0, 2.0, 2.0), dose_percent=percent, distance_mm=3, **GAMMA)
        rates[percent] = result["pass_percent"]
    assert rates == {2.0: 0.0, 2.9: 0.0, 3.1: 100.0}


@pytest.mark.parametrize("z", [0, 4, -1])
def test_gamma_of_one_slice_is_that_slice_of_the_whole(z):
    reference, evaluated = smooth_dose(), smooth_dose(shift_mm=0.7, seed=3)
    z %= len(reference)
    settings = {"dose_percent": 2, "distance_mm": 2, **GAMMA}
    alone = gamma_of_slice(reference, evaluated, (3.0, 2.5, 2.0), z, **settings)
    np.testing.assert_array_equal(alone[z], gamma_map(reference, evaluated, (3.0, 2.5, 2.0), **settings)[z])
    assert np.isnan(np.delete(alone, z, axis=0)).all()


def test_gamma_does_not_depend_on_the_units_of_dose_and_length():
    reference, evaluated, spacing = smooth_dose(), smooth_dose(shift_mm=0.7, seed=3), np.array([3.0, 2.5, 2.0])
    plain = gamma_map(reference, evaluated, spacing, dose_percent=2, distance_mm=2, **GAMMA)
    scaled = gamma_map(30 * reference, 30 * evaluated, 0.1 * spacing, dose_percent=2, distance_mm=0.2,
                       **{**GAMMA, "normalisation_gy": 2100.0})
    np.testing.assert_allclose(plain, scaled, atol=1e-5)


def test_a_tighter_gamma_never_passes_more_and_local_is_stricter():
    reference, evaluated = smooth_dose(), smooth_dose(shift_mm=0.7, seed=4)

    def rate(percent, mm, mode):
        options = {**GAMMA, "dose_percent": percent, "distance_mm": mm, "mode": mode}
        return gamma_pass_rate(reference, evaluated, (3.0, 2.5, 2.0), **options)["pass_percent"]

    assert rate(3, 3, "global") >= rate(2, 2, "global") >= rate(1, 1, "global") >= rate(1, 1, "local")


def test_gamma_returns_every_parameter_it_depends_on():
    result = gamma_pass_rate(smooth_dose(), smooth_dose(), (3.0, 2.5, 2.0), dose_percent=3, distance_mm=2, **GAMMA)
    assert result["n_voxels"] == np.count_nonzero(smooth_dose() >= 7.0)
    assert set(result) == {"pass_percent", "n_voxels", "mean_gamma", "dose_percent", "distance_mm", "mode",
                           "spacing_mm", "normalisation_gy", "cutoff_percent", "max_gamma", "steps", "interpolation",
                           "reference"}


@pytest.mark.parametrize("change, message", [
    ({"evaluated_gy": np.ones((3, 3, 3))}, "different grids"),
    ({"evaluated_gy": np.full((14, 16, 18), np.nan)}, "not finite"),
    ({"mode": "both"}, "mode"),
    ({"dose_percent": 0.0}, "dose_percent"),
    ({"distance_mm": -1.0}, "distance_mm"),
    ({"normalisation_gy": 7000.0}, "cut-off"),
    ({"max_gamma": 1.0}, "max_gamma"),
    ({"steps": 2.5}, "whole number"),
    ({"spacing_mm": (0.0, 2.5, 2.0)}, "three positive numbers"),
    ({"spacing_mm": (float("nan"), 2.5, 2.0)}, "three positive numbers"),
    ({"spacing_mm": (2.5, 2.0)}, "three positive numbers"),
    ({"reference_gy": np.ones((9, 9)), "evaluated_gy": np.ones((9, 9))}, "three axes"),
])
def test_bad_input_to_gamma_is_refused(change, message):
    arguments = {"reference_gy": smooth_dose(), "evaluated_gy": smooth_dose(), "spacing_mm": (3.0, 2.5, 2.0),
                 "dose_percent": 3.0, "distance_mm": 3.0, **GAMMA, **change}
    with pytest.raises(VaeliteError, match=message):
        gamma_map(**arguments)
