"""Making a blinded reader study: real and synthetic slices of the test patients, mixed, one renderer for all.

Every picture has the same size, window, margins and file header, and an opaque id; what it is stands in the key alone, a file
of its own. Layout of the folder: `answers`.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.cases import Case
from ..data.intensity import to_unit
from ..data.slices import fit_in_plane
from ..errors import VaeliteError
from ..figures import DISPLAYS, body_box, physical
from ..runs import write_atomically, write_json
from ..translate import Translator
from .answers import FORMAT, Study, digest, key_beside, open_study
from .blinding import blinding_table, check_blinding

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
    content, key, files = mixed(pairs, target, seed, repeat_share)
    check_blinding(files, content["order"], first_showings(key))
    if folder.exists():
        study = open_study(folder)
        if json.loads((folder / "study.json").read_text()) != content:
            raise VaeliteError(f"{folder} holds another study (other pictures, network, seed or repeats). Give another "
                               f"folder, or delete it with its key {study.key_file.name} if nobody needs its answers.")
        return study
    write_study(folder, content, key, files)
    return open_study(folder)


def mixed(pairs: Sequence[Pair], target: str, seed: int,
          repeat_share: float) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    """What the files of a study will be, in memory: study.json, the key, and {id: PNG}. Raises VaeliteError as `make_study`."""
    if not pairs:
        raise VaeliteError("A reader study needs at least one pair of real and synthetic slices; there are none.")
    if not LEAST_REPEATS <= repeat_share <= 1:
        raise VaeliteError(f"repeat_share is {repeat_share:g}: give {LEAST_REPEATS:g} to 1. Repeats show a reader's own scatter.")
    for pair in pairs:
        if not {pair.real.shape, pair.synthetic.shape, pair.body.shape} == {pairs[0].real.shape}:
            raise VaeliteError(f"{pair.patient}, slice {pair.slice}: real, synthetic and body have the sizes {pair.real.shape}, "
                               f"{pair.synthetic.shape} and {pair.body.shape}, the first pair {pairs[0].real.shape}. Make them one.")
        if not np.isfinite(pair.real).all() or not np.isfinite(pair.synthetic).all():
            raise VaeliteError(f"{pair.patient}, slice {pair.slice}: a pixel is not finite, and would be drawn black: repair it first.")
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
    return content, key, files


def first_showings(key: dict[str, Any]) -> dict[str, bool]:
    """{id: is it real?} without the repeats."""
    return {entry["picture"]: entry["real"] for entry in key["pictures"] if entry["repeat_of"] is None}


def leak_test(pairs: Sequence[Pair], target: str, seed: int = 0) -> dict[str, list[dict[str, object]]]:
    """`blinding_table` of the study that `make_study` would write, and of one with the air as scanner and network leave it."""
    trials = {}
    for name, shown in {"air black": pairs, "air as it is": [replace(p, body=np.ones_like(p.body)) for p in pairs]}.items():
        content, key, files = mixed(shown, target, seed, LEAST_REPEATS)
        trials[name] = blinding_table(files, content["order"], first_showings(key))
    return trials


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
