"""Can the files of a blinded study tell real from synthetic, without anyone looking at what they show?

Three kinds of hint: the header (size of the file, of the picture, metadata), the border (where nothing should be), and the
order (position and id). For each, a linear classifier guesses every picture from all the others.
"""
from __future__ import annotations

import io
import struct
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from scipy import stats

from ..errors import VaeliteError
from ..evaluation.rows import markdown

BORDER = 8                                                   # pixels: the margin and some of the air around the body; our choice
LEAK_P = 0.001                                               # our choice: one false alarm in a thousand hints


def hints(file: bytes, name: str, position: int) -> dict[str, list[float]]:
    """{"header", "border", "order": numbers} of one PNG."""
    chunks, at = [], 8
    while at < len(file):
        length, kind = struct.unpack(">I4s", file[at:at + 8])
        chunks.append((kind, length))
        at += 12 + length
    foreign = sum(length for kind, length in chunks if kind not in (b"IHDR", b"IDAT", b"IEND"))
    grey = np.asarray(Image.open(io.BytesIO(file)).convert("L"), dtype=float)
    inside = np.zeros(grey.shape, bool)
    inside[BORDER:-BORDER, BORDER:-BORDER] = True
    border = grey[~inside]
    return {"header": [len(file), *struct.unpack(">IIBB", file[16:26]), len(chunks), foreign],
            "border": [border.mean(), border.std(), border.max()],
            "order": [position, int(name, 16)]}


def blinding_table(files: Mapping[str, bytes], order: Sequence[str], real: Mapping[str, bool]) -> list[dict[str, object]]:
    """How well each kind of hint gives the pictures away: rows {"hint", "n", "correct", "p", "constant"}.

    files: {id: PNG}; real: {id: bool} of those to judge, without repeats (a repeat would know its own answer).
    correct: of n pictures, each guessed by least squares on the others; p: of at least so many by tossing coins.
    """
    names = [name for name in order if name in real]
    found = [hints(files[name], name, order.index(name)) for name in names]
    label = np.where([real[name] for name in names], 1.0, -1.0)
    rows = []
    for hint in found[0]:
        x = np.array([of_one[hint] for of_one in found], dtype=float)
        spread = x.std(0)
        x = (x - x.mean(0))[:, spread > 0] / spread[spread > 0]
        correct = int((left_out(x, label) * label > 0).sum())
        rows.append({"hint": hint, "n": len(names), "correct": correct, "constant": x.shape[1] == 0,
                     "p": float(stats.binomtest(correct, len(names), alternative="greater").pvalue)})
    return rows


def leak_table(trials: Mapping[str, Sequence[Mapping[str, object]]]) -> str:
    """`blinding_table` of several ways to make the files, side by side, as Markdown; "refused": p below LEAK_P.

    Of fewer than ten pictures even all guessed right could be luck: "too few to refuse", and no proof of blindness.
    """
    hinted = {row["hint"]: [] for rows in trials.values() for row in rows}
    for rows in trials.values():
        for row in rows:
            cannot = ", too few to refuse" if 0.5 ** row["n"] >= LEAK_P else ""
            verdict = ", refused" if row["p"] < LEAK_P else cannot
            guessed = f"{row['correct']} of {row['n']}, p = {row['p']:.2g}{verdict}"
            hinted[row["hint"]].append("the same in all: nothing to guess from" if row["constant"] else guessed)
    return markdown(["guessed right from the", *trials], [[hint, *cells] for hint, cells in hinted.items()])


def left_out(x: np.ndarray, label: np.ndarray, ridge: float = 1e-6) -> np.ndarray:
    """What least squares predicts for each row of x (n, f) from the n - 1 others, without fitting n times."""
    hat = x @ np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T)
    return label - (label - hat @ label) / (1 - np.diag(hat))


def check_blinding(files: Mapping[str, bytes], order: Sequence[str], real: Mapping[str, bool]) -> None:
    """Raise VaeliteError if any hint gives the pictures away better than chance."""
    for row in blinding_table(files, order, real):
        if row["p"] < LEAK_P:
            raise VaeliteError(f"The study is not blind: the {row['hint']} of the files alone tells real from synthetic in "
                               f"{row['correct']} of {row['n']} pictures. Make all files the same way, or choose another seed.")
