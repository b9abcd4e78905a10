"""A run folder: what each stage left, with the hashes that tie it together.

runs/<name>/manifest.json   per stage: full config, seed, data fingerprint, code version, device, seconds, files, metrics
runs/<name>/<stage>.safetensors   the weights;  report.json   every number;  notebooks/   the executed copies
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
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import VaeliteError

FORMAT = 1
MADE_BY = {"vae": "01_vae", "mapper": "02_latent_mapper", "decoder": "03_decoder_finetune", "unet": "03_decoder_finetune",
           "report": "04_eval_dosimetry"}


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

    def require(self, *names: str) -> None:
        """Raise with the notebook to run if a stage is missing."""
        for name in names:
            if name not in self.stages:
                raise VaeliteError(
                    f"{self.path} has no '{name}' stage. Run notebooks/{MADE_BY.get(name, name)}.py first (or "
                    f"`make run-all`, which runs all four in order), or point run_dir at a run that has it.")

    def save_stage(self, name: str, weights: dict[str, Tensor], record: dict[str, Any], needs: tuple[str, ...] = ()) -> None:
        """Write the weights, then the manifest, each in one atomic step: a crash leaves the previous stage intact.

        record: JSON-able facts (config, seed, seconds, metrics, ...). needs: stages whose files this one was trained on;
        their hashes are kept, and `load_stage` refuses this stage once they have changed.
        """
        self.require(*needs)
        file = f"{name}.safetensors"
        plain = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
        write_atomically(self.path / file, lambda temporary: save_file(plain, temporary))
        self.stages[name] = record | {
            "written": datetime.now(timezone.utc).isoformat(timespec="seconds"), "code_version": code_version(),
            "files": {file: sha256(self.path / file)}, "needs": {need: self.hash_of(need) for need in needs}}
        write_json(self.path / "manifest.json", self.manifest)

    def load_stage(self, name: str) -> Stage:
        """Read a stage back. Raises VaeliteError if it is missing, damaged, or older than a stage it was trained on."""
        self.require(name)
        record = self.stages[name]
        for need, expected in record["needs"].items():
            self.require(need)
            if self.hash_of(need) != expected:
                raise VaeliteError(f"{self.path}: stage '{name}' was trained on another '{need}' than the one there now. "
                                   f"Run notebooks/{MADE_BY.get(name, name)}.py again.")
        file = self.path / f"{name}.safetensors"
        if not file.exists() or sha256(file) != self.hash_of(name):
            raise VaeliteError(f"{file} is missing or differs from manifest.json (checksum). "
                               f"Run notebooks/{MADE_BY.get(name, name)}.py again.")
        try:
            return Stage(load_file(file), record)
        except SafetensorError as error:
            raise VaeliteError(f"{file} is not a safetensors file ({error}). Train the stage again.") from error

    def hash_of(self, name: str) -> str:
        return self.stages[name]["files"][f"{name}.safetensors"]

    def write_report(self, report: dict[str, Any]) -> Path:
        """Write report.json atomically; returns its path."""
        write_json(self.path / "report.json", report)
        return self.path / "report.json"

    def report(self) -> dict[str, Any]:
        file = self.path / "report.json"
        if not file.exists():
            raise VaeliteError(f"{file} does not exist. Run notebooks/04_eval_dosimetry.py or `vaelite evaluate {self.path}`.")
        return json.loads(file.read_text())


def open_run(path: str | Path) -> Run:
    """Open a run folder; a new one is made on the first save. Raises VaeliteError if its manifest cannot be read."""
    path = Path(path)
    file = path / "manifest.json"
    if not file.exists():
        path.mkdir(parents=True, exist_ok=True)
        return Run(path, {"format": FORMAT, "stages": {}})
    try:
        manifest = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise VaeliteError(f"{file} is not readable JSON ({error}). Restore it, or use another run folder.") from error
    if manifest.get("format") != FORMAT:
        raise VaeliteError(f"{file} has format {manifest.get('format')}, this version reads {FORMAT}. "
                           f"Use another run folder, or the version of vaelite that wrote it.")
    return Run(path, manifest)


def code_version() -> str:
    """Hash of the library's sources: equal results can be expected from equal versions, with or without git."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
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
    """Write beside the target, flush to disk, rename over it: readers see the old file or the new one, never half."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        write(temporary)
        os.chmod(temporary, 0o644)                           # mkstemp's 0600 would hide results from colleagues
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
