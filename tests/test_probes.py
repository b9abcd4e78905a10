"""What the probes measure: a known wave at its frequency, a disc of a known area, an error that numpy agrees with."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from vaelite.data.intensity import MODALITIES
from vaelite.data.slices import SliceSet, thinned
from vaelite.dose.tables import judged_table, order_sentence, sensitivity_table
from vaelite.errors import VaeliteError
from vaelite.evaluation.probes import (
    direction_errors,
    disc_contrast,
    errors_table,
    invented_lesions,
    lesion_response,
    lesion_verdict,
    plant_lesions,
    radial_power,
)
from vaelite.evaluation.rows import verdict
from vaelite.evaluation.tables import fusion_sentence, jumps_sentence, uncertainty_sentence
from vaelite.models.vae import VAE, VAEConfig
from vaelite.report import report_card
from vaelite.translate import Translator

PIXEL_MM = 2.0


@pytest.fixture(scope="module")
def slices() -> SliceSet:
    generator = torch.Generator().manual_seed(0)
    x = 0.1 * torch.randn(6, 4, 64, 64, generator=generator)
    mask = torch.zeros(6, 64, 64, dtype=torch.bool)
    mask[:, 8:56, 8:56] = True
    have = torch.ones(6, 4, dtype=torch.bool)
    have[3:, 2] = False
    return SliceSet(x.half(), have, mask, torch.tensor([0, 0, 0, 1, 1, 1]), ("a", "b"))


@pytest.fixture(scope="module")
def untrained() -> Translator:
    return Translator(VAE(VAEConfig()), None, None, 64, MODALITIES, tuple(f"{s}>{t}" for s in MODALITIES for t in MODALITIES if s != t))


def test_a_table_of_errors_is_in_the_unit_of_its_target_and_marks_the_best_that_has_not_seen_it():
    errors = {"T1c>CT": {"tokenizer": 0.01, "copy": 0.4, "mapped": 0.1},
              "CT>T1c": {"tokenizer": 0.02, "copy": 0.1, "mapped": 0.2}}
    _, _, to_ct, to_t1c = errors_table(errors).splitlines()
    assert to_ct == "| T1c → CT | HU | 15.0 | 600.0 | **150.0** |", "x spans 2, its window 3000 HU"
    assert to_t1c == "| CT → T1c | % | 1.00 | **5.00** | 10.00 |"


def test_a_wave_has_its_power_at_its_frequency():
    position_mm = (torch.arange(64) + 0.5) * PIXEL_MM
    wave = torch.sin(2 * math.pi * position_mm / 16).expand(1, 64, 64)       # one period in 16 mm
    frequency, power = radial_power(wave, torch.ones(1, 64, 64), PIXEL_MM)
    assert frequency[power.argmax()] == pytest.approx(1 / 16)
    assert frequency[-1] < 1 / (2 * PIXEL_MM)                # below the Nyquist frequency


def test_white_noise_is_flat_and_four_times_the_power_at_twice_the_amplitude(slices):
    noise = torch.randn(200, 64, 64, generator=torch.Generator().manual_seed(1))
    body = slices.mask[:1].expand(200, 64, 64)
    _, power = radial_power(noise + 0.3, body, PIXEL_MM)
    np.testing.assert_allclose(power[2:], 1, rtol=0.15)      # below, the body is too small for a whole wave
    np.testing.assert_allclose(radial_power(2 * noise, body, PIXEL_MM)[1], 4 * power, rtol=1e-5)


def test_a_body_of_water_has_no_detail_and_blur_leaves_what_its_transfer_function_says(slices):
    """A Gaussian of s keeps exp(-(2 pi s f)^2) of the power at the frequency f."""
    noise = torch.randn(100, 64, 64, generator=torch.Generator().manual_seed(2))
    body, s_pixels = slices.mask[:1].expand(100, 64, 64), 1.2
    assert radial_power(torch.full_like(noise, 0.2), body, PIXEL_MM)[1].max() < 1e-20
    blurred = torch.from_numpy(ndimage.gaussian_filter(noise.numpy(), s_pixels, axes=(1, 2), mode="wrap"))
    frequency, power = radial_power(noise, body, PIXEL_MM)
    kept = radial_power(blurred, body, PIXEL_MM)[1] / power
    expected = np.exp(-(2 * np.pi * s_pixels * PIXEL_MM * frequency) ** 2)
    np.testing.assert_allclose(kept[2:], expected[2:], atol=0.05)


def test_a_mirrored_slice_has_the_same_spectrum(slices):
    x, mask = slices.x[:, 0].float(), slices.mask
    np.testing.assert_allclose(radial_power(x.flip(-1), mask.flip(-1), PIXEL_MM)[1], radial_power(x, mask, PIXEL_MM)[1])


def test_a_lesion_has_its_diameter_and_lies_in_the_body(slices):
    x = slices.x[:, 0].float()
    planted, disc = plant_lesions(x, slices.mask, PIXEL_MM, amount=0.1, diameter_mm=12.0)
    area_mm2 = disc.flatten(1).sum(1) * PIXEL_MM**2
    np.testing.assert_allclose(area_mm2, math.pi * 6.0**2, rtol=0.2)
    assert not (disc & ~slices.mask).any()
    torch.testing.assert_close(planted - x, 0.1 * disc.float(), atol=1e-6, rtol=0)


def test_copying_keeps_a_lesion_and_changes_nothing_else(slices, untrained):
    x = slices.x[:, 0].float()
    planted, disc = plant_lesions(x, slices.mask, PIXEL_MM, amount=0.1)
    _, kept, elsewhere = lesion_response(untrained, x, planted, disc, "CBCT", "CT", "copy")
    assert kept == pytest.approx(100, abs=0.01) and elsewhere == pytest.approx(0, abs=1e-4)


def test_a_copy_erases_no_lesion_and_a_constant_erases_all(slices, untrained):
    x = slices.x[:, 0].float()
    verdict = lesion_verdict(untrained, x, slices.mask, PIXEL_MM, "CBCT", "CT", "copy", amount=0.1)
    assert verdict == pytest.approx({"contrast kept": 100, "erased": 0}, abs=0.01)

    class Blind:                                             # a translator that sees nothing
        def slices(self, x, *task):
            return torch.zeros(len(x), 1, 64, 64)

    assert lesion_verdict(Blind(), x, slices.mask, PIXEL_MM, "CBCT", "CT", "vaelite", 0.1) == {"contrast kept": 0, "erased": 100}
    nowhere = torch.zeros_like(slices.mask)
    assert lesion_verdict(untrained, x, nowhere, PIXEL_MM, "CBCT", "CT", "copy", 0.1) == {"contrast kept": None, "erased": None}


def test_the_contrast_of_a_disc_is_its_own(slices):
    x = torch.zeros(1, 64, 64)
    planted, disc = plant_lesions(x, slices.mask[:1], PIXEL_MM, amount=0.1)
    contrast = disc_contrast(planted, PIXEL_MM, 8.0)
    row, column = disc[0].nonzero().float().mean(0).round().long()
    assert contrast[0, row, column] == pytest.approx(contrast.max()) and contrast.max() == pytest.approx(0.1, abs=1e-6)
    assert disc_contrast(x + 0.7, PIXEL_MM, 8.0)[0, 8:-8, 8:-8].abs().max() < 1e-6       # a flat image has none


def test_a_lesion_is_invented_only_where_the_truth_has_none(slices):
    truth, mask = torch.zeros(4, 64, 64), slices.mask[:4]
    with_lesion, _ = plant_lesions(truth, mask, PIXEL_MM, amount=0.1)
    mixed = torch.cat([with_lesion[:1], truth[1:]])
    assert invented_lesions(truth, truth, mask, PIXEL_MM, 0.1) == 0
    assert invented_lesions(mixed, truth, mask, PIXEL_MM, 0.1) == 25
    assert invented_lesions(with_lesion, with_lesion, mask, PIXEL_MM, 0.1) == 0          # it really is there
    assert invented_lesions(truth, with_lesion, mask, PIXEL_MM, 0.1) == 0                # lost, not invented
    assert invented_lesions(truth + 0.3, truth, mask, PIXEL_MM, 0.1) == 0                # a bias is no lesion
    with pytest.raises(VaeliteError, match="NaN or infinite"):
        invented_lesions(truth * float("nan"), truth, mask, PIXEL_MM, 0.1)
    assert invented_lesions(mixed, truth - 1, mask, PIXEL_MM, 0.1) is None               # air: nowhere to look


def test_errors_agree_with_numpy_and_use_only_existing_pairs(slices, untrained):
    errors = direction_errors(untrained, slices, ("copy",))
    x, mask = slices.x.double().numpy(), slices.mask.numpy()
    assert errors["CBCT>CT"]["copy"] == pytest.approx(np.abs(x[:, 0] - x[:, 1])[mask].mean(), rel=1e-3)
    assert errors["CT>T1c"]["copy"] == pytest.approx(np.abs(x[:3, 1] - x[:3, 2])[mask[:3]].mean(), rel=1e-3)
    assert len(errors) == 12


def test_thinning_keeps_all_patients(slices):
    few = thinned(slices, 3)
    assert len(few) == 3 and set(few.case.tolist()) == {0, 1}
    assert len(thinned(slices, 100)) == len(slices)


def row(table, method, source, target, metric, mean, convention):
    return {"table": table, "method": method, "source": source, "target": target, "metric": metric, "mean": mean,
            "values": [mean], "n": 1, "convention": convention}


def test_the_report_card_says_who_wins():
    """We win MAE against copying in one direction of two, and lose the target dose to the U-Net."""
    rows = [row("translation", method, s, t, "MAE", value, "synthrad2023")
            for (s, t), values in {("CBCT", "CT"): (60, 50), ("CT", "CBCT"): (40, 50)}.items()
            for method, value in zip(("vaelite", "copy"), values)]
    rows += [row("dose", "vaelite", "CBCT", "CT", "MAE_target", 0.9, ""), row("dose", "unet", "CBCT", "CT", "MAE_target", 0.3, ""),
             row("gamma", "vaelite", "CBCT", "CT", "gamma 1%/1mm", 98.0, "")]
    answers = {entry["question"]: entry["answer"] for entry in report_card({"rows": rows})}
    assert answers["MAE: better than doing nothing?"] == "1 of 2 directions"
    assert answers["Target dose on the CT made from CBCT: are we the closest?"] == "no: U-Net"
    assert answers["gamma 1 %/1 mm: above 99 % for every patient and source?"] == "no"


def test_more_sources_help_where_their_error_is_clearly_below_the_best_single_one():
    rows = [row("translation", "vaelite", s, t, "MAE", mae, convention) for s, t, mae, convention in
            (("CBCT", "CT", 50, "synthrad2023"), ("T1c", "CT", 90, "synthrad2023"), ("CT", "T1c", 0.2, "mr1"))]
    rows += [row("fusion", "vaelite", "CBCT+T1c", "CT", "MAE", 60, "synthrad2023"),
             row("fusion", "vaelite", "CT+CBCT", "T1c", "MAE", 0.1, "mr1")]
    rows = [entry | {"cases": ["a"]} for entry in rows]
    assert fusion_sentence({"rows": rows}).endswith("(vaelite): lower for T1c (-50.0 %); higher for CT (+20.0 %). Within 2 % is a tie.")


def test_a_width_that_shrinks_where_the_error_grows_is_named():
    where = "8 x 8 pixels in the body"
    rows = [row("uncertainty", "vaelite", source, "CT", metric, value, convention)
            for metric, convention, values in (("coverage", "", (71.0, 84.0)), ("spearman", where, (-0.2, 0.5)))
            for source, value in zip(("T1c", "T2w"), values)]
    said = uncertainty_sentence({"rows": rows})
    assert "hold 71 to 84 %" in said and "-0.20 to +0.50" in said and said.endswith("T1c → CT.")
    assert "negative" not in uncertainty_sentence({"rows": [rows[1], rows[3]]})


def test_the_smoothest_ct_is_named_and_a_copied_mr_is_no_ct():
    ratios = {"unet": 0.45, "ridge": 1.0, "copy": 2.0}
    rows = [row("slices", method, "T1c", "CT", "jump ratio", ratio, "") for method, ratio in ratios.items()]
    assert jumps_sentence({"rows": rows}) == ("Jump ratios: smoother than the anatomy, most of all U-Net from T1c (0.45); "
                                              "none flickers by more than 5 % (at most 1.00). A copied MR is no CT and left out here.")
    assert "none too smooth" in jumps_sentence({"rows": rows[1:]})


def sources_of(doses: tuple[float, float]) -> dict:
    measured = (("stand-in", "MAE", (300.0, 200.0)), ("dose", "MAE_target", doses))
    return {"rows": [row(table, "vaelite", source, "CT", metric, value, "") for table, metric, values in measured
                     for source, value in zip(("T1c", "T2w"), values)]}


def test_the_lower_image_error_need_not_be_the_lower_dose_error():
    said = order_sentence(sources_of((1.0, 4.0)))
    assert "T2w has the lower MAE (200.0 against 300.0 HU), T1c the lower MAE_target (1.00 against 4.00 %)" in said
    assert "has the lower dose error here" in order_sentence(sources_of((4.0, 1.0)))


def test_bone_is_compared_with_bias_also_where_noise_is_near_zero():
    table = judged_table({name: {"ME": error, "fails": 0.0} for name, error in (("bone", 2.0), ("noise", 0.001), ("bias", -4.0))})
    assert "| ME | 2.00 | 0.00 | -4.00 | 400.0 | 0.5 |" in table and table.endswith("| – | – |")


def test_one_knob_turned_is_a_line_each_size():
    curve = {"unit": "%", "amount": [50, 100], "ME_target": [1.0, 0.0], "gamma 2%/2mm": [99.9, 100], "gamma 1%/1mm": [98, 100]}
    _, _, half, whole = sensitivity_table(curve, "bone HU").splitlines()
    assert half == "| 50 | +1.00 | 0.10 | 2.00 |" and whole == "| 100 | +0.00 | 0.00 | 0.00 |"


def test_a_tie_is_no_victory():
    assert verdict({"vaelite": 1.0, "unet": 1.0, "ridge": 2.0}) == "yes, with U-Net"
    assert verdict({"vaelite": 1.0, "unet": 1.5}) == "yes"
