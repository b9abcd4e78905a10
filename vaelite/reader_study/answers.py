"""What the readers of a study are asked, and what they answered: on the disk at each click, closed by a lock, then unblinded.

<folder>/study.json           the order of the pictures and the checksum of the key: all that a reader may see
<folder>/pictures/<id>.png    opaque ids
<folder>/answers/<reader>.jsonl   one line a click, on the disk before the next click
<folder>.key.json             kept apart: which picture is what. Hand out the folder without it.

The criteria stand for the paper's "subjective quality". It publishes neither scale nor number of readers: the scale and its
anchors are our choice. `study` makes one, `panel` is the form, `statistics` reads the result.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import VaeliteError
from ..runs import write_json

FORMAT = 1


@dataclass(frozen=True)
class Question:
    """One question and its answers: {value stored: words shown}, from worst to best."""

    text: str
    answers: dict[int | str, str]


QUESTIONS = {
    "quality": Question("Overall quality", {
        1: "not usable", 2: "poor", 3: "acceptable", 4: "good", 5: "nothing to wish for"}),
    "anatomy": Question("Anatomical correctness", {
        1: "would mislead", 2: "several structures wrong", 3: "one structure wrong", 4: "small doubts", 5: "all correct"}),
    "contrast": Question("Contrast for this sequence", {
        1: "another sequence", 2: "several tissues off", 3: "one tissue off", 4: "nearly as expected", 5: "as expected"}),
    "sharpness": Question("Sharpness, slice consistency", {
        1: "edges lost or jumping", 2: "blurred throughout", 3: "blurred in places", 4: "slightly soft", 5: "sharp and steady"}),
    "artefacts": Question("Artefacts or hallucination", {
        1: "invented or missing structure", 2: "hide anatomy", 3: "disturb", 4: "visible, harmless", 5: "none"}),
    "looks": Question("Your guess: what is it?", {"synthetic": "synthetic", "real": "real"}),
    "confidence": Question("How sure are you of the guess?", {1: "a coin toss", 2: "rather sure", 3: "sure"}),
}
CRITERIA = ("quality", "anatomy", "contrast", "sharpness", "artefacts")


def open_study(folder: str | Path) -> Study:
    """Open a study that `make_study` has made. Raises VaeliteError if there is none or it cannot be read."""
    folder = Path(folder)
    file = folder / "study.json"
    try:
        content = json.loads(file.read_text())
        if content["format"] == FORMAT:
            return Study(folder, content["target"], tuple(content["order"]), content["key_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VaeliteError(f"{file}: no reader study that can be read ({error}). Make one with make_study in "
                           f"another folder.") from error
    raise VaeliteError(f"{file} has format {content['format']!r}, this version reads {FORMAT}. Make the study again.")


@dataclass(frozen=True)
class Study:
    """What readers are shown and what they answered. Nothing is kept in memory: each call reads and writes the disk."""

    folder: Path
    target: str
    order: tuple[str, ...]
    key_sha256: str

    @property
    def key_file(self) -> Path:
        return key_beside(self.folder)

    def picture(self, name: str) -> bytes:
        """The PNG of one picture."""
        file = self.folder / "pictures" / f"{name}.png"
        if name not in self.order or not file.is_file():
            raise VaeliteError(f"{file}: no such picture in this study. Copy the whole folder again.")
        return file.read_bytes()

    def order_for(self, reader: str) -> list[str]:
        """Every reader goes round the same circle from another start: no picture is always the one met when tired."""
        start = zlib.crc32(reader.encode()) % len(self.order)
        return [*self.order[start:], *self.order[:start]]

    def answers(self, reader: str) -> dict[str, dict[str, Any]]:
        """{picture: {question: value}}; the last answer to a question counts.

        Raises VaeliteError, with file and line, for a damaged file. A last line without its end was cut off by a crash: that
        click never counted, and is asked again.
        """
        found: dict[str, dict[str, Any]] = {}
        for record in self.records(reader):
            if "locked" not in record:
                found.setdefault(record["picture"], {})[record["question"]] = record["value"]
        return found

    def missing(self, reader: str) -> list[tuple[str, str]]:
        """(picture, question) still to be answered, in the order of the reader."""
        given = self.answers(reader)
        return [(name, question) for name in self.order_for(reader) for question in QUESTIONS
                if question not in given.get(name, {})]

    def answer(self, reader: str, picture: str, question: str, value: int | str) -> None:
        """Append one answer; it is on the disk when this returns. Raises VaeliteError after the lock or for an invalid one."""
        record = {"picture": picture, "question": question, "value": value}
        if problem := self.problem(record):
            raise VaeliteError(f"{self.answers_file(reader)}: not saved, {problem}.")
        self.append(reader, record)

    def lock(self, reader: str) -> None:
        """End this reader's part: nothing can be changed any more. Raises VaeliteError while an answer is missing."""
        if missing := self.missing(reader):
            raise VaeliteError(f"{self.answers_file(reader)}: {len(missing)} answers are missing, the first one is "
                               f"'{missing[0][1]}' of picture {missing[0][0]}. Answer all, then lock.")
        self.append(reader, {"locked": hashlib.sha256(self.whole_lines(reader)).hexdigest()})

    def is_locked(self, reader: str) -> bool:
        return any("locked" in record for record in self.records(reader))

    def readers(self) -> list[str]:
        """Everybody who has answered anything."""
        return sorted(file.stem for file in (self.folder / "answers").glob("*.jsonl"))

    def unblind(self, key_file: str | Path | None = None) -> list[dict[str, Any]]:
        """Open the key -> one row a reader and picture: {"reader", "patient", "slice", "real", "repeat_of", <question>: value}.

        From then on nobody can answer or join. Raises VaeliteError while a reader has not locked, without readers, and for a
        key that is missing or not the one of this study.
        """
        readers = self.readers()
        waiting = [reader for reader in readers if not self.is_locked(reader)]
        if waiting or not readers:
            reason = f"not locked by {', '.join(waiting)}" if readers else "nobody has answered"
            raise VaeliteError(f"{self.folder} stays blinded: {reason}. Unblind when every reader has answered all and locked.")
        file = Path(key_file or self.key_file)
        if not file.is_file():
            raise VaeliteError(f"{file}: the key is not here. Pass key_file=... of the machine that made the study.")
        try:
            key = json.loads(file.read_text())
        except ValueError as error:
            raise VaeliteError(f"{file} is not valid JSON ({error}). Restore the key.") from error
        if digest(key) != self.key_sha256:
            raise VaeliteError(f"{file} is not the key this study was made with (checksum). Restore that one.")
        if not self.is_unblinded():
            write_json(self.folder / "unblinded.json", {"at": now(), "readers": readers})
        truth = {entry["picture"]: entry for entry in key["pictures"]}
        return [{"reader": reader, **truth[name], **answers} for reader in readers
                for name, answers in self.answers(reader).items()]

    def is_unblinded(self) -> bool:
        return (self.folder / "unblinded.json").exists()

    # -------------------------------------------------------------------------------------------------------- the file
    def answers_file(self, reader: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}", reader):
            raise VaeliteError(f"A reader's name has up to 40 letters, digits, - or _, not {reader!r}: it becomes a file's name.")
        return self.folder / "answers" / f"{reader}.jsonl"

    def records(self, reader: str) -> Iterator[dict[str, Any]]:
        """Every line of a reader's file, checked."""
        file, content, start, number = self.answers_file(reader), self.whole_lines(reader), 0, 0
        while (end := content.find(b"\n", start) + 1) > 0:
            number += 1
            where = f"{file}, line {number}"
            try:
                record = json.loads(content[start:end])
            except ValueError as error:                      # bad JSON or bad UTF-8
                raise VaeliteError(f"{where}: damaged ({error}). Restore the file from a copy; do not guess answers.") from error
            if isinstance(record, dict) and "locked" in record:
                if end != len(content) or record["locked"] != hashlib.sha256(content[:start]).hexdigest():
                    raise VaeliteError(f"{where}: the file was changed after its reader locked it. Restore the locked one.")
            elif problem := self.problem(record):
                raise VaeliteError(f"{where}: {problem}. Restore the file from a copy; do not guess answers.")
            yield record
            start = end

    def whole_lines(self, reader: str) -> bytes:
        """A reader's file up to its last line end: what stands behind it was cut off by a crash."""
        file = self.answers_file(reader)
        content = file.read_bytes() if file.exists() else b""
        return content[:content.rfind(b"\n") + 1]

    def problem(self, record: Any) -> str | None:
        """What is wrong with an answer; None for a good one."""
        if not isinstance(record, dict) or not {"picture", "question", "value"} <= set(record):
            return "not an answer with picture, question and value"
        if record["picture"] not in self.order:
            return f"picture {record['picture']!r} is not in this study"
        if not isinstance(record["question"], str) or record["question"] not in QUESTIONS:
            return f"there is no question {record['question']!r}, only {', '.join(QUESTIONS)}"
        value, allowed = record["value"], QUESTIONS[record["question"]].answers
        if type(value) not in (int, str) or value not in allowed:
            return f"{value!r} is no answer to '{record['question']}', which takes {', '.join(map(str, allowed))}"
        return None

    def append(self, reader: str, record: dict[str, Any]) -> None:
        file = self.answers_file(reader)
        if self.is_locked(reader):
            raise VaeliteError(f"{file}: {reader} has locked the answers; nothing can be changed after that.")
        if self.is_unblinded():
            raise VaeliteError(f"{self.folder} was unblinded: nobody can answer any more. Make a new study in another folder.")
        file.parent.mkdir(exist_ok=True)
        with open(file, "ab") as stream:
            stream.truncate(len(self.whole_lines(reader)))   # half a line from a crash would spoil the next one
            stream.write((json.dumps(record | {"at": now()}) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())


def key_beside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.key.json")


def digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
