"""The explorers of the latent space: every control moves the picture, and where the truth is known it is shown."""

from __future__ import annotations

import io
from dataclasses import replace

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from PIL import Image

from vaelite.data.cases import load_cases
from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import load_slices
from vaelite.errors import VaeliteError
from vaelite.explore.explorers import (
    encode,
    explore_attention,
    explore_fusion,
    explore_latent_map,
    explore_morph,
    explore_translation,
    explore_walk,
    neighbours,
    principal_directions,
    slice_names,
    translated,
)
from vaelite.explore.figures import WINDOWS, draw_attention, draw_fusion, draw_morph, draw_step, draw_translator, nearest_share
from vaelite.explore.panel import ends, to_png
from vaelite.figures import body_box
from vaelite.models.decoder import DecoderConfig, GuidedDecoder
from vaelite.models.mapper import LatentMapper, MapperConfig
from vaelite.models.vae import VAE, VAEConfig
from vaelite.stages import named
from vaelite.training.train import tasks
from vaelite.translate import Translator

MM = 2.0
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def slices(tiny_set):
    return load_slices(load_cases(tiny_set)[:2], 32)


@pytest.fixture(scope="module")
def translator(slices):
    """PCA, ridge and their decode: what the stages are before they are trained."""
    torch.manual_seed(0)
    vae = VAE(VAEConfig(latent_channels=4, encoder_widths=(8, 16), decoder_widths=(8, 8, 16)))
    vae = vae.fit_pca(slices.x[slices.have][:, None].float()).eval().requires_grad_(False)
    mapper = LatentMapper(MapperConfig(latent_channels=4, width=16, depth=2, heads=2)).eval().requires_grad_(False)
    can = named(tasks(slices.have))
    half_done = Translator(vae, mapper, None, 32, MODALITIES, can)
    mapper.fit_ridge(half_done.encode(slices.x.float(), slices.have), slices.have)
    decoder = GuidedDecoder(DecoderConfig(features=(8,) * 6, stem=1, condition_width=8)).eval().requires_grad_(False)
    calibrated = {task: 1.0 + 0.1 * number for number, task in enumerate(can) if task.count("+") != 1}
    return replace(half_done, decoder=decoder, widths=calibrated)


@pytest.fixture(scope="module")
def codes(translator, slices):
    return encode(translator.vae, slices)


BUILD = {"latent map": lambda t, s, c: explore_latent_map(c, MM, 3), "walk": lambda t, s, c: explore_walk(t.vae, c, 4, MM),
         "morph": lambda t, s, c: explore_morph(t.vae, c, MM),
         "translation": lambda t, s, c: explore_translation(t, s, MM, ("T1c", "CT")),
         "attention": lambda t, s, c: explore_attention(t, s, 4, "T2w", "CT", MM),
         "fusion": lambda t, s, c: explore_fusion(t, s, "CT", MM)}


@pytest.fixture(scope="module")
def panels(translator, slices, codes):
    """Building one draws both ends of each of its controls."""
    return {name: build(translator, slices, codes) for name, build in BUILD.items()}


def picture(panel):
    return panel.children[-1]


def controls(panel):
    return {c.description: c for c in panel.children if c is not picture(panel) and hasattr(c, "value")
            and not isinstance(c, widgets.HTML | widgets.Play)}


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", BUILD)
def test_each_control_is_labelled_and_both_its_ends_change_the_picture(panels, name):
    for label, control in controls(panels[name]).items():
        start, before = control.value, picture(panels[name]).value
        others = [value for value in ends(control) if value != start]
        assert label and others
        for value in others:
            control.value = value
            assert picture(panels[name]).value != before, f"{label} at {value}"
        control.value = start
        assert picture(panels[name]).value == before, "and back"


@pytest.mark.parametrize("name", BUILD)
def test_it_asks_a_question_and_a_page_without_a_kernel_shows_the_picture(panels, name):
    bundle = panels[name]._repr_mimebundle_()
    assert "?" in bundle["text/plain"] and bundle["image/png"]


def test_codes_know_their_slice_and_their_modality(codes, slices, translator):
    number = codes.number_of(5, "T1c")
    x = slices.x[5, MODALITIES.index("T1c")][None, None].float()
    torch.testing.assert_close(codes.z[number], translator.vae.encode(x).mean[0])
    assert codes.modality_of(number) == "T1c"


def test_a_slice_without_the_modality_is_refused(translator, slices):
    some = replace(slices, have=slices.have & torch.tensor([True, True, True, False]))
    with pytest.raises(VaeliteError, match="has no T2w"):
        encode(translator.vae, some).number_of(0, "T2w")


def test_principal_directions_are_a_rotation():
    z = torch.randn(12, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = principal_directions(z)
    torch.testing.assert_close(found.scores @ found.axes + z.flatten(1).mean(0), z.flatten(1))
    torch.testing.assert_close(found.axes @ found.axes.T, torch.eye(12), atol=1e-3, rtol=0)
    assert float(found.share.sum()) == pytest.approx(1) and (found.share.diff() <= 1e-6).all()


def test_the_nearest_code_of_each_other_modality():
    z = torch.tensor([0.0, 1.0, 5.0, 0.4]).view(4, 1, 1, 1)
    ct, t1c = MODALITIES.index("CT"), MODALITIES.index("T1c")
    assert neighbours(z, torch.tensor([ct, t1c, t1c, ct])) == [{"T1c": 1}, {"CT": 3}, {"CT": 3}, {"T1c": 1}]


def test_nearest_neighbours_know_separated_groups_from_mixed_pairs():
    place = np.array([0, 0.1, 9, 9.1])
    apart = np.abs(place[:, None] - place)
    assert nearest_share(apart, np.array(["CT", "CT", "T1c", "T1c"])) == (1, pytest.approx(1 / 3))
    assert nearest_share(apart, np.array(["CT", "T1c", "CT", "T1c"]))[0] == 0


def test_a_walk_of_no_step_is_the_decoded_slice(panels, codes, slices):
    moved = controls(panels["walk"])
    moved["step [SD]"].value = 0.0
    here = codes.decoded[codes.number_of(4, "CBCT")]
    share = 100 * float(principal_directions(codes.z).share[0])
    where = f"+0 SD along principal direction 1, {share:.0f} % of the variance"
    wanted = draw_step(here, here, "CBCT", MM, slices.mask[4], where, "CBCT")
    assert np.abs(pixels(picture(panels["walk"]).value) - pixels(to_png(wanted))).max() <= 3, "up to rounding"


def test_the_colours_of_a_large_step_are_not_saturated(slices):
    start, moved = np.full((32, 32), -0.5), np.full((32, 32), 0.0)
    figure = draw_step(start, moved, "CT", MM, slices.mask[4], "a step", "CT")
    change = figure.axes[2].images[0]
    assert np.allclose(change.get_array(), 750) and change.get_clim() == (-900, 900), "a multiple of the usual 300 HU"


@pytest.mark.parametrize("way", [0, 100])
def test_a_morph_starts_and_ends_at_the_decoded_slices(panels, codes, way):
    moved = controls(panels["morph"])
    moved["way [%]"].value = way
    names = moved["start"].value, moved["end"].value
    row_of = {name: row for row, name in enumerate(slice_names(codes.slices))}
    ends = [name.rsplit(" ", 1) for name in names]
    assert len({slice.split(" ")[0] for slice, _ in ends}) == 2, "of two patients, where there are two"
    start, end = (codes.decoded[codes.number_of(row_of[slice], modality)] for slice, modality in ends)
    here = (start, end)[way == 100]
    wanted = draw_morph(start, here, here, end, names, "CBCT", MM, way)
    assert np.abs(pixels(picture(panels["morph"]).value) - pixels(to_png(wanted))).max() <= 3, "up to rounding"


def test_play_moves_the_slider_of_the_morph_from_end_to_end(panels):
    play = next(child for child in panels["morph"].children if isinstance(child, widgets.Play))
    way = controls(panels["morph"])["way [%]"]
    assert (play.min, play.max, play.step) == (way.min, way.max, way.step)


def test_a_morph_needs_two_slices(translator, slices):
    one = replace(slices, x=slices.x[:1], have=torch.eye(4, dtype=torch.bool)[:1], mask=slices.mask[:1], case=slices.case[:1])
    with pytest.raises(VaeliteError, match="two slices"):
        explore_morph(translator.vae, encode(translator.vae, one), MM)


def test_one_source_is_the_translation_from_it_and_its_interval(translator, slices):
    x, half = translated(translator, slices, ("T1c",), "CT")
    wanted, wanted_half = translator.interval(slices.x[:, [MODALITIES.index("T1c")]], "T1c", "CT")
    np.testing.assert_array_equal(x, wanted[:, 0])
    np.testing.assert_array_equal(half, wanted_half[:, 0])


def test_a_set_that_was_not_calibrated_takes_the_mean_width_of_its_target(translator, slices):
    known = [width for task, width in translator.widths.items() if task.endswith(">CT")]
    _, scale = translator.drawings(slices.x[:, [0, 2]], ("CBCT", "T1c"), "CT", ("finetuned",))
    _, half = translated(translator, slices, ("CBCT", "T1c"), "CT")
    np.testing.assert_allclose(half, np.mean(known) * scale[:, 0], rtol=1e-6)


def test_two_modalities_leave_nothing_to_join(translator, slices):
    with pytest.raises(VaeliteError, match="third modality"):
        explore_fusion(replace(translator, modalities=("CBCT", "CT")), slices, "CT", MM)


def test_nothing_ticked_is_no_error(panels):
    boxes = [c for c in controls(panels["fusion"]).values() if isinstance(c, widgets.Checkbox)]
    for box in boxes:
        box.value = False
    assert not any("alert" in child.value for child in panels["fusion"].children if isinstance(child, widgets.HTML))


def test_a_click_on_a_place_moves_the_sliders_to_its_token(panels):
    moved = controls(panels["attention"])
    picture(panels["attention"]).clicked = [0.3 / 7, 0.95 / 3.55]             # upper left of the first panel, inches
    assert (moved["row"].value, moved["column"].value) == (1, 1)
    picture(panels["attention"]).clicked = [0.99, 0.01]
    assert (moved["row"].value, moved["column"].value) == (1, 1), "beside the panels nothing moves"


def test_a_click_on_the_map_chooses_a_point_and_one_beside_it_none(panels):
    slider = controls(panels["latent map"])["slice"]
    picture(panels["latent map"]).clicked = [0.9, 0.1]
    before = slider.value
    chosen = set()
    for x in (0.1, 0.3, 0.5):
        picture(panels["latent map"]).clicked = [x, 0.4]
        chosen.add(slider.value)
    assert len(chosen | {before}) > 1


def test_a_click_on_a_slice_moves_the_line_of_the_profile(panels):
    line = controls(panels["translation"])["line"]
    picture(panels["translation"]).clicked = [1.2 / 7, 0.9 / 5.5]
    upper = line.value
    picture(panels["translation"]).clicked = [1.2 / 7, 2.2 / 5.5]
    assert line.min <= upper < line.value <= line.max


@pytest.mark.parametrize(("weights", "finding"), [
    (np.full((8, 8), 1 / 64),
     "25 % of the weight lies on the body (25 % of the slice), half of all on 32 of 64 tokens"),
    (np.eye(64)[27].reshape(8, 8),
     "100 % of the weight lies on the body (25 % of the slice), half of all on 1 of 64 tokens; it reads 0 mm away"),
], ids=["even", "itself"])
def test_what_is_said_of_attention_is_computed(weights, finding):
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    x = RNG.uniform(-1, 1, (64, 64))
    figure = draw_attention(weights, (3, 3), "T2w", x, "CT", x, mask, MM, "block 1, head 1")
    assert figure.get_suptitle().replace("\n", " ").replace("\u00a0", " ").startswith(finding)


def test_every_window_is_stated_in_the_unit_of_its_picture():
    x, mask = RNG.uniform(-1, 1, (32, 32)), np.ones((32, 32), bool)
    for window, limits in WINDOWS.items():
        figure = draw_translator("a", "T1c", x, "CT", x, x, 0 * x, mask, body_box(mask), MM, window, 3)
        for ax, unit in zip(figure.axes, ("%", "HU", "HU")):
            assert ax.get_xlabel() == "{:g} to {:g} [{}]".format(*limits[unit], unit)
            assert ax.images[0].get_clim() == limits[unit]


def test_a_perfect_translation_has_no_error_and_lies_inside_any_interval():
    x, mask = RNG.uniform(-1, 1, (32, 32)), np.ones((32, 32), bool)
    figure = draw_translator("a", "T1c", x, "CT", x, x, 0 * x, mask, body_box(mask), MM, "bone", 3)
    assert "error 0 HU in the body, 100 % of it" in figure.get_suptitle().replace("\n", " ").replace("\u00a0", " ")


def test_the_bars_of_a_fusion_are_the_errors_of_each_set():
    x, mask = np.zeros((32, 32)), np.ones((32, 32), bool)
    drawn = {"CBCT": (x + 0.1, x), "T1c": (x + 0.2, x), "CBCT+T1c": (x + 0.02, x)}
    figure = draw_fusion("a", "CT", x, drawn, "CBCT+T1c", mask, body_box(mask), MM)
    bars = next(ax for ax in figure.axes if ax.patches and ax.get_xlabel().startswith("in the body"))
    assert [round(bar.get_width()) for bar in bars.patches[:3]] == [150, 300, 30], "0.1 of the range 2 is 150 HU"
