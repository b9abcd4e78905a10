"""The exercises of lessons 03 and 04: stubs wait, solutions pass, and plausible wrong answers are told apart."""
from __future__ import annotations

import math
from pathlib import Path

import jupytext
import numpy as np
import pytest

from vaelite import exercises as checks

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def exercises(stem: str) -> dict[str, dict[str, str]]:
    """{name of the student's function: {"exercise": source, "check": source, "solution": source}}."""
    found, current = {}, {}
    for cell in jupytext.read(NOTEBOOKS / f"{stem}.py").cells:
        for step in {"exercise", "check", "solution"} & set(cell.metadata.get("tags", [])):
            current[step] = cell.source
            if step == "solution":
                name = current["exercise"].split("def ")[1].split("(")[0]
                found[name], current = current, {}
    return found


ALL = exercises("03_decoder_finetune") | exercises("04_eval_dosimetry")


def run(name: str, *steps: str) -> dict:
    """Run cells of one exercise in an empty notebook that has numpy and the checks."""
    scope = {"np": np, **vars(checks)}
    for step in steps:
        exec(ALL[name][step], scope)
    return scope


def check_of(name: str):
    return getattr(checks, name.replace("my_", "check_"))


def first(errors):
    return {name: "finetuned" for name in errors}


WRONG = {
    "my_best_constant": {
        "the samples": lambda s: s, "mean": lambda s: float(np.mean(s)), "middle of the range": lambda s: (s.min() + s.max()) / 2, "zero": lambda s: 0.0,
        "minimum": lambda s: float(s.min()), "first": lambda s: float(s[0]), "not sorted": lambda s: float(s[len(s) // 2]),
        "each value once": lambda s: float(np.unique(s)[(len(np.unique(s)) - 1) // 2])},
    "my_ssim": {
        "no factors 2": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: (a * b + c1) / (a**2 + b**2 + c1) * (c + c2) / (v + w + c2),
        "brightness only": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: (2 * a * b + c1) / (a**2 + b**2 + c1),
        "structure only": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: (2 * c + c2) / (v + w + c2),
        "correlation": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: (2 * a * b + c1) / (a**2 + b**2 + c1) * (c + c2) / (math.sqrt(v * w) + c2),
        "mean of the two": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: ((2 * a * b + c1) / (a**2 + b**2 + c1) + (2 * c + c2) / (v + w + c2)) / 2,
        "constants below only": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: 4 * a * b * c / ((a**2 + b**2 + c1) * (v + w + c2)),
        "constants swapped": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: (2 * a * b + c2) / (a**2 + b**2 + c2) * (2 * c + c1) / (v + w + c1),
        "no constants": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: 4 * a * b * c / ((a**2 + b**2) * (v + w)),
        "one number a window": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: np.ones(3),
        "constants typed": lambda a, b, v, w, c, c1=1e-4, c2=1e-4: (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4) * (2 * c + 1e-4) / (v + w + 1e-4)},
    "my_choice": {
        "the error": lambda e: {name: min(of.values()) for name, of in e.items()},
        "always the new one": first,
        "the first name": lambda errors: {name: min(e) for name, e in errors.items()},
        "the larger error": lambda errors: {name: max(e, key=e.get) for name, e in errors.items()},
        "one for all": lambda errors: dict.fromkeys(errors, min(next(iter(errors.values())), key=lambda m: sum(e[m] for e in errors.values()))),
        "two of the three": lambda errors: {name: min(("mapped", "finetuned"), key=e.get) for name, e in errors.items()},
        "only the better ones": lambda errors: {name: "finetuned" for name, e in errors.items() if e["finetuned"] < e["mapped"]},
        "from memory": lambda errors: {"CBCT>CT": "blended", "T1c>CT": "finetuned", "T2w>CT": "mapped"},
        "below a limit": lambda errors: {name: "mapped" if e["mapped"] < 0.025 else "finetuned" for name, e in errors.items()}},
    "my_body_mae": {
        "multiplied": lambda mae, f: mae * f, "the same": lambda mae, f: mae, "the rest": lambda mae, f: mae / (1 - f + 1e-12),
        "root": lambda mae, f: mae / math.sqrt(f), "added": lambda mae, f: mae * (2 - f), "a list": lambda mae, f: [mae / f]},
    "my_transmission": {
        "grows": lambda mu, d: math.exp(np.dot(mu, d)), "linear": lambda mu, d: 1 - np.dot(mu, d),
        "sums multiplied": lambda mu, d: math.exp(-sum(mu) * sum(d)), "mean coefficient": lambda mu, d: math.exp(-np.mean(mu) * sum(d)),
        "fractions added": lambda mu, d: sum(math.exp(-m * t) for m, t in zip(mu, d)), "last layer": lambda mu, d: math.exp(-mu[-1] * d[-1]),
        "powers of ten": lambda mu, d: 10 ** -float(np.dot(mu, d)), "no sum": lambda mu, d: np.exp(-mu * d)},
    "my_d95": {
        "95th percentile": lambda d: np.percentile(d, 95), "95 % of the mean": lambda d: 0.95 * d.mean(), "minimum": lambda d: d.min(),
        "median": lambda d: np.median(d), "mean": lambda d: d.mean(), "95 % of the maximum": lambda d: 0.95 * d.max()},
    "my_gamma": {
        "no smallest": lambda x, d, ox, od, mm, gy: np.sqrt(((ox - x) / mm) ** 2 + ((od - d) / gy) ** 2),
        "no search": lambda x, d, ox, od, mm, gy: abs(np.interp(x, ox, od) - d) / gy,
        "no root": lambda x, d, ox, od, mm, gy: (((ox - x) / mm) ** 2 + ((od - d) / gy) ** 2).min(),
        "sum of absolutes": lambda x, d, ox, od, mm, gy: (abs(ox - x) / mm + abs(od - d) / gy).min(),
        "maximum": lambda x, d, ox, od, mm, gy: np.sqrt((((ox - x) / mm) ** 2 + ((od - d) / gy) ** 2).max()),
        "distance ignored": lambda x, d, ox, od, mm, gy: (abs(od - d) / gy).min(),
        "criteria swapped": lambda x, d, ox, od, mm, gy: np.sqrt((((ox - x) / gy) ** 2 + ((od - d) / mm) ** 2).min()),
        "smaller of the two": lambda x, d, ox, od, mm, gy: np.maximum(abs(ox - x) / mm, abs(od - d) / gy).min()},
}


def test_every_exercise_has_its_wrong_answers_here():
    assert set(WRONG) == set(ALL)
    assert all(len(wrong) >= 3 for wrong in WRONG.values())
    assert len(exercises("03_decoder_finetune")) >= 2 and len(exercises("04_eval_dosimetry")) >= 2


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_stub_is_not_attempted_yet(name, capsys):
    run(name, "exercise", "check")
    assert capsys.readouterr().out == "not attempted yet\n"


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_solution_passes_its_own_check(name, capsys):
    run(name, "exercise", "check", "solution")
    assert capsys.readouterr().out == "not attempted yet\ncorrect\n"


@pytest.mark.parametrize(("name", "answer"), [(name, answer) for name in sorted(WRONG) for answer in WRONG[name]])
def test_a_plausible_wrong_answer_is_rejected_with_a_hint(name, answer):
    with pytest.raises(AssertionError) as refused:
        check_of(name)(WRONG[name][answer])
    assert len(str(refused.value)) > 20, "the hint says something"


@pytest.mark.parametrize(("name", "answer", "hint"), [
    ("my_body_mae", "multiplied", "higher, not lower"), ("my_body_mae", "the same", "higher, not lower"),
    ("my_body_mae", "the rest", "a quarter of the voxels"), ("my_body_mae", "root", "a quarter of the voxels"),
    ("my_body_mae", "a list", "one number"), ("my_transmission", "no sum", "one number"),
    ("my_gamma", "no smallest", "one number"),
    ("my_best_constant", "middle of the range", "moving towards the larger group lowers the sum"),
    ("my_best_constant", "not sorted", "for [3.0, -2.0, 5.0, 0.5, 7.0] you"),
    ("my_best_constant", "each value once", "for [4.0, 0.0, 0.0, 0.0, 1.0] you"),
    ("my_ssim", "mean of the two", "the two factors are multiplied, not averaged")])
def test_the_hint_fits_the_mistake(name, answer, hint):
    with pytest.raises(AssertionError) as refused:
        check_of(name)(WRONG[name][answer])
    assert hint in str(refused.value)
