"""Studies of core-hours: what the tables and the figure say is what the result files hold."""
from __future__ import annotations

import numpy as np
import pytest

from vaelite.errors import VaeliteError
from vaelite.evaluation.studies import (
    change_costs,
    draw_budget,
    least_cost,
    load_study,
    mean_over,
    study_table,
    time_to,
    tokenizer_sentence,
    tokenizer_table,
    told_changes,
)


def result(seconds: float, seed: int, **psnr_db: float) -> dict:
    """A study of two directions and one fusion: they score the given PSNR, 2 dB more, and 5 dB more."""
    tasks = {name: {"CT>T1c": {"psnr": value, "ssim": 0.5, "mae": 0.1}, "T1c>CT": {"psnr": value + 2, "ssim": 0.7, "mae": 0.1},
                    "CT+T2w>T1c": {"psnr": value + 5, "ssim": 0.9, "mae": 0.1}} for name, value in psnr_db.items()}
    return {"seconds": seconds, "budget": seconds + 1, "seed": seed, "test_patients": 3, "scores": tasks}


def test_directions_and_fusions_are_averaged_apart():
    tasks = result(60, 0, vaelite=20.0)["scores"]["vaelite"]
    assert mean_over(tasks, "psnr") == pytest.approx(21) and mean_over(tasks, "psnr", fused=True) == pytest.approx(25)


def test_the_spread_is_over_seeds_and_absent_for_one():
    seeds = [result(60, 0, vaelite=20.0), result(60, 1, vaelite=22.0)]
    assert "| vaelite | 22.00 ± 1.41 |" in study_table(seeds)
    assert "±" not in study_table(seeds[:1])


def test_the_dearest_change_comes_first():
    seeds = [result(60, seed, **{"as shipped": 20.0 + seed, "no start": 17.0, "no mixing": 20.5}) for seed in (0, 1)]
    assert list(change_costs(seeds).items()) == [("no start", 3.5), ("no mixing", 0.0)]


def test_what_the_seeds_scatter_by_is_told_from_no_cost():
    """Costs of 3 and 4 dB, and of -0.5 and 0.5 dB: variances of 0.5, so two standard errors of the mean of two are 1 dB."""
    seeds = [result(60, seed, **{"as shipped": 20.0 + seed, "no start": 17.0, "no mixing": 20.5}) for seed in (0, 1)]
    assert least_cost(seeds) == pytest.approx(1)
    with pytest.raises(VaeliteError, match="One seed"):
        least_cost(seeds[:1])


@pytest.mark.parametrize(("control", "said"), [(20.5, "-0.5 dB after 221 s"), (19.0, "+1.0 dB after 221 s")])
def test_the_title_says_who_leads_at_each_time(control, said):
    figure = draw_budget([result(60, 0, vaelite=20.0, control=30.0), result(220, 0, vaelite=20.0, control=control)])
    title = " ".join(figure.get_suptitle().replace("−", "-").split())    # numbers and units are bound by hard spaces
    assert said in title and "-10.0 dB after 61 s" in title


def test_the_time_to_a_psnr_lies_on_a_line_over_log_time_and_is_never_extrapolated():
    """Of directions at 21 and 23 dB after 10 and 1000 s (means of two seeds): 22 dB after 100 s, their geometric mean."""
    seeds = [result(9, 0, vaelite=19.0, copy=15.0), result(9, 1, vaelite=21.0, copy=15.0),
             result(999, 0, vaelite=21.0, copy=15.0), result(999, 1, vaelite=23.0, copy=15.0)]
    assert time_to(seeds, 22)["vaelite"] == pytest.approx(100) and time_to(seeds, 27, fused=True)["vaelite"] == pytest.approx(1000)
    outside = [time_to(seeds, 20.9)["vaelite"], time_to(seeds, 23.1)["vaelite"], time_to(seeds, 22)["copy"]]
    assert np.isnan(outside).all()


def test_a_folder_without_studies_is_named(tmp_path):
    with pytest.raises(VaeliteError, match="whole clone"):
        load_study("compare_*.json", tmp_path)
    assert all(len(study["scores"]) > 3 for study in load_study("compare_64px_*.json"))


def tokenizer(name: str, psnr_db: float, collapsed: int | None) -> dict:
    quality = {"CT": {"psnr": psnr_db + 5, "ssim": 0.9, "kid": 0.001}, "T1c": {"psnr": psnr_db - 5, "ssim": 0.7, "kid": 0.003}}
    return {"tokenizer": name, "floats": 256, "indices": None, "bits": 8192, "steps": 100, "quality": quality, "nats_per_latent": 5.0,
            "collapsed_channels": collapsed}


def test_tokenizers_are_told_apart_by_their_means_over_modalities():
    study = {"tokenizers": [tokenizer("KL-8", 20.0, 0), tokenizer("KL-16", 21.0, 0),
                            tokenizer("VQ-16", 18.0, None) | {"indices": 16, "bits": 160, "nats_per_latent": None}]}
    assert "VQ-16 says least: 160 bits a slice." in tokenizer_sentence(study)
    assert tokenizer_sentence(study).startswith("KL-16 keeps more in 256 numbers than KL-8 in 256: 21.0 against 20.0 dB.")
    assert tokenizer_sentence(study).endswith("Channels collapsed (below 0.01 nat a latent): none.")
    study["tokenizers"].append(tokenizer("beta 1", 10.0, 16) | {"nats_per_latent": np.log(2) / 4})
    assert "beta 1 says least: 64 bits a slice." in tokenizer_sentence(study)
    assert tokenizer_sentence(study).endswith(": 16 channels of beta 1.")
    assert "| KL-16 | 256 numbers | 8,192 | 100 | 21.0 | 0.800 | 2.0 | 5.00 | 0 |" in tokenizer_table(study)


def test_a_cost_of_changing_sign_is_not_told():
    """Costs of 3 and 4 dB are told. -0.1 and 3 dB are beyond the limit on average, yet the seeds disagree."""
    nothing = dict.fromkeys("abcdef", 20.0)                  # steady parts: they lower the limit for all
    seeds = [result(60, seed, **nothing, **{"as shipped": 20.0, "no start": 17.0 - seed, "no mixing": 20.1 - 3.1 * seed})
             for seed in (0, 1)]
    assert change_costs(seeds)["no mixing"] > least_cost(seeds)
    assert list(told_changes(seeds)) == ["no start"]
    seeds[0]["scores"]["no mixing"]["CT>T1c"]["psnr"] -= 0.4     # its directions now cost -0.1 and 0.3 dB: 0.1 on average
    assert change_costs(seeds)["no mixing"] > least_cost(seeds), "of one sign, but nothing in the first seed"
    assert list(told_changes(seeds)) == ["no start"]
