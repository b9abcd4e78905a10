"""Figures: physical units on every axis, fixed limits, computed findings, no state left behind."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from vaelite import figures
from vaelite.data.intensity import MODALITIES, from_unit
from vaelite.figures import (
    DISPLAYS,
    METHOD_COLOURS,
    MODALITY_COLOURS,
    body_box,
    draw_components,
    draw_direction_matrix,
    draw_influence,
    draw_modalities,
    draw_quality,
    draw_reconstruction,
    draw_slices,
    draw_targets,
    draw_training,
    draw_translations,
    draw_uncertainty,
    mean_error,
    physical,
)

RNG = np.random.default_rng(0)
SIZE = 32
MASK = np.zeros((SIZE, SIZE), bool)
MASK[6:28, 8:24] = True
X = {m: np.where(MASK, RNG.uniform(-0.5, 0.5, (SIZE, SIZE)), -1).astype(np.float32) for m in MODALITIES}
ERRORS = {"CT>T1c": {"copy": 0.4, "ridge": 0.2}, "T1c>CT": {"copy": 0.2, "ridge": 0.3}}    # of the range 2
HISTORY = [{"step": n, "seconds": 0.1 * n, "loss": 1 / n, "kl_per_latent": 3.0} for n in range(1, 41)]


def all_figures():
    yield draw_modalities(X, 4.0, MASK)
    yield draw_modalities({"CT": X["CT"]}, 4.0)
    yield draw_slices({"start": X["CT"], "end": X["T1c"]}, "model space", 4.0, "a step")
    yield draw_reconstruction(X["CT"], {"PCA": X["CBCT"], "VAE": X["T1c"]}, "CT", 4.0, MASK)
    yield draw_translations("T1c", X["T1c"], "CT", X["CT"], {"copy": X["T1c"], "ridge": X["CBCT"]}, 4.0, MASK)
    yield draw_translations("CT", X["CT"], "T2w", X["T2w"], {"unet": X["T1c"], "mapped": X["CBCT"]}, 4.0)
    yield draw_targets("CT", X["CT"], {"T1c": (X["T2w"], X["T1c"]), "CBCT": (X["CT"], X["CBCT"])}, 4.0, MASK)
    yield draw_uncertainty(X["CT"], 0.1 + 0 * X["CT"], X["CBCT"], "CT", 4.0, MASK)
    yield draw_components(RNG.normal(size=(16, 8, 8)), np.linspace(2, 1, 16), 60.0, 4.0)
    yield draw_quality([64, 128], {"CT": [20, 25], "T1c": [18, 22]}, 4096, {"CT": 26, "T1c": 24})
    yield draw_influence({"ridge": np.eye(8), "mapper": RNG.random((8, 8))}, (4, 4), "it looks both ways")
    yield draw_training(HISTORY, "VAE")
    yield draw_direction_matrix(ERRORS)
    yield draw_direction_matrix({direction: {"copy": error["copy"]} for direction, error in ERRORS.items()})


FIGURES = list(all_figures())


def headline_of(figure) -> str:
    return figure.get_suptitle().replace("\u00a0", " ").replace("\n", " ")


@pytest.mark.parametrize("figure", FIGURES, ids=headline_of)
class TestEveryFigure:
    def test_has_a_finding_with_a_number_as_headline(self, figure):
        known = {"a step", "it looks both ways"}             # given by the caller
        text = headline_of(figure)
        assert text in known or any(letter.isdigit() for letter in text) or len(figure.axes) == 1

    def test_every_panel_states_its_unit_or_its_scale(self, figure):
        for ax in (ax for ax in figure.axes if ax.axison):
            text = " ".join([ax.get_xlabel(), ax.get_ylabel(), *(t.get_text() for t in ax.texts),
                             *(tick.get_text() for tick in ax.get_xticklabels())])
            in_components = ax.images and "%" in ax.get_title()
            assert "[" in text or "mm" in text or in_components, f"panel {ax.get_title()!r} has neither unit nor scale"

    def test_no_text_lies_outside_the_picture(self, figure):
        figure.draw_without_rendering()
        width, height = figure.bbox.size
        for text in (t for ax in figure.axes for t in [ax.title, ax.xaxis.label, ax.yaxis.label] if t.get_text()):
            box = text.get_window_extent()
            assert box.x0 > -2 and box.y0 > -2 and box.x1 < width + 2 and box.y1 < height + 2, text.get_text()

    def test_titles_of_neighbours_do_not_overlap(self, figure):
        figure.draw_without_rendering()
        boxes = [ax.title.get_window_extent() for ax in figure.axes if ax.title.get_text()]
        boxes += [figure._suptitle.get_window_extent()] if figure.get_suptitle() else []
        assert not [1 for i, a in enumerate(boxes) for b in boxes[i + 1:] if a.overlaps(b)]

    def test_the_finding_fits_the_width(self, figure):
        figure.draw_without_rendering()
        if figure.get_suptitle():
            assert figure._suptitle.get_window_extent().width <= figure.bbox.width

    def test_pyplot_does_not_know_it(self, figure):
        assert "matplotlib.pyplot" not in vars(figures)
        assert figure.number is None if hasattr(figure, "number") else True
        assert matplotlib._pylab_helpers.Gcf.get_num_fig_managers() == 0


def test_hu_shown_are_the_hu_of_the_library():
    x = np.linspace(-1, 1, 11)
    np.testing.assert_allclose(physical(x, "CT"), from_unit(x, "CT"), atol=1e-3)
    np.testing.assert_allclose(physical(x, "T1c"), from_unit(x, "T1c", (0.0, 100.0)), atol=1e-3)


def test_each_modality_has_one_colour_and_a_display():
    assert set(MODALITY_COLOURS) == set(MODALITIES) <= set(DISPLAYS)
    assert len(set(MODALITY_COLOURS.values())) == len(MODALITIES)


def test_no_method_has_the_colour_of_a_modality_or_of_another_method():
    colours = [*MODALITY_COLOURS.values(), *METHOD_COLOURS.values()]
    assert len(set(colours)) == len(colours)


def test_the_axis_of_the_training_figure_can_say_what_the_loss_is():
    assert draw_training(HISTORY, "mapper", "mean |error| [SD]").axes[0].get_ylabel() == "mean |error| [SD]"


def test_the_headline_of_a_training_compares_like_with_like_and_hides_no_spike():
    spiky = [record | {"loss": 9.0} if record["step"] == 7 else record for record in HISTORY]
    text = headline_of(draw_training(spiky, "VAE"))
    first, last = (np.mean([record["loss"] for record in records]) for records in (spiky[:4], spiky[-4:]))
    assert text.startswith(f"VAE: loss {first:.3f} in the first, {last:.3f} in the last 4 records")
    assert "worst 9.000 at step 7 of 40" in text


def test_a_tie_is_not_counted_as_better():
    close = {"CT>T1c": {"copy": 0.4, "ridge": 0.396}, "T1c>CT": {"copy": 0.4, "ridge": 0.39}}
    assert draw_direction_matrix(close).axes[1].get_title() == "ridge: better in 1 of 2 (by 2 % or more)", "1 % and 2.5 %"


def test_mean_error_counts_the_body_only_and_speaks_hu():
    wrong_outside = np.where(MASK, X["CT"], 1.0)
    assert mean_error(wrong_outside, X["CT"], "CT", MASK) == 0
    assert mean_error(X["CT"] + 0.1, X["CT"], "CT", MASK) == pytest.approx(150, abs=0.1), "0.1 of the range 2 is 150 HU"


def test_differences_are_centred_on_zero_with_the_same_limits_in_every_figure():
    figure = draw_translations("T1c", X["T1c"], "CT", X["CT"], {"copy": X["T1c"], "ridge": X["CBCT"]}, 4.0, MASK)
    limits = {image.get_clim() for ax in figure.axes for image in ax.images if image.get_cmap().name == "RdBu_r"}
    assert limits == {(-300.0, 300.0)}


def test_a_scale_bar_has_its_true_length():
    figure = draw_slices({"one": X["CT"]}, "CT", 4.0)
    (x0, x1) = figure.axes[0].lines[-1].get_xdata()
    assert x1 - x0 == 50 and figure.axes[0].images[0].get_extent()[1] == SIZE * 4.0, "the axis counts millimetres"


def test_the_crop_keeps_the_whole_body():
    rows, columns = body_box(MASK)
    assert MASK[rows, columns].sum() == MASK.sum()
    assert (rows, columns) == (slice(3, 31), slice(5, 27))
    assert body_box(np.zeros((4, 4), bool)) == (slice(None), slice(None)), "no body: nothing is cut off"


def test_the_headline_of_a_comparison_is_computed():
    figure = draw_reconstruction(X["CT"], {"VAE": X["CT"] + 0.02, "PCA": X["CT"] - 0.04}, "CT", 4.0, MASK)
    assert headline_of(figure) == "Mean absolute error in the body: VAE 30 HU, PCA 60 HU"


def test_the_matrix_counts_the_directions_that_got_better():
    figure = draw_direction_matrix(ERRORS)
    assert figure.axes[1].get_title() == "ridge: better in 1 of 2 (by 2 % or more)"
    assert headline_of(figure) == "Median of directions: ridge has 100 % of the error of copy", "50 % and 150 %"
    shown = {text.get_text() for text in figure.axes[1].texts}
    assert shown == {"10", "450"}, "0.2 is 10 % of the range, 0.3 is 450 HU"
