"""Pictures of dose: what they show is what was computed, and every axis says its quantity and unit."""
from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from vaelite import figures
from vaelite.dose import figures as dose_figures
from vaelite.dose.figures import (
    difference_limit,
    draw_comparison,
    draw_density_table,
    draw_depth_dose,
    draw_dose_difference,
    draw_dose_view,
    draw_dose_wash,
    draw_dvh,
    draw_error_against_dose,
    draw_errors_by_patient,
    draw_gamma,
    draw_mean_against_n,
    draw_pass_rates,
    draw_response,
    draw_sensitivity,
)
from vaelite.dose.metrics import dvh
from vaelite.dose.tables import BULK_METHODS, dose_label
from vaelite.errors import VaeliteError
from vaelite.evaluation.rows import METHODS

SHAPE, SPACING_MM = (10, 24, 20), (3.0, 2.0, 2.0)
CURVE = {"unit": "% of the true HU", "amount": [50, 100, 150], "ME_target": [1.5, 0.0, -1.5], "gamma 2%/2mm": [99.9, 100, 99.8],
         "gamma 1%/1mm": [90.0, 100.0, 80.0]}
LESION = np.hypot(*np.mgrid[-12:12, -14:10]) <= 2            # a disc of 8 mm


@pytest.fixture(scope="module")
def patient() -> dict:
    """A cylinder of water with a hot ball in it, and the same dose 2 % higher."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")
    ct_hu = np.where(np.hypot(y - 12, x - 10) < 9, 30.0, -1000.0).astype(np.float32)
    radius = np.sqrt(((z - 6) * 3) ** 2 + ((y - 12) * 2) ** 2 + ((x - 10) * 2) ** 2)
    dose_gy = (70 * np.exp(-((radius / 14) ** 4))).astype(np.float32)
    masks = {"PTV": radius < 8, "SpinalCord": (np.hypot(y - 17, x - 10) < 2)}
    gamma = np.where(dose_gy > 7, np.abs(dose_gy - 60) / 30, np.nan)
    return {"ct": ct_hu, "dose": dose_gy, "higher": dose_gy * np.float32(1.02), "masks": masks, "gamma": gamma}


def all_figures(p: dict) -> dict:
    curves = {name: {"plan": dvh(p["dose"], m), "other": dvh(p["higher"], m)} for name, m in p["masks"].items()}
    return {
        "dvh": draw_dvh(curves, "finding", {"PTV": 70.0}),
        "wash": draw_dose_wash(p["ct"], p["dose"], p["masks"], SPACING_MM, 70.0, "finding"),
        "difference": draw_dose_difference(p["ct"], p["dose"], p["higher"], SPACING_MM, 70.0, "finding"),
        "gamma": draw_gamma(p["ct"], p["gamma"], SPACING_MM, "finding", 6),
        "comparison": draw_comparison(p["ct"], p["ct"], p["dose"], p["higher"], p["gamma"], SPACING_MM, 70.0, "finding", 6),
        "depth": draw_depth_dose(np.linspace(0.1, 30, 50), np.linspace(100, 20, 50), "finding"),
        "rates": draw_pass_rates({("CBCT", "unet"): {"2 %/2 mm": 99.0, "1 %/1 mm": 90.0}}, "finding"),
        "points": draw_error_against_dose({"MAE [HU]": ("rank correlation", [("vaelite", "CBCT", 40.0, 0.5),
                                                                             ("copy", "T1c", 90.0, 2.0)])}, "finding"),
        "density": draw_density_table(np.array([-1000.0, 0, 3000]), np.array([0.0, 1, 2.5]), {"bone": (250, 3000)}, "finding"),
        "sensitivity": draw_sensitivity({"bone HU": CURVE}, ("gamma 2%/2mm", "gamma 1%/1mm"), "finding"),
        "patients": draw_errors_by_patient({"raw CBCT": [-1.0, 2.5], "water": [3.0, 4.0]}, "finding"),
        "lesion": draw_response({"copy": 150.0 * LESION, "ridge": 100.0 * LESION}, LESION, 2.0, "finding"),
        "mean": draw_mean_against_n([40.0, 50.0, 45.0], [np.nan, 60.0, 12.0], "HU", "finding"),
    }


UNIT = re.compile(r"\[(Gy|%|HU|cm|mm|1|% of .+)\]|criterion")


def test_every_axis_and_colour_bar_names_quantity_and_unit(patient):
    for name, figure in all_figures(patient).items():
        for axes in figure.axes:
            labels = [text for text in (axes.get_xlabel(), axes.get_ylabel()) if text]
            hidden = not axes.xaxis.label.get_visible() or bool(axes.get_images())
            assert labels or hidden, f"{name}: an axis without a label"
            for text in labels:
                assert UNIT.search(text), f"{name}: '{text}' has no unit"


def test_every_figure_states_its_finding_and_can_be_saved(patient, tmp_path):
    for name, figure in all_figures(patient).items():
        titles = [figure.get_suptitle(), *(axes.get_title(where) for axes in figure.axes for where in ("left", "center"))]
        assert "finding" in titles, name
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 3000


def test_titles_do_not_run_into_one_another(patient):
    for name, figure in all_figures(patient).items():
        figure.draw_without_rendering()
        titles = [text for ax in figure.axes for text in (ax.title, ax._left_title) if text.get_text()]
        boxes = [text.get_window_extent() for text in [*titles, *([figure._suptitle] if figure.get_suptitle() else [])]]
        assert not [1 for i, a in enumerate(boxes) for b in boxes[i + 1:] if a.overlaps(b)], name


def test_the_dvh_shows_exactly_what_was_computed(patient):
    expected = dvh(patient["dose"], patient["masks"]["PTV"])
    figure = draw_dvh({"PTV": {"plan": expected}}, "finding")
    drawn = figure.axes[0].lines[0].get_xydata()
    assert np.array_equal(drawn[:, 0], expected[0]) and np.array_equal(drawn[:, 1], expected[1])
    assert drawn[0, 1] == 100 and drawn[-1, 1] == 0


def test_one_colour_a_structure_and_one_style_a_dose(patient):
    lines = all_figures(patient)["dvh"].axes[0].lines[:4]
    assert lines[0].get_color() == lines[1].get_color() != lines[2].get_color()
    assert lines[0].get_linestyle() == lines[2].get_linestyle() == "-" != lines[1].get_linestyle()


def test_targets_of_several_levels_can_be_told_apart():
    names = ("PTV70", "PTV63", "PTV56", "GTV", "CTV", "Parotid_L", "Parotid_R", "SpinalCord", "Brainstem")
    assert len({dose_figures.structure_colour(name) for name in names}) == len(names)


def test_a_dvh_of_nothing_is_refused():
    with pytest.raises(VaeliteError, match="no structure"):
        draw_dvh({}, "finding")


def test_the_difference_is_in_percent_of_the_prescription_and_centred_on_zero(patient):
    p = patient
    image = draw_dose_difference(p["ct"], p["dose"], p["higher"], SPACING_MM, 70.0, "finding", z=6).axes[0].get_images()[-1]
    low, high = image.get_clim()
    assert low == -high
    hottest = float(np.nanmax(image.get_array()))
    assert hottest == pytest.approx(100 * 0.02 * patient["dose"].max() / 70, rel=1e-5)
    assert image.get_array().mask.any(), "below 10 % of the prescription the anatomy shows"


def test_the_passing_limit_is_the_middle_of_the_gamma_colours(patient):
    image = all_figures(patient)["gamma"].axes[0].get_images()[-1]
    assert sum(image.get_clim()) / 2 == 1


@pytest.mark.parametrize("draw", ["difference", "gamma"])
def test_the_target_is_outlined_and_named_on_a_map(patient, draw):
    p, target = patient, {"PTV": patient["masks"]["PTV"]}
    figure = (draw_gamma(p["ct"], p["gamma"], SPACING_MM, "finding", 6, target) if draw == "gamma" else
              draw_dose_difference(p["ct"], p["dose"], p["higher"], SPACING_MM, 70.0, "finding", 6, structures=target))
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["PTV"]
    x, y = axes.collections[0].get_paths()[0].vertices.mean(0)
    assert abs(x - 21) < 1.5 and abs(y - 25) < 1.5, "around the ball's centre, pixel (12, 10) of 2 mm"
    assert not draw_gamma(p["ct"], p["gamma"], SPACING_MM, "finding", 6).axes[0].collections


@pytest.mark.parametrize("view", ["dose", "difference", "gamma 2 %/2 mm"])
def test_each_view_says_how_far_the_target_is_off(patient, view):
    doses = {"CT": patient["dose"], "vaelite/T1c": patient["higher"]}
    settings = {"normalisation_gy": 70.0, "cutoff_percent": 10.0, "mode": "global"}
    figure = draw_dose_view(patient["ct"], doses, patient["masks"], "PTV", SPACING_MM, settings, 3.0, "vaelite/T1c", view, 6)
    said = " ".join(ax.get_title(loc="left") + ax.get_title() for ax in figure.axes) + figure.get_suptitle()
    percent = 2 * patient["dose"][patient["dose"] >= 0.9 * 70].mean() / 70           # every dose is 2 % higher
    assert f"vaelite from T1c: MAE_target {percent:.1f} %" in said.replace("\n", " ").replace("\u00a0", " ")


@pytest.mark.parametrize(("percent", "limit"), [(0.0, 3.0), (2.0, 3.0), (-4.0, 5.0), (12.0, 20.0), (90.0, 50.0)])
def test_one_scale_for_all_doses_follows_the_worst_up_to_50_percent(patient, percent, limit):
    even = np.full(patient["dose"].shape, 70.0)
    doses = {"CT": even, "vaelite/CBCT": even, "vaelite/T1c": (1 + percent / 100) * even}
    assert difference_limit(doses, 70.0) == limit


def test_equal_pass_rates_do_not_hide_each_other():
    same = {"2 %/2 mm": 99.0, "1 %/1 mm": 90.0}
    lines = draw_pass_rates({("T2w", "ridge"): same, ("T2w", "vaelite"): same}, "finding").axes[0].lines
    first, second = (line.get_xdata() for line in lines[:2])
    assert (np.abs(first - second) > 0.05).all() and np.abs(first - [0, 1]).max() < 0.3


def test_every_dose_has_a_colour_and_marker_of_its_own():
    keys = [*itertools.product(("CBCT", "T1c", "T2w"), METHODS), *(("CT", method) for method in BULK_METHODS)]
    lines = draw_pass_rates({key: {"2 %/2 mm": 99.0} for key in keys}, "finding").axes[0].lines[:len(keys)]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == len(keys)
    assert [line.get_label() for line in lines] == [dose_label(*key) for key in keys]


def test_rates_near_100_percent_are_told_apart_by_what_fails():
    lines = draw_pass_rates({("T2w", "ridge"): {"2 %/2 mm": 99.0, "1 %/1 mm": 90.0},
                             ("T2w", "vaelite"): {"2 %/2 mm": 100.0, "1 %/1 mm": 99.9}}, "finding").axes[0].lines
    assert np.allclose(lines[0].get_ydata(), [1, 10])
    assert np.allclose(lines[1].get_ydata(), [dose_figures.FEWEST_FAIL, 0.1]), "none fails: on the floor, not off the axis"


def test_the_errors_drawn_are_those_given_and_share_one_scale():
    other = {**CURVE, "ME_target": [0.1, 0.0, -0.1]}
    figure = draw_sensitivity({"bone HU": CURVE, "cavities": other}, ("gamma 2%/2mm", "gamma 1%/1mm"), "finding")
    first, second = figure.axes[0], figure.axes[2]
    assert np.array_equal(first.lines[0].get_xydata(), [[50, 1.5], [100, 0], [150, -1.5]])
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[0] == -first.get_ylim()[1]
    np.testing.assert_allclose(figure.axes[1].lines[1].get_ydata(), [10, 0, 20])


def test_a_dose_error_of_exactly_zero_is_not_lost_on_a_logarithmic_axis():
    panels = {"MAE [HU]": ("", [("water", "CT", 0.0, 0.0), ("copy", "CBCT", -50.0, 2.0)])}
    drawn = [line.get_xydata()[0] for line in draw_error_against_dose(panels, "finding").axes[0].lines]
    assert np.array_equal(drawn, [[dose_figures.SMALLEST_SHOWN] * 2, [50.0, 2.0]])


def test_left_and_right_of_one_colour_share_an_entry_of_the_legend():
    names = ["PTV", "Submandibular_L", "Parotid_L", "Parotid_R", "Submandibular_R"]
    labels = [handle.get_label() for handle in dose_figures.structure_handles(names)]
    assert labels == ["PTV", "Submandibular_L, _R", "Parotid_L", "Parotid_R"]


def test_a_whisker_shows_the_error_that_the_signed_mean_hides():
    axes = draw_errors_by_patient({"water": [-0.1, 0.2]}, "finding", largest={"water": 3.0}).axes[0]
    assert np.array_equal(axes.lines[1].get_xydata(), [[-3, 0], [3, 0]]) and axes.get_xlim()[1] > 3


def test_one_patient_has_a_mean_and_no_interval():
    (_, _, (bars,)), = draw_mean_against_n([40.0, 50.0], [np.nan, 60.0], "HU", "finding").axes[0].containers
    assert not bars.get_segments()[0].size and np.array_equal(bars.get_segments()[1], [[2, -15], [2, 105]])


def test_the_lesion_keeps_its_place_and_size():
    axes = draw_response({"copy": 150.0 * LESION}, LESION, 2.0, "finding", reach_mm=10).axes[0]
    image = axes.get_images()[0]
    assert image.get_clim() == (-300, 300) and image.get_array().shape == (11, 11)
    assert image.get_array()[5, 5] == 150 and (image.get_array() != 0).sum() == LESION.sum()
    x, y = axes.collections[0].get_paths()[0].vertices.mean(0)
    assert abs(x - 11) < 1 and abs(y - 11) < 1, "the outline lies around the middle of 11 pixels of 2 mm"


def test_pictures_are_true_to_scale(patient):
    axes = all_figures(patient)["wash"].axes
    for panel, height_mm in zip(axes[:2], (SHAPE[1] * 2.0, SHAPE[0] * 3.0)):
        left, right, bottom, top = panel.get_images()[0].get_extent()
        assert (right - left, bottom - top) == (SHAPE[2] * 2.0, height_mm)
        assert panel.get_aspect() in ("equal", 1)


def test_the_coronal_view_has_the_head_on_top(patient):
    ct_hu = patient["ct"].copy()
    ct_hu[-1] = 1000                                         # the top slice is all bone
    figure = draw_dose_wash(ct_hu, patient["dose"], {}, SPACING_MM, 70.0, "finding")
    assert (figure.axes[1].get_images()[0].get_array()[0] == 1000).all()


def test_methods_have_the_colours_they_have_in_all_other_figures():
    shared = dose_figures.METHOD_COLOURS.keys() & figures.METHOD_COLOURS.keys()
    assert len(shared) == 5 and all(dose_figures.METHOD_COLOURS[name] == figures.METHOD_COLOURS[name] for name in shared)
    assert len(set(dose_figures.METHOD_COLOURS.values())) == len(dose_figures.METHOD_COLOURS)
