"""What a reader study says, and how far its readers agree.

The unit is the patient: slices of one patient are not independent, so scores are averaged over slices and readers first.
Rows come from `Study.unblind`. Agreement always stands beside the scores: over 31 radiologists Fleiss' kappa can be 0.12.
"""
from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from scipy import stats

from ..errors import VaeliteError
from ..evaluation.comparison import holm, signed_rank_p
from ..evaluation.rows import markdown
from .answers import CRITERIA

Rows = Sequence[dict[str, Any]]


def reader_report(rows: Rows) -> dict[str, Any]:
    """{"readers", "criteria": a row a criterion, "guesses": a row a reader} of an unblinded study.

    shift: synthetic - real on the 5-point scale, Hodges-Lehmann, with its interval; p: Wilcoxon, p_holm: over the criteria.
    """
    if not rows:
        raise VaeliteError("There are no answers to summarise. Let at least one reader answer and lock, then unblind.")
    criteria = [{"criterion": name, **compare(rows, name), **agreement(rows, name)} for name in CRITERIA]
    for row, p in zip(criteria, holm([row["p"] for row in criteria])):
        row["p_holm"] = p
    readers = sorted({row["reader"] for row in rows})
    return {"readers": readers, "criteria": criteria, "guesses": [guesses(rows, reader) for reader in readers]}


# ------------------------------------------------------------------------------------------------------------ comparison
def compare(rows: Rows, criterion: str) -> dict[str, Any]:
    """Real against synthetic: means over patients, shift with interval, p. Repeats are left out: they would count twice."""
    means = {}
    for real in (True, False):
        means[real] = [np.mean([row[criterion] for row in rows
                                if row["patient"] == patient and row["real"] is real and row["repeat_of"] is None])
                       for patient in sorted({row["patient"] for row in rows})]
    # means of thirds differ in the last bit where they are equal, and a rank must not hang on that
    difference = np.round(np.subtract(means[False], means[True]), 9)
    shift, low, high, confidence = hodges_lehmann(difference)
    return {"n": len(difference), "real": float(np.mean(means[True])), "synthetic": float(np.mean(means[False])),
            "shift": shift, "low": low, "high": high, "confidence": confidence, "p": signed_rank_p(difference)}


def hodges_lehmann(difference: np.ndarray, confidence: float = 0.95) -> tuple[float, float, float, float]:
    """Median of all pairwise means, and the interval of shifts that the signed-rank test does not reject.

    difference (n,) -> shift, low, high, confidence reached (n = 5 cannot give 95 %: then the widest interval there is).
    Source: Hollander and Wolfe 1973, sections 3.2 and 3.3.
    """
    n = len(difference)
    i, j = np.triu_indices(n)
    walsh = np.sort((difference[i] + difference[j]) / 2)
    counts = np.ones(1)                                      # of the sets of ranks with each sum, if every sign is a coin toss
    for rank in range(1, n + 1):
        counts = np.convolve(counts, [1.0, *[0.0] * (rank - 1), 1.0])
    tail = np.cumsum(counts) / 2.0**n
    cut = max(1, int(np.searchsorted(tail, (1 - confidence) / 2)))
    return float(np.median(walsh)), float(walsh[cut - 1]), float(walsh[-cut]), float(1 - 2 * tail[cut - 1])


# ------------------------------------------------------------------------------------------------------------- agreement
def agreement(rows: Rows, criterion: str) -> dict[str, Any]:
    """Of each reader with himself (repeats, pooled) and of the readers with each other; None where it is undefined."""
    first = {(row["reader"], row["picture"]): row[criterion] for row in rows if row["repeat_of"] is None}
    again = [(first[row["reader"], row["repeat_of"]], row[criterion]) for row in rows if row["repeat_of"] is not None]
    pictures, readers = sorted({picture for _, picture in first}), sorted({reader for reader, _ in first})
    table = np.array([[first[reader, picture] for reader in readers] for picture in pictures], dtype=float)
    between = [weighted_kappa(table[:, a], table[:, b]) for a, b in combinations(range(len(readers)), 2)]
    between = [kappa for kappa in between if kappa is not None]
    return {"repeats": len(again), "kappa_intra": weighted_kappa(*np.transpose(again)) if again else None,
            "kappa_inter": float(np.mean(between)) if between else None,     # mean over pairs of readers: Light 1971
            "icc_2_1": icc(table, 1), "icc_2_k": icc(table, table.shape[1])}


def weighted_kappa(a: np.ndarray, b: np.ndarray) -> float | None:
    """Agreement of two ratings (n,) beyond chance, disagreement weighted by its square (Cohen 1968). 1 = always equal.

    None if every rating is the same: then chance agrees as well, and there is nothing to divide by.
    """
    by_chance = np.mean(np.subtract.outer(a, b) ** 2.0)
    return float(1 - np.mean(np.subtract(a, b) ** 2.0) / by_chance) if by_chance else None


def icc(table: np.ndarray, k: int) -> float | None:
    """ICC(2,k): would the mean of k other readers order and level the pictures alike? k = 1: a single other reader.

    table (pictures, readers), two-way random effects, absolute agreement. None with one reader or without any variance.
    Source: Shrout and Fleiss 1979.
    """
    n, m = table.shape
    if n < 2 or m < 2:
        return None
    total = ((table - table.mean()) ** 2).sum()
    between = m * ((table.mean(1) - table.mean()) ** 2).sum()
    raters = n * ((table.mean(0) - table.mean()) ** 2).sum()
    bms, jms = between / (n - 1), raters / (m - 1)
    ems = (total - between - raters) / ((n - 1) * (m - 1))
    one = (bms - ems) / scale if (scale := bms + (m - 1) * ems + m * (jms - ems) / n) > 1e-12 else None
    return None if one is None else float(k * one / (1 + (k - 1) * one))     # Spearman-Brown; k = m is their ICC(2,k)


# --------------------------------------------------------------------------------------------------------------- guesses
def guesses(rows: Rows, reader: str) -> dict[str, Any]:
    """Real or synthetic? Correct guesses with their exact interval and p against a coin, and the area under the ROC curve.

    auc: the chance that a real picture looked more surely real than a synthetic one; 0.5 = cannot tell.
    """
    own = [row for row in rows if row["reader"] == reader and row["repeat_of"] is None]
    correct = sum((row["looks"] == "real") == row["real"] for row in own)
    test = stats.binomtest(correct, len(own), 0.5)
    interval = test.proportion_ci(method="exact")            # Clopper and Pearson 1934
    belief = {real: [row["confidence"] * (1 if row["looks"] == "real" else -1) for row in own if row["real"] is real]
              for real in (True, False)}
    u = stats.mannwhitneyu(belief[True], belief[False]).statistic
    return {"reader": reader, "n": len(own), "correct": correct, "low": float(interval.low), "high": float(interval.high),
            "p": float(test.pvalue), "auc": float(u / (len(belief[True]) * len(belief[False])))}


# ----------------------------------------------------------------------------------------------------------------- power
def power(patients: int, shift: float = 0.5, readers: int = 3, slices: int = 4, patient_sd: float = 0.5,
          reading_sd: float = 0.7, alpha: float = 0.05 / len(CRITERIA), trials: int = 1000, seed: int = 0) -> float:
    """How often a study of this size would find that synthetic slices score lower by `shift` points -> fraction of trials.

    Each rating is 4 (real) or 4 - shift (synthetic), rounded to 1..5 after adding scatter: `patient_sd` of the difference
    between patients, `reading_sd` of every single rating. alpha: 5 % over five criteria, the strictest step of Holm.
    The two SDs are our choice; take yours from a pilot study, since everything hangs on them.
    """
    generator = np.random.default_rng(seed)

    def ratings(level: Any) -> np.ndarray:
        noise = generator.normal(0, reading_sd, (trials, patients, readers * slices))
        return np.clip(np.round(level + noise), 1, 5).mean(-1)

    difference = ratings(4 - shift + generator.normal(0, patient_sd, (trials, patients, 1))) - ratings(4.0)
    untied = difference + generator.normal(0, 1e-6, difference.shape)    # ties broken by chance: the test is exact then
    return float((stats.wilcoxon(untied, axis=1, method="exact" if patients <= 50 else "asymptotic").pvalue < alpha).mean())


def patients_needed(most: int = 200, wanted: float = 0.8, **design: Any) -> int | None:
    """The smallest number of test patients with which `power` reaches `wanted`; None if `most` are too few."""
    return next((patients for patients in range(5, most + 1) if power(patients, **design) >= wanted), None)


# ---------------------------------------------------------------------------------------------------------------- tables
def reader_tables(report: dict[str, Any]) -> str:
    """A report as Markdown: scores, agreement, guesses."""
    rows = report["criteria"]

    def text(value: float | None, style: str = ".2f") -> str:
        return "undefined" if value is None else f"{value:{style}}"

    scores = [[row["criterion"], text(row["real"]), text(row["synthetic"]),
               f"{row['shift']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f}, {100 * row['confidence']:.0f} %)",
               text(row["p"], ".3f"), text(row["p_holm"], ".3f"), str(row["n"])] for row in rows]
    agreed = [[row["criterion"], text(row["kappa_intra"]), str(row["repeats"]), text(row["kappa_inter"]),
               text(row["icc_2_1"]), text(row["icc_2_k"])] for row in rows]
    guessed = [[row["reader"], f"{row['correct']} of {row['n']}", f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %",
                text(row["p"], ".3f"), text(row["auc"])] for row in report["guesses"]]
    k = len(report["readers"])
    return "\n\n".join([
        markdown(["criterion, 1 to 5", "real", "synthetic", "shift (interval)", "p", "p, Holm", "patients"], scores),
        markdown(["agreement", "kappa with oneself", "repeats", "kappa between readers", "ICC(2,1)", f"ICC(2,{k})"], agreed),
        markdown(["real or synthetic?", "correct", "95 % interval", "p against a coin", "AUC"], guessed)])
