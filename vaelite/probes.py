"""Looking closer at a translation: error by direction, sharpness by its spectrum, honesty by a planted lesion."""
from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage

from .intensity import MODALITIES
from .slices import SliceSet
from .translate import Translator, task_name


def direction_errors(translator: Translator, slices: SliceSet, methods: tuple[str, ...],
                     fusions: bool = False) -> dict[str, dict[str, float]]:
    """Mean absolute error in the body [1, images in -1..1] of each direction and method: {"CBCT>CT": {"copy": ...}}.

    The method "tokenizer" decodes the true target's own latents: what is left if the mapping were perfect.
    fusions: also of the tasks that have all other modalities as sources ({"CBCT+T1c+T2w>CT": ...}).
    """
    errors: dict[str, dict[str, float]] = {}
    single = [((source,), target) for source, target in translator.directions()]
    for sources, target in [*single, *(translator.fusions() if fusions else ())]:
        s, t = [MODALITIES.index(source) for source in sources], MODALITIES.index(target)
        rows = slices.have[:, [*s, t]].all(1)
        wanted, mask = slices.x[rows, t].float(), slices.mask[rows]
        for method in methods if rows.any() else ():
            if method == "tokenizer":
                predicted = torch.from_numpy(translator.reconstruct(wanted.numpy()))
            else:
                predicted = translator.slices(slices.x[rows][:, s], sources, target, method)[:, 0]
            errors.setdefault(task_name(sources, target), {})[method] = float((predicted - wanted).abs()[mask].mean())
    return errors


def radial_power(x: torch.Tensor, mask: torch.Tensor, pixel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Power spectrum averaged over rings of equal spatial frequency -> (frequency [1/mm], power [1]), mean over slices.

    x: (n, h, h) in [-1, 1]; mask: (n, h, h), outside it x counts as air. From the first ring to the Nyquist frequency.
    """
    size = x.shape[-1]
    body = ((x.float() + 1) * mask).double()                 # air is 0: the square's edges add no power
    power = torch.fft.fft2(body, norm="ortho").abs().square().mean(0)
    index = torch.fft.fftfreq(size) * size
    ring = torch.hypot(index[:, None], index[None]).round().long().flatten()
    mean = torch.bincount(ring, power.flatten()) / torch.bincount(ring)
    rings = np.arange(1, size // 2)
    return rings / (size * pixel_mm), mean[rings].numpy()


def plant_lesions(x: torch.Tensor, mask: torch.Tensor, pixel_mm: float, amount: float,
                  diameter_mm: float = 8.0) -> tuple[torch.Tensor, torch.Tensor]:
    """A disc of `amount` added to each slice where its tissue is most uniform -> (x with lesion, disc).

    x: (n, h, w) in [-1, 1]; mask, disc: (n, h, w) bool. A slice without room for a lesion keeps an empty disc.
    """
    _, h, w = x.shape
    rows, columns = (np.arange(h) + 0.5) * pixel_mm, (np.arange(w) + 0.5) * pixel_mm
    width = 2 * int(np.ceil(diameter_mm / pixel_mm)) + 1     # the neighbourhood is twice the lesion
    disc = np.zeros(x.shape, bool)
    for i, (image, body) in enumerate(zip(x.float().numpy(), mask.numpy())):
        spread = ndimage.maximum_filter(ndimage.gaussian_gradient_magnitude(image, 1.0), width)
        inside = ndimage.minimum_filter(body & (image > -0.5), width)     # tissue all around: no air
        if inside.any():
            row, column = np.unravel_index(np.argmin(np.where(inside, spread, np.inf)), spread.shape)
            centre = (row + 0.5) * pixel_mm, (column + 0.5) * pixel_mm
            disc[i] = np.hypot(rows[:, None] - centre[0], columns[None] - centre[1]) <= diameter_mm / 2 + 1e-6
    disc = torch.from_numpy(disc)
    return (x.float() + amount * disc).clamp(-1, 1), disc


def lesion_response(translator: Translator, x: torch.Tensor, planted: torch.Tensor, disc: torch.Tensor, source: str,
                    target: str, method: str) -> tuple[torch.Tensor, float, float]:
    """What a planted lesion changes in the translation -> (change (n, h, w), kept [%], elsewhere [%]).

    kept: the mean change in the disc; elsewhere: the largest |change| more than two pixels from it, mean over slices.
    Both are relative to the lesion's contrast; 100 % and 0 % are faithful where both modalities share one scale.
    Slices with an empty disc do not count.
    """
    some = disc.flatten(1).any(1)
    x, planted, disc = x[some].float(), planted[some].float(), disc[some]
    before, after = (translator.slices(image[:, None], source, target, method)[:, 0] for image in (x, planted))
    change, lesion = after - before, planted - x
    near = torch.nn.functional.max_pool2d(disc[:, None].float(), 5, 1, 2)[:, 0] > 0
    contrast = lesion[disc].mean()
    elsewhere = (change.abs() * ~near).flatten(1).amax(1).mean()
    return change, float(100 * change[disc].mean() / contrast), float(100 * elsewhere / contrast)


def lesion_verdict(translator: Translator, x: torch.Tensor, mask: torch.Tensor, pixel_mm: float, source: str, target: str,
                   method: str, amount: float, diameter_mm: float = 8.0) -> dict[str, float | None]:
    """What becomes of lesions planted in the source slices: {"contrast kept" [%], "erased" [% of lesions]}; None without room.

    x: (n, h, w) in [-1, 1] of `source`, a modality on the target's scale (HU); mask: (n, h, w). Erased: the translation gains
    less than half of the contrast planted (our choice).
    """
    planted, disc = plant_lesions(x, mask, pixel_mm, amount, diameter_mm)
    if not disc.any():
        return {"contrast kept": None, "erased": None}
    change, kept, _ = lesion_response(translator, x, planted, disc, source, target, method)
    disc = disc[disc.flatten(1).any(1)]
    gained = (change * disc).sum((1, 2)) / disc.sum((1, 2))
    return {"contrast kept": kept, "erased": float(100 * (gained < amount / 2).float().mean())}


def invented_lesions(predicted: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor, pixel_mm: float, amount: float,
                     diameter_mm: float = 8.0) -> float | None:
    """Share of slices [%] whose translation shows a bright disc, at least half as strong as a lesion, that the truth has not.

    predicted, wanted: (n, h, w) in [-1, 1]; a disc's contrast is its mean minus that of a ring around it. Looked for where the
    truth, smoothed by one pixel, varies by less than `amount` over twice the lesion, and shows less than a quarter of it.
    None if no slice has such a place. Source: our choice.
    """
    room = flat_places(wanted, mask, pixel_mm, amount, diameter_mm)
    true, seen = (disc_contrast(image.float(), pixel_mm, diameter_mm) for image in (wanted, predicted))
    invented = room & (true < amount / 4) & (seen > amount / 2)
    searched = room.flatten(1).any(1)
    return float(100 * invented.flatten(1).any(1)[searched].float().mean()) if searched.any() else None


def flat_places(x: torch.Tensor, mask: torch.Tensor, pixel_mm: float, amount: float, diameter_mm: float) -> torch.Tensor:
    """Where tissue varies by less than `amount` over twice the lesion's diameter: (n, h, w) bool."""
    width = (1, *2 * [2 * int(np.ceil(diameter_mm / pixel_mm)) + 1])
    smooth = ndimage.gaussian_filter(x.float().numpy(), (0, 1, 1))
    spread = ndimage.maximum_filter(smooth, width) - ndimage.minimum_filter(smooth, width)
    return torch.from_numpy((spread < amount) & ndimage.minimum_filter(mask.numpy() & (smooth > -0.5), width))


def disc_contrast(x: torch.Tensor, pixel_mm: float, diameter_mm: float) -> torch.Tensor:
    """Mean of a disc around each pixel minus the mean of a ring around that disc, twice as wide: (n, h, w)."""
    reach = int(np.ceil(diameter_mm / pixel_mm))
    axis = torch.arange(-reach, reach + 1) * pixel_mm
    radius_mm = torch.hypot(axis[:, None], axis[None])
    disc = (radius_mm <= diameter_mm / 2 + 1e-6).float()
    ring = (radius_mm <= diameter_mm + 1e-6).float() - disc
    weights = disc / disc.sum() - ring / ring.sum()
    return torch.nn.functional.conv2d(x[:, None], weights[None, None], padding=reach)[:, 0]
