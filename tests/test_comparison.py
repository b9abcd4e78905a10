"""Intervals that hold what they promise, tests that agree with counting, corrections that agree with the textbook."""
from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from vaelite.errors import VaeliteError
from vaelite.evaluation.comparison import bootstrap_interval, half_widths, holm, paired_comparison
from vaelite.evaluation.images import comparison_rows
from vaelite.evaluation.tables import comparison_table


@pytest.mark.parametrize("n", [6, 17])
def test_an_interval_of_95_percent_holds_the_mean_in_about_95_percent(n):
    rng = np.random.default_rng(0)
    held = [low <= 0 <= high for low, high in (bootstrap_interval(rng.normal(size=n)) for _ in range(600))]
    assert 0.92 < np.mean(held) < 0.975                      # three standard errors around 0.945; the plain one of 6: 0.88


def test_the_interval_is_student_s_for_many_normal_values():
    values = np.random.default_rng(1).normal(10, 2, 200)
    expected = stats.t.interval(0.95, 199, values.mean(), stats.sem(values))
    np.testing.assert_allclose(bootstrap_interval(values), expected, atol=0.03)


def test_the_interval_is_the_same_each_time_and_absent_for_two_patients():
    assert bootstrap_interval([1.0, 5.0, 2.0]) == bootstrap_interval([1.0, 5.0, 2.0])
    assert bootstrap_interval([1.0, 2.0]) is None
    assert bootstrap_interval([3.0, 3.0, 3.0]) == [3.0, 3.0]


def test_p_agrees_with_trying_all_signs():
    ours, theirs = np.array([5.1, 4.0, 6.2, 5.5, 4.9, 7.0]), np.array([5.9, 4.3, 6.1, 7.5, 6.0, 9.5])
    difference = ours - theirs
    ranks = stats.rankdata(np.abs(difference))
    observed = abs((np.sign(difference) * ranks).sum())
    sums = [abs((np.array(signs) * ranks).sum()) for signs in itertools.product((-1, 1), repeat=6)]
    assert paired_comparison(ours, theirs)["p"] == pytest.approx(np.mean(np.array(sums) >= observed))


def test_six_patients_that_all_agree_reach_one_in_32():
    found = paired_comparison(np.arange(6.0), np.arange(6.0) + [1, 2, 3, 4, 5, 6])
    assert found["p"] == pytest.approx(2 / 64) and found["mean"] == -3.5 and found["n"] == 6
    assert found["ci95"][1] < 0


def test_equal_methods_do_not_differ():
    same = paired_comparison([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert same["p"] == 1.0 and same["mean"] == 0.0
    with pytest.raises(VaeliteError, match="cannot be paired"):
        paired_comparison([1.0, 2.0], [1.0])


def test_holm_is_the_textbook_s():
    """Holm 1979: the smallest p times m, the next times m - 1, ..., never smaller than the one before."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([0.03]) == [0.03]


def rows_of_two_methods(n: int) -> list[dict]:
    rng, cases = np.random.default_rng(0), [f"p{i}" for i in range(n)]
    hard = rng.normal(60, 20, n)                             # patients differ by more than the methods do
    return [{"table": "translation", "method": method, "source": "CBCT", "target": "CT", "metric": "MAE", "unit": "HU",
             "convention": "synthrad2023", "split": "test", "cases": cases, "n": n,
             "values": (hard + gain + rng.normal(0, 1, n)).tolist()} for method, gain in (("vaelite", -5), ("unet", 0), ("ridge", 2))]


def test_a_pairing_finds_what_unpaired_means_hide():
    rows = rows_of_two_methods(12)
    found = {row["baseline"]: row for row in comparison_rows(rows)}
    assert found["unet"]["mean"] == pytest.approx(-5, abs=1.5) and found["unet"]["p_holm"] < 0.01
    assert stats.mannwhitneyu(rows[0]["values"], rows[1]["values"]).pvalue > 0.05
    assert found["unet"]["p_holm"] >= found["unet"]["p"] and found["unet"]["comparisons"] == 2


@pytest.mark.parametrize("n", [1, 6, 12])
def test_the_table_states_n_and_says_when_no_proof_is_possible(n):
    text = comparison_table({"rows": comparison_rows(json.loads(json.dumps(rows_of_two_methods(n))))}, "CT")
    assert f"{n} of {n} | " in text and "U-Net" in text and "95 % interval" in text
    assert ("can reach 0.05" in text) == (n == 6)
    assert ("below 0.05 it needs n >= 6, corrected over 2 comparisons n >= 7" in text) == (n == 1)


def test_the_half_width_is_that_of_scipy_and_unknown_for_one_patient():
    values = [40.0, 50.0, 47.0]
    low, high = stats.t.interval(0.95, 2, np.mean(values), stats.sem(values))
    assert np.isnan(half_widths(values)[0]) and half_widths(values)[2] == pytest.approx((high - low) / 2)


@pytest.mark.parametrize("judge", [lambda x: bootstrap_interval(x), lambda x: paired_comparison(x, [1.0, 2.0, 3.0]), lambda x: holm(x)])
def test_a_value_that_is_no_number_is_refused(judge):
    with pytest.raises(VaeliteError, match="NaN or infinite"):
        judge([0.1, float("nan"), 0.2])


def test_two_perfect_psnr_have_no_difference():
    with pytest.raises(VaeliteError, match="agree in every voxel"):
        paired_comparison([float("inf"), 30.0, 31.0], [float("inf"), 29.0, 30.0])
