"""The exercises of lessons 01 and 02: each check rejects plausible wrong answers and accepts the hidden solution."""

from __future__ import annotations

import math
from pathlib import Path

import jupytext
import pytest
import torch

from vaelite import exercises

FOLDER = Path(__file__).parents[1] / "notebooks"


def cells_of(notebook: str, name: str) -> dict[str, str]:
    """The exercise, check and solution cells about one function, by tag."""
    found = {}
    for cell in jupytext.read(FOLDER / f"{notebook}.py").cells:
        for tag in {"exercise", "check", "solution"} & set(cell.metadata.get("tags", [])):
            if f"my_{name}" in cell.source:
                found[tag] = cell.source
    assert sorted(found) == ["check", "exercise", "solution"], f"{notebook} has no complete exercise my_{name}"
    return found


def namespace_after(*sources: str) -> dict:
    namespace = {"math": math, "torch": torch, **vars(exercises)}
    for source in sources:
        exec(source, namespace)
    return namespace


def with_ones(x):
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def softmax(q, k, dim=1, scale=None):
    return torch.softmax(q @ k.T / (scale or math.sqrt(q.shape[1])), dim=dim)


WRONG = {
    ("01_vae", "projection"): {
        "patch unchanged": lambda p, m, c: p,
        "mean only": lambda p, m, c: m,
        "mean not subtracted": lambda p, m, c: m + c.T @ (c @ p),
        "mean not added": lambda p, m, c: c.T @ (c @ (p - m)),
        "no mean at all": lambda p, m, c: c.T @ (c @ p),
        "coefficients only": lambda p, m, c: c @ (p - m),
        "first pattern only": lambda p, m, c: m + c[0] * (c[0] @ (p - m)),
        "not turned back": lambda p, m, c: m + c @ (p - m),
        "turned at once": lambda p, m, c: m + c.T @ (p - m),
    },
    ("01_vae", "sample"): {
        "variance for sigma": lambda mean, logvar, noise: mean + math.exp(logvar) * noise,
        "log variance for sigma": lambda mean, logvar, noise: mean + logvar * noise,
        "sigma forgotten": lambda mean, logvar, noise: mean + noise,
        "mean forgotten": lambda mean, logvar, noise: math.exp(0.5 * logvar) * noise,
        "minus": lambda mean, logvar, noise: mean - math.exp(0.5 * logvar) * noise,
        "no noise": lambda mean, logvar, noise: mean + math.exp(0.5 * logvar),
        "one number only": lambda mean, logvar, noise: mean + math.exp(logvar / 2) * noise,
        "all detached": lambda mean, logvar, noise: (mean + torch.exp(logvar / 2) * noise).detach(),
        "detached": lambda mean, logvar, noise: mean + torch.exp(logvar.detach() / 2) * noise,
    },
    ("01_vae", "kl"): {
        "always zero": lambda mu, logvar: 0.0,
        "half forgotten": lambda mu, logvar: mu**2 + torch.exp(logvar) - 1 - logvar,
        "one forgotten": lambda mu, logvar: 0.5 * (mu**2 + torch.exp(logvar) - logvar),
        "sign of logvar": lambda mu, logvar: 0.5 * (mu**2 + torch.exp(logvar) - 1 + logvar),
        "sigma for variance": lambda mu, logvar: 0.5 * (mu**2 + torch.exp(logvar / 2) - 1 - logvar / 2),
        "mu not squared, signed": lambda mu, logvar: 0.5 * (mu + torch.exp(logvar) - 1 - logvar),
        "log sigma for log variance": lambda mu, logvar: 0.5 * (mu**2 + torch.exp(logvar) - 1 - logvar / 2),
        "mu not squared": lambda mu, logvar: 0.5 * (abs(mu) + torch.exp(logvar) - 1 - logvar),
        "variance squared": lambda mu, logvar: 0.5 * (mu**2 + torch.exp(logvar) ** 2 - 1 - logvar),
        "mean only": lambda mu, logvar: 0.5 * mu**2,
        "logvar for variance": lambda mu, logvar: 0.5 * (mu**2 + logvar - 1 - logvar),
        "math.exp": lambda mu, logvar: 0.5 * (mu**2 + math.exp(logvar) - 1 - logvar),
        "terms exchanged": lambda mu, logvar: 0.5 * (mu**2 + logvar - 1 - torch.exp(logvar)),
        "sign of all": lambda mu, logvar: -0.5 * (mu**2 + torch.exp(logvar) - 1 - logvar),
        "logarithm of the logarithm": lambda mu, logvar: 0.5 * (mu**2 + torch.exp(logvar) - 1 - torch.log(logvar)),
        "logvar taken for the variance": lambda mu, logvar: 0.5 * (mu**2 + logvar - 1 - torch.log(logvar)),
        "summed": lambda mu, logvar: (0.5 * (mu**2 + torch.exp(logvar) - 1 - logvar)).sum(),
        "averaged": lambda mu, logvar: (0.5 * (mu**2 + torch.exp(logvar) - 1 - logvar)).mean(),
        "in bits": lambda mu, logvar: 0.5 * (mu**2 + torch.exp(logvar) - 1 - logvar) / math.log(2),
    },
    ("02_latent_mapper", "least_squares"): {
        "no intercept": lambda x, y: torch.linalg.solve(x.T @ x, x.T @ y),
        "intercept always zero": lambda x, y: torch.cat([torch.linalg.solve(x.T @ x, x.T @ y), 0 * y[:1]]),
        "intercept first": lambda x, y: torch.linalg.lstsq(with_ones(x).flip(1), y).solution,
        "not divided": lambda x, y: with_ones(x).T @ y,
        "known answer": lambda x, y: torch.tensor([2.0, -3.0, 0.0], dtype=torch.double),
        "large penalty": lambda x, y: torch.linalg.solve(
            with_ones(x).T @ with_ones(x) + torch.eye(3), with_ones(x).T @ y),
        "X not squared": lambda x, y: torch.linalg.solve(with_ones(x), y),
        "ones lie flat": lambda x, y: torch.cat([x, torch.ones(len(x))], 1),
        "mean of y as intercept": lambda x, y: torch.cat([torch.linalg.solve(x.T @ x, x.T @ y), y.mean()[None]]),
    },
    ("02_latent_mapper", "attention"): {
        "values unchanged": lambda q, k, v: v,
        "plain mean": lambda q, k, v: v.mean(0).expand(len(q), -1),
        "not scaled": lambda q, k, v: softmax(q, k, scale=1.0) @ v,
        "divided by d": lambda q, k, v: softmax(q, k, scale=q.shape[1]) @ v,
        "divided too late": lambda q, k, v: softmax(q, k, scale=1.0) @ v / math.sqrt(q.shape[1]),
        "wrong axis": lambda q, k, v: softmax(q, k, dim=0) @ v,
        "keys and queries exchanged": lambda q, k, v: softmax(k, q) @ v,
        "no softmax": lambda q, k, v: q @ k.T / math.sqrt(q.shape[1]) @ v,
        "features compared": lambda q, k, v: torch.softmax(q.T @ k / math.sqrt(q.shape[1]), 1) @ v,
        "nothing turned": lambda q, k, v: torch.softmax(q @ k / math.sqrt(q.shape[1]), 1) @ v,
        "causal": lambda q, k, v: torch.softmax(
            (q @ k.T / math.sqrt(q.shape[1])).masked_fill(torch.ones(3, 3).triu(1).bool(), -math.inf), 1) @ v,
    },
    ("02_latent_mapper", "skill"): {
        "ratio": lambda error, copy: error / copy,
        "ratio turned over": lambda error, copy: copy / error,
        "divided by the error": lambda error, copy: (copy - error) / error,
        "turned over and from 1": lambda error, copy: 1 - copy / error,
        "sign and scale": lambda error, copy: (error - copy) / copy,
        "difference": lambda error, copy: copy - error,
        "divided by its own error": lambda error, copy: (copy - error) / max(error, 1e-9),
        "never negative": lambda error, copy: max(0.0, 1 - error / copy),
        "squared": lambda error, copy: 1 - (error / copy) ** 2,
        "sign": lambda error, copy: error / copy - 1,
        "percentage": lambda error, copy: 100 * (1 - error / copy),
    },
}
EXERCISES = list(WRONG)
HINTS = {                                                    # the words that lead on from a mistake often made
    ("01_vae", "projection", "not turned back"): "components.T",
    ("01_vae", "projection", "turned at once"): "components.T",
    ("01_vae", "sample", "minus"): "the sign is meant",
    ("01_vae", "sample", "one number only"): "torch.exp",
    ("01_vae", "sample", "detached"): "detached",
    ("01_vae", "sample", "all detached"): "detached",
    ("01_vae", "kl", "logarithm of the logarithm"): "the logarithm already",
    ("01_vae", "kl", "logvar taken for the variance"): "the logarithm already",
    ("01_vae", "kl", "summed"): "neither their sum",
    ("01_vae", "kl", "averaged"): "neither their sum",
    ("02_latent_mapper", "attention", "divided too late"): "inside the exp",
    ("01_vae", "kl", "one forgotten"): "the - 1",
    ("01_vae", "kl", "logvar for variance"): "exp(logvar)",
    ("01_vae", "kl", "terms exchanged"): "exp(logvar)",
    ("01_vae", "kl", "math.exp"): "torch.exp",
    ("01_vae", "kl", "mu not squared"): "square mu",
    ("01_vae", "kl", "mu not squared, signed"): "square mu",
    ("01_vae", "kl", "log sigma for log variance"): "half of it",
    ("02_latent_mapper", "least_squares", "X not squared"): "X.T @ X",
    ("02_latent_mapper", "least_squares", "ones lie flat"): "a column (n, 1)",
    ("02_latent_mapper", "attention", "features compared"): "q @ k.T is (n, n)",
    ("02_latent_mapper", "attention", "nothing turned"): "q @ k.T is (n, n)",
    ("02_latent_mapper", "attention", "keys and queries exchanged"): "q @ k.T, not k @ q.T",
    ("02_latent_mapper", "skill", "ratio"): "1 minus it",
    ("02_latent_mapper", "skill", "difference"): "has a unit",
    ("02_latent_mapper", "skill", "sign and scale"): "sign turned",
    ("02_latent_mapper", "skill", "divided by the error"): "not by the error",
    ("02_latent_mapper", "skill", "ratio turned over"): "turned over",
    ("02_latent_mapper", "skill", "turned over and from 1"): "not turned over",
    ("02_latent_mapper", "skill", "percentage"): "as a percentage",
}
RIGHT = {                                                    # other ways to write it than the hidden solution's
    ("01_vae", "sample"): {
        "method of a tensor": lambda mean, logvar, noise: mean + (0.5 * logvar).exp() * noise,
        "square root": lambda mean, logvar, noise: mean + torch.sqrt(torch.exp(logvar)) * noise,
    },
    ("01_vae", "kl"): {
        "halved at the end": lambda mu, logvar: (mu**2 + torch.exp(logvar) - 1 - logvar) / 2,
        "method of a tensor": lambda mu, logvar: 0.5 * (mu.square() + logvar.exp() - 1 - logvar),
        "its logarithm taken": lambda mu, logvar: 0.5 * (mu**2 + torch.exp(logvar) - 1 - torch.exp(logvar).log()),
    },
}


def name_of(exercise) -> str:
    return "-".join(exercise)


@pytest.mark.parametrize("exercise", EXERCISES, ids=name_of)
def test_the_stub_keeps_the_notebook_running(exercise, capsys):
    cells = cells_of(*exercise)
    namespace_after(cells["exercise"], cells["check"])
    assert capsys.readouterr().out == "not attempted yet\n"


@pytest.mark.parametrize("exercise", EXERCISES, ids=name_of)
def test_the_solution_passes_the_same_check(exercise, capsys):
    cells = cells_of(*exercise)
    namespace_after(cells["exercise"], cells["check"], cells["solution"])
    assert capsys.readouterr().out.splitlines()[-1] == "correct"


@pytest.mark.parametrize(
    ("exercise", "answer"), [(exercise, answer) for exercise, answers in WRONG.items() for answer in answers],
    ids=lambda value: value if isinstance(value, str) else name_of(value))
def test_a_wrong_answer_is_rejected_with_a_hint(exercise, answer):
    check = getattr(exercises, f"check_{exercise[1]}")
    with pytest.raises(AssertionError) as rejected:
        check(WRONG[exercise][answer])
    assert len(str(rejected.value)) > 15, "a rejected answer deserves a hint"
    assert HINTS.get((*exercise, answer), "") in str(rejected.value)


@pytest.mark.parametrize(
    ("exercise", "answer"), [(exercise, answer) for exercise, answers in RIGHT.items() for answer in answers],
    ids=lambda value: value if isinstance(value, str) else name_of(value))
def test_a_right_answer_may_be_written_another_way(exercise, answer):
    assert getattr(exercises, f"check_{exercise[1]}")(RIGHT[exercise][answer]) == "correct"


@pytest.mark.parametrize("notebook", ["01_vae", "02_latent_mapper"])
def test_every_exercise_of_the_notebook_is_tested_here(notebook):
    all_cells = jupytext.read(FOLDER / f"{notebook}.py").cells
    checks = [cell.source for cell in all_cells if "check" in cell.metadata.get("tags", [])]
    tested = [name for lesson, name in EXERCISES if lesson == notebook]
    assert len(checks) == len(tested) >= 3
    assert all(len(WRONG[notebook, name]) >= 3 for name in tested)
