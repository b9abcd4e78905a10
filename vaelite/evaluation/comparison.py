"""How sure is a mean over a few patients, and is one method better than another? The unit is the patient, never the slice."""
from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from ..errors import VaeliteError

FEWEST = 3                                                   # patients; below it no interval and no test is given
RESAMPLES = 10_000


def bootstrap_interval(values, level: float = 0.95) -> list[float] | None:
    """[low, high]: confidence interval of the mean, patients drawn with replacement; None below 3 patients.

    values: (n,), one a patient. Always the same draws, so that the same values give the same interval. The plain percentile
    interval is too narrow for few patients (of 6, "95 %" holds the truth in 88 %); taking wider percentiles, so that normal
    data give Student's t, mends it (94 %). Source: Hesterberg 2015, The American Statistician 69:371, section 5.1.
    """
    values = _finite(values)
    if values.size < FEWEST:
        return None
    drawn = np.random.default_rng(0).integers(values.size, size=(RESAMPLES, values.size))
    t = stats.t.ppf((1 + level) / 2, values.size - 1)
    outside = stats.norm.cdf(-t * np.sqrt(values.size / (values.size - 1)))
    return np.quantile(values[drawn].mean(1), (outside, 1 - outside)).tolist()


def half_widths(values, level: float = 0.95) -> list[float]:
    """Half the width of Student's t interval of the mean of the first 1, 2, ... n values; nan for one (small n, unknown SD)."""
    values = np.asarray(values, dtype=np.float64)
    return [np.nan] + [float(stats.t.ppf((1 + level) / 2, n - 1) * values[:n].std(ddof=1) / np.sqrt(n))
                       for n in range(2, values.size + 1)]


def paired_comparison(ours, theirs) -> dict[str, Any]:
    """ours minus theirs, patient by patient: {"values", "mean", "sd", "n", "ci95", "p"}.

    p: `signed_rank_p`; None below 3 patients. Raises VaeliteError for lists of unequal length.
    """
    ours, theirs = _finite(ours), _finite(theirs)
    if ours.shape != theirs.shape or ours.ndim != 1 or not ours.size:
        raise VaeliteError(f"{ours.size} values cannot be paired with {theirs.size}. Give both for the same patients, in order.")
    difference = ours - theirs
    p = signed_rank_p(difference) if difference.size >= FEWEST else None
    sd = float(difference.std(ddof=1)) if difference.size > 1 else None
    return {"values": difference.tolist(), "mean": float(difference.mean()), "sd": sd, "n": difference.size,
            "ci95": bootstrap_interval(difference), "p": p}


def signed_rank_p(difference: np.ndarray) -> float:
    """Two-sided Wilcoxon signed-rank test; zeros are ranked, then dropped (Pratt 1959). Exact up to 13 patients: of n = 6 it is
    never below 2 / 2^6 = 0.031. 1 if no patient differs."""
    return float(stats.wilcoxon(difference, zero_method="pratt").pvalue) if np.any(difference) else 1.0


def holm(p_values) -> list[float]:
    """p-values of several tests, corrected so that any false alarm among all has the stated chance (Holm 1979)."""
    p = _finite(p_values)
    order = p.argsort()
    corrected = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)).clip(max=1)
    return corrected[order.argsort()].tolist()


def _finite(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise VaeliteError("A value is NaN or infinite (a PSNR is, where two pictures agree in every voxel): leave that patient "
                           "out of all methods, and say so.")
    return values
