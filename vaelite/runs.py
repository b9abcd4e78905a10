"""A run folder: what each stage left, with the hashes that tie it together.

runs/<name>/manifest.json   per stage: full config, seed, data fingerprint, code version, device, seconds, files, metrics
runs/<name>/<stage>-<hash>.safetensors   the weights;  report.json   every number;  notebooks/   the executed copies
"""
from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from .errors import VaeliteError
from .scale import from_first, is_first

FORMAT = 1
MADE_BY = {"vae": "01_vae", "mapper": "02_latent_mapper", "decoder": "03_decoder_finetune", "unet": "03_decoder_finetune",
           "control": "03_decoder_finetune",
           "report": "04_eval_dosimetry"}
COMMANDS = {"decoder": "finetune", "report": "evaluate"}     # the stages that `vaelite` calls by another name


@dataclass(frozen=True)
class Stage:
    """A finished stage: its weights by name, and its record in the manifest (config, metrics, history, ...)."""

    weights: dict[str, Tensor]
    record: dict[str, Any]


class Run:
    """One run folder. Make it with `open_run`; read the manifest's dictionary at `run.manifest`."""

    def __init__(self, path: Path, manifest: dict[str, Any]):
        self.path = path
        self.manifest = manifest

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def stages(self) -> dict[str, Any]:
        return self.manifest["stages"]

    def require_writable(self) -> None:
        """Raises VaeliteError before an hour of training rather than after it. Makes no folder."""
        there = next(folder for folder in (self.path.absolute(), *self.path.absolute().parents) if folder.exists())
        probe = there / f".{self.path.name}.writable"
        write_atomically(probe, lambda temporary: None)
        probe.unlink(missing_ok=True)                        # of several processes one is first

    def require(self, *names: str) -> None:
        """Raise with the notebook or command to run if a stage is missing."""
        for name in names:
            if name not in self.stages:
                lack = self.lacks(f"'{name}' stage")
                raise VaeliteError(f"{lack} First run {self.maker(name)} (or `make run-all`, which runs all four notebooks in "
                                   f"order), or name a run folder that has it.")

    def lacks(self, what: str) -> str:
        """The start of a refusal: a run folder that is not there is most often a name mistyped."""
        there = f"{self.path} has" if self.path.is_dir() else f"The run folder {self.path} does not exist, so it has"
        return f"{there} no {what}."

    def maker(self, name: str) -> str:
        """What trains a stage: a notebook, or a command."""
        return (f"notebooks/{MADE_BY.get(name, name)}.py or "
                f"`vaelite {COMMANDS.get(name, name)} --profile ... --data ... --run {self.path}`")

    def save_stage(self, name: str, weights: dict[str, Tensor], record: dict[str, Any], needs: tuple[str, ...] = ()) -> None:
        """Write the weights under a new name, then the manifest: a crash in between leaves the previous stage intact.

        record: JSON-able facts (config, seed, seconds, metrics, ...). needs: stages whose files this one was trained on;
        their hashes are kept, and `load_stage` refuses this stage once they have changed.
        Of several processes the first writes, and the others take over its record.
        """
        self.require(*needs)
        if is_first():
            self.write_stage(name, weights, record, needs)
        self.stages[name] = from_first(self.stages.get(name))

    def write_stage(self, name: str, weights: dict[str, Tensor], record: dict[str, Any], needs: tuple[str, ...]) -> None:
        content = save({k: v.detach().cpu().contiguous() for k, v in weights.items()})
        digest = hashlib.sha256(content).hexdigest()
        file = f"{name}-{digest[:8]}.safetensors"
        write_atomically(self.path / file, lambda temporary: Path(temporary).write_bytes(content))
        replaced = set(self.stages.get(name, {}).get("files", {})) - {file}
        self.stages[name] = json.loads(json.dumps(record)) | {           # as the manifest will give it back
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"), "code_version": code_version(),
            "files": {file: digest}, "needs": {need: self.hash_of(need) for need in needs}}
        write_json(self.path / "manifest.json", self.manifest)
        for old in replaced:
            (self.path / old).unlink(missing_ok=True)

    def amend_stage(self, name: str, facts: dict[str, Any]) -> None:
        """Change what the manifest records of a stage that is kept; the weights stay as they are."""
        before = self.stages[name]
        self.stages[name] = before | json.loads(json.dumps(facts))
        if is_first() and self.stages[name] != before:
            write_json(self.path / "manifest.json", self.manifest)

    def load_stage(self, name: str) -> Stage:
        """Read a stage back. Raises VaeliteError if it is missing, damaged, or older than a stage it was trained on."""
        self.require(name)
        record = self.stages[name]
        for need, expected in record["needs"].items():
            self.require(need)
            if self.hash_of(need) != expected:
                raise VaeliteError(f"{self.path}: stage '{name}' was trained on another '{need}' than the one there now. "
                                   f"Run {self.maker(name)} again.")
        file = self.file_of(name)
        if not file.exists() or sha256(file) != self.hash_of(name):
            raise VaeliteError(f"{file} is missing or differs from manifest.json (checksum). "
                               f"Run {self.maker(name)} again.")
        try:
            return Stage(load_file(file), record)
        except SafetensorError as error:
            raise VaeliteError(f"{file} is not a safetensors file ({error}). Train the stage again.") from error

    def holds(self, name: str, facts: dict[str, Any]) -> bool:
        """Whether stage `name` is there, intact, up to date with what it needs and the code, and recorded with `facts`."""
        record = self.stages.get(name, {})
        facts = json.loads(json.dumps(facts)) | {"code_version": code_version()}         # as JSON gives them back
        if any(record.get(key) != value for key, value in facts.items()):
            return False
        try:
            self.load_stage(name)
        except VaeliteError:
            return False
        return True

    def is_current(self, name: str) -> bool:
        """Whether stage `name` is there and belongs to the stages it was trained on."""
        needs = self.stages[name]["needs"] if name in self.stages else {"": None}
        return all(need in self.stages and self.hash_of(need) == expected for need, expected in needs.items())

    def file_of(self, name: str) -> Path:
        """The weights of a stage."""
        return self.path / next(iter(self.stages[name]["files"]))

    def hash_of(self, name: str) -> str:
        return next(iter(self.stages[name]["files"].values()))

    def write_report(self, report: dict[str, Any]) -> Path:
        """Write report.json atomically; returns its path."""
        write_json(self.path / "report.json", report)
        return self.path / "report.json"

    def report(self) -> dict[str, Any]:
        file = self.path / "report.json"
        if not file.exists():
            raise VaeliteError(f"{self.lacks(file.name)} Run notebooks/04_eval_dosimetry.py or "
                               f"`vaelite evaluate {self.path} --data ...`.")
        return json.loads(file.read_text())


def open_run(path: str | Path) -> Run:
    """Open a run folder; a new one is made on the first save. Raises VaeliteError if its manifest cannot be read."""
    path = Path(path)
    file = path / "manifest.json"
    if path.exists() and not path.is_dir():
        raise VaeliteError(f"{path} is a file. Give a folder for the run.")
    if not file.exists():
        return Run(path, {"format": FORMAT, "stages": {}})
    try:
        manifest = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise VaeliteError(f"{file} is not readable JSON ({error}). Restore it, or use another run folder.") from error
    found = manifest.get("format") if isinstance(manifest, dict) else None
    if found != FORMAT:
        raise VaeliteError(f"{file} has format {found}, this version reads {FORMAT}. "
                           f"Use another run folder, or the version of vaelite that wrote it.")
    return Run(path, manifest)


def code_version() -> str:
    """Hash of the library's sources: equal results can be expected from equal versions, with or without git."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Atomic, stable key order as given, no NaN (JSON has none)."""
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: Path(temporary).write_text(text))


def write_atomically(path: Path, write: Callable[[str], Any]) -> None:
    """Write beside the target, flush to disk, rename over it: readers see the old file or the new one, never half.

    Raises VaeliteError where the folder cannot be written or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        write(temporary)
        os.chmod(temporary, 0o644)                           # mkstemp's 0600 would hide results from colleagues
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise VaeliteError(f"{path}: cannot be written ({error.strerror}). Use a folder that can be written, "
                               f"and see that its disk has room.") from error
        raise
