"""Every knob of the kit in one tree, and three sizes of it: smoke, laptop, paper.

A profile is a dictionary of dotted overrides and nothing else; the same call makes a configuration in a notebook, on
the command line and in a test: profile("laptop", **{"vae_fit.steps": 50}).
"""
from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

from .dose.plan import DoseConfig
from .errors import VaeliteError
from .models.decoder import DecoderConfig, GuidedConfig
from .models.mapper import MapperConfig
from .models.unet import UNetConfig
from .models.vae import VAEConfig, stem_factor
from .training.train import FitConfig


@dataclass(frozen=True)
class DataConfig:
    """Size of the slices the models see, and the number of patients of the phantom cohort made for the profile."""

    size: int = 128                                          # pixels in plane; other grids are resized and padded to it
    slice_step: int = 2                                      # train on every n-th slice: neighbours are nearly alike
    cases: int = 32
    fused: float = 0.4                                       # share of the training pairs that get further sources; our choice


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses; our choice.

    gan and features (see `adversarial`) buy fine detail with error (Blau and Michaeli 2018; not measured here), and error is what
    the paper reports: so every profile, "paper" too, leaves them at 0, where no discriminator is built. Rombach et al. 2022 train
    their tokenizers with a discriminator and a perceptual loss. The baselines never have one.
    """

    ssim: float = 0.2
    kl: float = 1e-4                                         # per latent
    quantisation: float = 1.0                                # of a codebook, if the tokenizer has one
    gan: float = 0.0                                         # stages 1 and 3: how real the drawn slice looks
    features: float = 0.0                                    # stages 1 and 3: what tells it from the true one


@dataclass(frozen=True)
class Config:
    """The whole configuration. The defaults are the laptop profile, the one the notebooks explain."""

    data: DataConfig = field(default_factory=DataConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    vae_fit: FitConfig = field(default_factory=lambda: FitConfig(steps=300, learning_rate=2e-3))
    mapper: MapperConfig = field(default_factory=MapperConfig)
    mapper_fit: FitConfig = field(default_factory=lambda: FitConfig(steps=200, batch=16, learning_rate=1.5e-3))
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    decoder_fit: FitConfig = field(default_factory=lambda: FitConfig(steps=1600, learning_rate=3e-3))
    unet: UNetConfig = field(default_factory=UNetConfig)
    unet_fit: FitConfig = field(default_factory=lambda: FitConfig(learning_rate=2e-3))    # trained for the method's seconds
    control: GuidedConfig = field(default_factory=GuidedConfig)
    control_fit: FitConfig = field(default_factory=lambda: FitConfig(learning_rate=3e-3))    # for the method's seconds
    dose: DoseConfig = field(default_factory=DoseConfig)
    device: str = "auto"                                     # "auto": a CUDA GPU if there is one, else the CPU
    seed: int = 0
    profile: str = "laptop"


PROFILES: dict[str, dict[str, Any]] = {
    "laptop": {},
    "smoke": {"data.size": 64, "data.cases": 6, "data.slice_step": 1, "vae_fit.steps": 40, "mapper_fit.steps": 40,
              "decoder_fit.steps": 60, "mapper.depth": 2, "dose.cases": 1, "dose.n_fields": 5, "dose.bixel_mm": 12.0,
              "dose.grid_mm": 6.0},
    "paper": {"data.size": 256, "data.cases": 87, "data.slice_step": 1, "vae.factor": 16, "vae.encoder_widths": (128, 256, 512),
              "vae.decoder_widths": (64, 128, 256, 512), "vae.blocks": 2, "vae.attention": True,
              "mapper.width": 768, "mapper.depth": 12, "mapper.heads": 12,
              "decoder.features": (64, 64, 128, 256, 512, 64), "decoder.fine_tune": True,
              "unet.features": (64, 64, 128, 256, 512, 64), "control.features": (64, 64, 128, 256, 512, 64),
              "vae_fit.steps": 50_000, "mapper_fit.steps": 30_000, "decoder_fit.steps": 50_000,
              "vae_fit.batch": 32, "mapper_fit.batch": 64, "decoder_fit.batch": 32, "unet_fit.batch": 32, "control_fit.batch": 32,
              "vae_fit.learning_rate": 4e-4, "mapper_fit.learning_rate": 2e-4, "decoder_fit.learning_rate": 4e-4,
              "unet_fit.learning_rate": 1e-3, "control_fit.learning_rate": 4e-4, "dose.cases": 17},
}


# The tokenizers the paper's vocabulary comes from (Rombach et al. 2022), as changes of any profile's knobs:
# profile("laptop", **TOKENIZERS["VQ-16"]). Codebook: our choice (theirs has 16,384 vectors for millions of pictures).
TOKENIZERS: dict[str, dict[str, Any]] = {
    "KL-8, 16 channels": {},
    "KL-8": {"vae.latent_channels": 4},
    "KL-16": {"vae.factor": 16, "vae.encoder_widths": (64, 128, 128), "vae.decoder_widths": (32, 64, 128, 128)},
    "VQ-16": {"vae.factor": 16, "vae.latent_channels": 8, "vae.codebook": 1024, "vae.encoder_widths": (64, 128, 128),
              "vae.decoder_widths": (32, 64, 128, 128)},
}


def profile(name: str, **dotted: Any) -> Config:
    """The configuration of a profile with single knobs changed, e.g. profile("smoke", **{"vae.factor": 16}).

    Raises VaeliteError for an unknown profile or knob (its neighbours are named) and for a value of another type.
    """
    if name not in PROFILES:
        raise VaeliteError(f"There is no profile '{name}'. Choose one of: {', '.join(PROFILES)}.")
    return checked(override(Config(), PROFILES[name] | {"profile": name} | dotted))


def checked(config: Config) -> Config:
    """The configuration, if it can be run at all. Raises VaeliteError with the knob to change."""
    for widths in ("encoder_widths", "decoder_widths"):
        try:
            stem_factor(config.vae.factor, getattr(config.vae, widths))
        except ValueError as error:
            raise VaeliteError(f"vae.{widths}: {error}.") from error
    for knob, value in knobs(config).items():
        if knob.endswith((".steps", ".slice_step", ".batch", ".blocks", ".depth", ".latent_channels", ".stem")) and value < 1:
            raise VaeliteError(f"{knob} must be at least 1, not {value}.")
        if knob in ("loss.gan", "loss.features") and value < 0:
            raise VaeliteError(f"{knob} must be 0 (off) or more, not {value}: below 0 it would reward what looks drawn.")
    stems = {f"{name}.stem": getattr(config, name).stem for name in ("decoder", "unet", "control")}
    step = math.lcm(*(16 * stem for stem in stems.values()), config.vae.factor)     # after its stem a U-Net halves four times
    least = 32 * max(stems.values())                         # and a norm needs more than one pixel
    if config.data.size < least or config.data.size % step:
        said = ", ".join(f"{knob} {value}" for knob, value in (stems | {"vae.factor": config.vae.factor}).items())
        raise VaeliteError(f"data.size must be a multiple of {step}, at least {least}, not {config.data.size} ({said}).")
    return config


def knobs(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every leaf of a configuration tree as {"vae.factor": 8, ...}."""
    out: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        out |= knobs(value, f"{prefix}{f.name}.") if is_dataclass(value) else {prefix + f.name: value}
    return out


def override(config: Any, dotted: dict[str, Any]) -> Any:
    """A copy of `config` with the dotted knobs changed."""
    for name, value in dotted.items():
        known = knobs(config)
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3) or sorted(known)[:3]
            raise VaeliteError(f"There is no knob called '{name}'. Did you mean {', '.join(near)}?")
        value = like(known[name], value, name)
        head, _, leaf = name.partition(".")
        config = replace(config, **{head: override(getattr(config, head), {leaf: value}) if leaf else value})
    return config


def like(default: Any, value: Any, name: str) -> Any:
    """`value` as the type of `default`; JSON's lists become tuples again. Raises VaeliteError if it cannot be."""
    if isinstance(default, tuple) and isinstance(value, (list, tuple)):
        return tuple(tuple(v) if isinstance(v, list) else v for v in value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is not type(default):
        kind = type(default).__name__
        raise VaeliteError(f"{name} is {'an' if kind == 'int' else 'a'} {kind} (now {default!r}), got {value!r}.")
    return value


def from_knobs(values: dict[str, Any]) -> Config:
    """The configuration that a manifest recorded with `knobs`."""
    return override(Config(), values)
