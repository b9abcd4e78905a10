"""Every switch of the phantom, read from phantom.toml."""
from __future__ import annotations

import math
import tomllib
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from phantom.cbct import CbctSettings
from phantom.ct import CtSettings
from phantom.mri import MrSettings
from phantom.traits import AnatomySettings

SHIPPED = Path(__file__).resolve().parents[1] / "phantom.toml"


@dataclass(frozen=True)
class RegistrationSettings:
    """How well the scans of one patient lie on each other."""

    residual_mm: float = 0.5  # root mean square distance that registration leaves in the head: 0, 1 or 2 mm to study it

    def __post_init__(self):
        if not 0 <= self.residual_mm <= 20:
            raise ValueError(f"residual_mm = {self.residual_mm:g}: expected 0 (perfect) to 20")


@dataclass(frozen=True)
class PhantomSettings:
    """One table of phantom.toml per field; the defaults are the shipped values."""

    anatomy: AnatomySettings = AnatomySettings()
    ct: CtSettings = CtSettings()
    cbct: CbctSettings = CbctSettings()
    mr: MrSettings = MrSettings()
    registration: RegistrationSettings = RegistrationSettings()

    def as_json(self) -> dict:
        """Plain dictionaries and lists, as case.json stores them."""
        return {table: {key: list(value) if isinstance(value, tuple) else value for key, value in content.items()}
                for table, content in asdict(self).items()}


def load_settings(path: str | Path = SHIPPED) -> PhantomSettings:
    """Settings from a TOML file; what it leaves out keeps its default.

    Raises ValueError for a file that is missing or no TOML, an unknown table or key, and a value of another
    kind or without sense.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such settings file. Copy data_scripts/phantom.toml and change the copy.")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is not valid TOML: {error}") from error
    settings = PhantomSettings()
    known = [field.name for field in fields(settings)]
    for table, values in content.items():
        if table not in known or not isinstance(values, dict):
            raise ValueError(f"{path}: unknown entry {table!r}. The tables are [{'], ['.join(known)}].")
        settings = replace(settings, **{table: filled(getattr(settings, table), values, f"{path}, [{table}]")})
    return settings


def filled(defaults, values: dict, where: str):
    """The settings dataclass `defaults` with some fields replaced, each by a value of the same kind."""
    known = {field.name: getattr(defaults, field.name) for field in fields(defaults)}
    new = {}
    for key, value in values.items():
        if key not in known:
            raise ValueError(f"{where}: unknown key {key!r}. Known here: {', '.join(known)}.")
        new[key] = like(known[key], value, f"{where} {key}")
        if "share" in key.split("_") and isinstance(new[key], float) and not 0 <= new[key] <= 1:
            raise ValueError(f"{where} {key} = {value}: a share lies between 0 and 1")
    try:
        return replace(defaults, **new)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def like(default, value, where: str):
    """`value` as the kind that `default` is: bool, int, float, str, or a tuple of such."""
    if isinstance(default, tuple) and isinstance(value, list):
        if len(value) != len(default):
            raise ValueError(f"{where}: expected {len(default)} values like {list(default)}, found {value}")
        pair = tuple(like(old, new, where) for old, new in zip(default, value, strict=True))
        if len(pair) == 2 and pair[0] > pair[1]:
            raise ValueError(f"{where} = {value}: a pair is [low, high]")
        return pair
    if isinstance(default, float) and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{where} = {value}: expected a finite number")
        return float(value)
    if type(value) is type(default):
        return value
    raise ValueError(f"{where}: expected a value like {default!r}, found {value!r}")
