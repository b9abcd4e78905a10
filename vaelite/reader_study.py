"""Making a blinded reader study: real and synthetic slices of the test patients, mixed, one renderer for all.

Every picture has the same size, window, margins and file header, and an opaque id; what it is stands in the key alone, a file
of its own. Layout of the folder: `reader_answers`.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .blinding import check_blinding
from .cases import Case
from .errors import VaeliteError
from .figures import DISPLAYS, body_box, physical
from .intensity import to_unit
from .reader_answers import FORMAT, Study, digest, key_beside, open_study
from .runs import write_atomically, write_json
from .slices import fit_in_plane
from .translate import Translator

MARGIN = 4                                                   # black pixels around body and slice; our choice
LEAST_REPEATS = 0.1                                          # of all pictures; fewer say nothing about a reader's own scatter
ORDERS_TRIED = 200


@dataclass(frozen=True, eq=False)
class Pair:
    """The same three neighbouring slices, measured and predicted: real, synthetic (3, h, w) in [-1, 1]; body (3, h, w) bool."""

    patient: str
    slice: int
    real: np.ndarray
    synthetic: np.ndarray
    body: np.ndarray


def slice_pairs(translator: Translator, cases: Sequence[Case], source: str, target: str, per_patient: int = 4,
                method: str = "vaelite") -> list[Pair]:
    """Real slices of the test patients beside those that `translator` makes from `source`, spread over each body.

    Neighbours are shown with each slice, since consistency between slices cannot be seen in one.
    Raises VaeliteError if no test patient has both modalities, or one has fewer than three slices of body.
    """
    translator.check(source, target, method)
    chosen = [case for case in cases if case.split == "test" and {source, target} <= set(case.modalities)]
    if not chosen:
        raise VaeliteError(f"No test patient has both {source} and {target}: nothing to compare. Choose another pair.")
    pairs = []
    for case in chosen:
        mask = case.mask()
        body = fit_in_plane(mask.astype(np.float32), translator.size, fill=0.0) >= 0.5
        levels = 1 + np.flatnonzero([body[z - 1:z + 2].any((1, 2)).all() for z in range(1, len(body) - 1)])
        if not len(levels):
            raise VaeliteError(f"{case.folder}: fewer than three neighbouring slices show the body. Leave this case out.")
        given, wanted = (translator.fitted([to_unit(case.volume(name), name, mask)[0]]) for name in (source, target))
        spread = np.linspace(0, len(levels) - 1, per_patient + 2)[1:-1].astype(int)      # without the two ends of the body
        for z in sorted({int(level) for level in levels[spread]}):
            near = slice(z - 1, z + 2)
            synthetic = translator.slices(given[near], source, target, method)[:, 0].numpy()
            pairs.append(Pair(case.patient, z, wanted[near, 0].numpy(), synthetic, body[near]))
    return pairs


def render(slices: np.ndarray, body: np.ndarray, target: str, box: tuple[slice, slice]) -> bytes:
    """Three slices side by side as a PNG. slices (3, h, w) in [-1, 1], body (3, h, w) bool; box: what to keep of h and w.

    Air is black: scanners leave noise there and networks do not, so that air alone would give every answer away.
    Stored uncompressed: a network's picture is smoother than a scanner's, and would be the smaller file.
    """
    low, high = DISPLAYS[target].window
    grey = (physical(np.where(body, slices, -1.0), target) - low) / (high - low)
    cropped = np.where(body, 255 * grey.clip(0, 1), 0).round().astype(np.uint8)[:, *box]
    framed = np.pad(cropped, ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)))
    file = io.BytesIO()
    Image.fromarray(np.concatenate(framed, axis=1)).save(file, "PNG", compress_level=0)
    return file.getvalue()


def make_study(folder: str | Path, pairs: Sequence[Pair], target: str, seed: int = 0,
               repeat_share: float = LEAST_REPEATS) -> Study:
    """Make a study, or open it if this very one is there: the same pairs and seed give the same files.

    repeat_share: of the pictures that come twice, at least 0.1. Nothing is written until all is ready.
    Raises VaeliteError: no pairs, too few repeats, a folder that holds anything else, a picture that gives itself away.
    """
    folder = Path(folder)
    if not pairs:
        raise VaeliteError("A reader study needs at least one pair of real and synthetic slices; there are none.")
    if not LEAST_REPEATS <= repeat_share <= 1:
        raise VaeliteError(f"repeat_share is {repeat_share:g}: give {LEAST_REPEATS:g} to 1. Repeats show a reader's own scatter.")
    generator = np.random.default_rng(seed)
    box = body_box(np.any([pair.body.any(0) for pair in pairs], axis=0), margin=MARGIN)
    shown = [(pair, real) for pair in pairs for real in (True, False)]
    repeats = generator.choice(len(shown), int(np.ceil(repeat_share * len(shown))), replace=False)
    numbers = [*range(len(shown)), *repeats]
    ids = [f"{number:06x}" for number in generator.choice(16**6, len(numbers), replace=False)]
    entries, files = [], {}
    for name, number in zip(ids, numbers):
        pair, real = shown[number]
        files[name] = render(pair.real if real else pair.synthetic, pair.body, target, box)
        first = ids[number]
        entries.append({"picture": name, "patient": pair.patient, "slice": pair.slice, "real": real,
                        "repeat_of": None if name == first else first, "sha256": hashlib.sha256(files[name]).hexdigest()})
    tries = (generator.permutation(len(ids)) for _ in range(ORDERS_TRIED))
    order = max(tries, key=lambda tried: distance([numbers[i] // 2 for i in tried]))
    key = {"format": FORMAT, "target": target, "seed": seed, "pictures": sorted(entries, key=lambda entry: entry["picture"])}
    content = {"format": FORMAT, "target": target, "order": [ids[i] for i in order], "key_sha256": digest(key)}
    firsts = {entry["picture"]: entry["real"] for entry in entries if entry["repeat_of"] is None}
    check_blinding(files, content["order"], firsts)
    if folder.exists():
        study = open_study(folder)
        if json.loads((folder / "study.json").read_text()) != content:
            raise VaeliteError(f"{folder} holds another study (other pictures, network, seed or repeats). Give another "
                               f"folder, or delete it with its key {study.key_file.name} if nobody needs its answers.")
        return study
    write_study(folder, content, key, files)
    return open_study(folder)


def distance(slices: Sequence[int]) -> int:
    """How far apart, on a circle, the closest two showings of one slice are: real, synthetic and repeated."""
    n, at = len(slices), {}
    for position, number in enumerate(slices):
        at.setdefault(number, []).append(position)
    return min((after - before) % n or n for places in at.values() for before, after in zip(places, places[1:] + places[:1]))


def write_study(folder: Path, content: dict[str, Any], key: dict[str, Any], files: dict[str, bytes]) -> None:
    """The key first, then the whole folder under its name at once: a crash leaves no half of a study."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_json(key_beside(folder), key)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        new = Path(temporary) / folder.name
        (new / "pictures").mkdir(parents=True)
        (new / "answers").mkdir()
        for name in sorted(files):                           # by id: dates of files then tell no more than the ids
            write_atomically(new / "pictures" / f"{name}.png", lambda file, name=name: Path(file).write_bytes(files[name]))
        write_json(new / "study.json", content)
        os.replace(new, folder)
