"""A volume in, a volume out: the trained stages put together."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from .data.intensity import HU_MODALITIES, HU_WINDOW, MODALITIES, body_mask, from_unit, to_unit
from .data.slices import fit_in_plane, unfit_in_plane
from .data.volumes import Volume
from .errors import VaeliteError
from .models.decoder import GuidedDecoder
from .models.mapper import LatentMapper
from .models.vae import VAE

DECODERS = ("mapped", "blended", "finetuned")                # what "vaelite" chooses from, per direction, on validation
COVERAGE = 0.8                                               # of the intervals around a translation; our choice
BATCH = 8                                                    # slices at a time: a quarter faster on a CPU than 16
Sources = str | tuple[str, ...]                              # one modality, or several
MR_OUTPUT_RANGE = (0.0, 1000.0)                              # a translated MR has no unit; this range is our choice


@dataclass(frozen=True)
class Translator:
    """The three stages ready for use.

    `tasks`: what they were trained for, "CBCT>CT" or, of several sources, "CBCT+T1c>CT". `choice` says for some of them
    which decoder validation preferred; for the others it is the fine-tuned one.
    """

    vae: VAE
    mapper: LatentMapper
    decoder: GuidedDecoder | None
    size: int
    modalities: tuple[str, ...]
    tasks: tuple[str, ...]
    choice: dict[str, str] = field(default_factory=dict)
    baselines: dict[str, nn.Module] = field(default_factory=dict)
    widths: dict[str, float] = field(default_factory=dict)   # by task: half of the interval, in predicted scales

    @torch.no_grad()
    def slices(self, x: Tensor, source: Sources, target: str, method: str = "vaelite", batch: int = BATCH) -> Tensor:
        """Translate slices in [-1, 1] from `source`, one modality or a tuple of them, to `target` -> (n, 1, h, w) in [-1, 1].

        x: (n, sources, h, w), in the order of `source`.
        method: "vaelite" (the one of DECODERS that validation chose), "mapped" (stage-1 decoder), "blended" (the
        draft of stage 3 mixed with the sources in closed form), "finetuned" (stage 3), "ridge" (the mapper's linear start, stage-1 decoder),
        "unet", "control" (the image-space baselines), "copy".
        """
        sources = as_tuple(source)
        self.check(sources, target, method)
        if method == "vaelite":
            method = self.choice.get(task_name(sources, target), "finetuned")
        device = self.vae.patch_mean.device
        parts = [self.one_batch(part.to(device).float(), sources, target, method).cpu() for part in x.split(batch)]
        return torch.cat(parts).clamp(-1, 1)

    @torch.no_grad()
    def drawings(self, x: Tensor, source: Sources, target: str, methods: Sequence[str] = DECODERS) -> tuple[dict[str, Tensor], Tensor]:
        """As `slices` by several of DECODERS at once, x encoded once, and the scale that stage 3 expects of its error.

        -> {method: (n, 1, h, w)}, (n, 1, h, w)
        """
        sources, device = as_tuple(source), self.vae.patch_mean.device
        self.check(sources, target)
        drawn, scales = {method: [] for method in methods}, []
        for part in x.split(BATCH):
            stack, given, to = self.read(part.to(device).float(), sources, target)
            mapped, finished = self.mapped_latents(stack, given, to)
            finetuned, log_scale = self.decoder(finished, self.vae.linear_decode(finished), stack, given, to)
            scales.append(log_scale.exp().cpu())
            for method in methods:
                image = finetuned if method == "finetuned" else self.untrained(mapped, stack, given, to, method)
                drawn[method].append(image.clamp(-1, 1).cpu())
        return {method: torch.cat(parts) for method, parts in drawn.items()}, torch.cat(scales)

    def interval(self, x: Tensor, source: Sources, target: str) -> tuple[Tensor, Tensor]:
        """As `slices`, and half the width of an interval that held COVERAGE of the validation patients' body.

        Raises VaeliteError for a task without validation patients.
        """
        name = task_name(source, target)
        if name not in self.widths:
            raise VaeliteError(f"{name}: no interval, since it was not calibrated on validation patients.")
        method = self.choice.get(name, "finetuned")
        drawn, scale = self.drawings(x, source, target, (method,))
        return drawn[method], self.widths[name] * scale

    def one_batch(self, x: Tensor, sources: tuple[str, ...], target: str, method: str) -> Tensor:
        if method == "copy":
            return x
        stack, given, to = self.read(x, sources, target)
        if method in self.baselines:
            return self.baselines[method](stack, given, to)
        if method == "ridge":
            return self.vae.decode(self.mapper.ridge_latents(self.encode(stack, given), given, to))
        mapped, finished = self.mapped_latents(stack, given, to)
        if method == "finetuned":
            return self.decoder(finished, self.vae.linear_decode(finished), stack, given, to)[0]
        return self.untrained(mapped, stack, given, to, method)

    def mapped_latents(self, stack: Tensor, given: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
        """Mapped latents (b, k, h, w) as stage 2 left them, and as stage 3 reads them: other ones only if it finished the mapper
        end to end."""
        z = self.encode(stack, given)
        mapped = self.mapper(z, given, to)
        return mapped, self.decoder.mapper(z, given, to) if self.decoder and self.decoder.mapper else mapped

    def untrained(self, mapped: Tensor, stack: Tensor, given: Tensor, to: Tensor, method: str) -> Tensor:
        """Stages 1 and 2 alone ("mapped"), or stage 3 before its training: mixed with the sources in closed form ("blended")."""
        if method == "mapped":
            return self.vae.decode(mapped)
        draft = self.vae.linear_decode(mapped)
        if self.decoder.decoder:
            draft = draft + self.vae.decoder(mapped)         # as the blend was fitted: before fine-tuning, without a codebook
        return self.decoder.blend(draft, stack, given, to)

    def read(self, x: Tensor, sources: tuple[str, ...], target: str) -> tuple[Tensor, Tensor, Tensor]:
        """Slices (b, sources, h, w) in their modalities' slots (b, m, h, w); given (b, m) and target (b,), as networks take it."""
        slots = [MODALITIES.index(source) for source in sources]
        stack = x.new_full((len(x), len(MODALITIES), *x.shape[2:]), -1.0)
        stack[:, slots] = x
        given = torch.zeros(stack.shape[:2], dtype=torch.bool, device=x.device)
        given[:, slots] = True
        return stack, given, torch.full((len(x),), MODALITIES.index(target), device=x.device)

    def encode(self, stack: Tensor, given: Tensor) -> Tensor:
        """Latents of the given slices in their slots: (b, m, k, h, w)."""
        codes = self.vae.encode(stack[given][:, None]).mean
        z = codes.new_zeros(*given.shape, *codes.shape[1:])
        z[given] = codes
        return z

    def check(self, source: Sources, target: str, method: str = "vaelite") -> None:
        """Raise VaeliteError for a modality, a task or a method this run does not have."""
        sources = as_tuple(source)
        for modality in (*sources, target):
            if modality not in self.modalities:
                raise VaeliteError(f"This run was trained on {', '.join(self.modalities)}; it knows no '{modality}'.")
        if target in sources:
            raise VaeliteError(f"Source and target are both {target}: nothing to translate.")
        if len(set(sources)) < len(sources):
            raise VaeliteError(f"A source was given twice: {', '.join(sources)}.")
        if task_name(sources, target) not in self.tasks:
            raise VaeliteError(f"This run was never trained from {' and '.join(sources)} to {target}: no patient had them all.")
        available = self.methods(len(sources))
        if method not in available:
            raise VaeliteError(f"There is no method '{method}' here. Choose one of: {', '.join(available)}.")

    def methods(self, sources: int = 1) -> tuple[str, ...]:
        """The methods this run has for so many sources."""
        missing = {"vaelite", "blended", "finetuned"} if self.decoder is None else set()
        missing |= {"copy"} if sources > 1 else set()        # of several sources, which?
        return tuple(name for name in ("vaelite", *self.baselines, "ridge", "copy", *DECODERS) if name not in missing)

    def directions(self) -> tuple[tuple[str, str], ...]:
        """The (source, target) pairs of this run, in the order of its modalities."""
        return tuple((s, t) for s in self.modalities for t in self.modalities if f"{s}>{t}" in self.tasks)

    def fusions(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        """(sources, target) of every task with all that the run knows as sources, where they are more than one."""
        every = ((tuple(s for s in self.modalities if s != t), t) for t in self.modalities)
        return tuple((s, t) for s, t in every if len(s) > 1 and task_name(s, t) in self.tasks)

    def volume_unit(self, unit_zyx: np.ndarray | Sequence[np.ndarray], source: Sources, target: str,
                    method: str = "vaelite") -> np.ndarray:
        """Translate a volume already in [-1, 1] (or one for each of several sources) -> the same grid in [-1, 1]."""
        self.check(source, target, method)
        volumes = [unit_zyx] if isinstance(source, str) else unit_zyx
        if method == "copy":
            return volumes[0]                                # doing nothing means no resampling either
        translated = self.slices(self.fitted(volumes), source, target, method)[:, 0].numpy()
        return unfit_in_plane(translated, volumes[0].shape)

    def volume_interval(self, unit_zyx: np.ndarray | Sequence[np.ndarray], source: Sources, target: str,
                        ) -> tuple[np.ndarray, np.ndarray]:
        """As `volume_unit` by the method "vaelite", and half the width of its interval, both on the same grid."""
        volumes = [unit_zyx] if isinstance(source, str) else unit_zyx
        found = self.interval(self.fitted(volumes), source, target)
        return tuple(unfit_in_plane(part[:, 0].numpy(), volumes[0].shape) for part in found)

    def fitted(self, volumes: Sequence[np.ndarray]) -> Tensor:
        """Volumes (z, y, x) as slices of the models' size: (z, volumes, size, size)."""
        return torch.stack([torch.from_numpy(fit_in_plane(volume, self.size, fill=-1.0)) for volume in volumes], 1)

    @torch.no_grad()
    def reconstruct(self, unit_zyx: np.ndarray) -> np.ndarray:
        """A volume through the VAE and back, in [-1, 1] on its own grid: what the latents can hold."""
        fitted = torch.from_numpy(fit_in_plane(unit_zyx, self.size, fill=-1.0))[:, None]
        device = self.vae.patch_mean.device
        parts = [self.vae.decode(self.vae.encode(x.to(device)).mean).cpu() for x in fitted.split(BATCH)]
        return unfit_in_plane(torch.cat(parts)[:, 0].clamp(-1, 1).numpy(), unit_zyx.shape)


def as_tuple(source: Sources) -> tuple[str, ...]:
    return (source,) if isinstance(source, str) else tuple(source)


def task_name(source: Sources, target: str) -> str:
    """"CBCT>CT", or "CBCT+T1c>CT" with the sources in the order of MODALITIES, however they were given."""
    return "+".join(m for m in MODALITIES if m in as_tuple(source)) + f">{target}"


def translate(volume: Volume | Sequence[Volume], source: Sources, target: str, translator: Translator,
              method: str = "vaelite", mask: np.ndarray | None = None) -> Volume:
    """Translate a whole volume; the result has the grid, affine and orientation of the (first) input.

    volume: from `load_volume`, or one for each of several sources, on one grid; CT and CBCT in HU. mask: (z, y, x) bool
    body mask, estimated from the first if not given (it sets the intensity scale of an MR source). A CT or CBCT result is
    in HU, an MR result in 0..1000 without a unit.
    Raises VaeliteError for a modality the run does not know, and for sources on different grids.
    """
    translator.check(source, target, method)
    grid, units = read_sources(volume, source, mask)
    return grid.like(from_unit(translator.volume_unit(units, source, target, method), target, output_scale(target)))


def translate_interval(volume: Volume | Sequence[Volume], source: Sources, target: str, translator: Translator,
                       mask: np.ndarray | None = None) -> tuple[Volume, Volume]:
    """As `translate` by the method "vaelite", and half the width of the interval around it, in the same unit.

    The interval was made to hold COVERAGE of the body's voxels of the validation patients: a statement about patients like
    those, not about this one.
    """
    translator.check(source, target)
    grid, units = read_sources(volume, source, mask)
    drawn, half = translator.volume_interval(units, source, target)
    low, high = output_scale(target)
    return grid.like(from_unit(drawn, target, (low, high))), grid.like(half * (high - low) / 2)    # [-1, 1] spans 2


def read_sources(volume: Volume | Sequence[Volume], source: Sources, mask: np.ndarray | None,
                 ) -> tuple[Volume, np.ndarray | list[np.ndarray]]:
    """The grid of the result, and the source (or sources) in [-1, 1]. Raises VaeliteError for sources on different grids."""
    sources = as_tuple(source)
    volumes = [volume] if isinstance(volume, Volume) else list(volume)
    if len(volumes) != len(sources):
        raise VaeliteError(f"{len(sources)} sources ({', '.join(sources)}) need as many volumes, not {len(volumes)}.")
    for name, other in zip(sources, volumes):
        if not other.same_grid(volumes[0]):
            raise VaeliteError(f"{name} and {sources[0]} lie on different grids. Resample one to the other first.")
    mask = body_mask(volumes[0].data, sources[0]) if mask is None else mask
    units = [to_unit(v.data, name, mask)[0] for name, v in zip(sources, volumes)]
    return volumes[0], units[0] if isinstance(source, str) else units


def output_scale(target: str) -> tuple[float, float]:
    """What -1 and 1 of model space stand for in a result."""
    return HU_WINDOW if target in HU_MODALITIES else MR_OUTPUT_RANGE
