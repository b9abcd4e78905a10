"""Looking closer at a translation: error by direction, sharpness by its spectrum, honesty by a planted lesion."""
from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import ndimage

from ..data.intensity import MODALITIES
from ..data.slices import SliceSet
from ..errors import VaeliteError
from ..figures import DISPLAYS, METHOD_NAMES, draw_convention
from ..translate import BATCH, Sources, Translator, as_tuple, task_name
from .metrics import CONVENTIONS, value_range
from .rows import markdown

FADE_PIXELS = 6                                              # of the body's edge, in a spectrum


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


def errors_table(errors: dict[str, dict[str, float]]) -> str:
    """`direction_errors` as Markdown, in the target's own unit (HU, or % of the intensity range), the best in bold.

    The tokenizer has seen the target, so it is never the best.
    """
    rows, methods = [], list(next(iter(errors.values())))
    for name, of_method in errors.items():
        shown = DISPLAYS[name.split(">")[1]]
        decimals = 1 if shown.unit == "HU" else 2
        cells = {method: f"{error * (shown.high - shown.low) / 2:.{decimals}f}" for method, error in of_method.items()}
        best = min((method for method in cells if method != "tokenizer"), key=of_method.get)
        cells[best] = f"**{cells[best]}**"
        rows.append([name.replace(">", " → "), shown.unit, *cells.values()])
    return markdown(["direction", "unit", *(METHOD_NAMES.get(method, method) for method in methods)], rows)


@torch.no_grad()
def decode_truth(translator: Translator, x: torch.Tensor, source: Sources, wanted: torch.Tensor, target: str) -> torch.Tensor:
    """What stage 3 draws when handed the target's own latents, as if stage 2 made no error; it sees the sources as ever.

    x: (n, sources, h, w) source slices, wanted: (n, h, w) target slices, in [-1, 1], on the CPU -> (n, h, w).
    """
    drawn, device = [], translator.vae.patch_mean.device
    for part, truth in zip(x.split(BATCH), wanted.split(BATCH)):
        z = translator.vae.encode(truth[:, None].to(device)).mean
        task = translator.read(part.to(device).float(), as_tuple(source), target)
        drawn.append(translator.decoder(z, translator.vae.linear_decode(z), *task)[0][:, 0].clamp(-1, 1).cpu())
    return torch.cat(drawn)


def draw_pair(ct_hu: np.ndarray, made_hu: dict[str, np.ndarray], body: np.ndarray, pixel_mm: float,
              values: dict[str, dict[str, dict[str, float]]], convention: str, method: str, slice_number: int) -> Figure:
    """One slice of the real and of a made CT [z, y, x] in HU, and what a convention counts of their difference.

    made_hu: {method: volume}; values: {method: what `metrics.every_convention` says of it}.
    """
    spec = CONVENTIONS[convention]
    counted = np.ones_like(body[slice_number]) if spec.whole_grid else body[slice_number]
    return draw_convention(ct_hu[slice_number], made_hu[method][slice_number], counted, value_range(ct_hu, body, spec),
                           values[method], convention, pixel_mm)


def radial_power(x: torch.Tensor, mask: torch.Tensor, pixel_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Power spectrum of the body averaged over rings of equal spatial frequency -> (frequency [1/mm], power [1]).

    Mean over slices. x: (n, h, h) in [-1, 1]; mask: (n, h, h), the body. From the first ring to the Nyquist frequency. The
    slice's mean is taken off and the body fades out towards its edge (raised cosine; Harris 1978): cut off sharply, a body of
    nothing but water would have as much power at high frequencies as a head. Power 1: white noise of variance 1.
    """
    size = x.shape[-1]
    depth = np.stack([ndimage.distance_transform_edt(body) for body in np.asarray(mask) > 0])     # pixels to the edge
    weight = torch.from_numpy(np.sin(np.pi / 2 * (depth / FADE_PIXELS).clip(0, 1)) ** 2)
    image, area = x.double(), weight.sum((1, 2), keepdim=True).clamp_min(1e-9)
    image = (image - (image * weight).sum((1, 2), keepdim=True) / area) * weight
    power = torch.fft.fft2(image).abs().square().sum(0) / weight.square().sum()
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
    Noise counts where it is as strong as a lesion (SD 45 HU at 5 mm grain is): a copy of the source says how often.
    None if no slice has such a place. Source: our choice. Raises VaeliteError if a pixel is not finite.
    """
    if not (predicted.isfinite().all() and wanted.isfinite().all()):
        raise VaeliteError("A pixel is NaN or infinite: no lesion can be looked for. Find its cause.")
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
