"""Do made images look like real ones as a crowd? Distances between two sets of images, each with what it depends on.

Error compares an image with its own truth; a distribution distance compares sets and needs no pairs. It measures what its
features see, and it is noisy: slices of one patient are alike, so the patients are the sample.
"""
from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import VaeliteError

BATCH = 16
Block = tuple[np.ndarray, np.ndarray]                        # (sums, counts) of the kernel for every two patients


@dataclass(frozen=True)
class Extractor:
    """What turns slices (n, h, w) in [-1, 1] into features (n, d). fid: may its Frechet distance be called FID?

    warning: why its distances should not be trusted; told (UserWarning) whenever it is used.
    """

    name: str
    features: Callable[[Tensor], Tensor]
    warning: str = ""
    fid: bool = False

    @torch.no_grad()
    def __call__(self, x: Tensor) -> np.ndarray:
        """Slices (n, h, w) in [-1, 1] -> float64 (n, d)."""
        if self.warning:
            warnings.warn(f"{self.name}: {self.warning}", stacklevel=2)
        return torch.cat([self.features(part.float()) for part in x.split(BATCH)]).double().cpu().numpy()


# -------------------------------------------------------------------------------------------------------------- extractors
def texture_extractor() -> Extractor:
    """64 numbers a slice that no network had to learn: how strong edges and lines of each size and direction are."""
    return Extractor("texture", texture_features)


def texture_features(x: Tensor, levels: int = 4) -> Tensor:
    """(n, h, w) in [-1, 1] -> (n, 16 levels): log10 of mean and of root mean square of |response|, filter by filter.

    Filters: edges and lines in four directions, on a picture that is halved from level to level. Source: our choice, after
    Leung and Malik 2001. Logarithms keep all features near 1 in size, so none outweighs the others.
    """
    x, bank, features = x[:, None], derivative_filters().to(x), []
    for _ in range(levels):
        response = F.conv2d(F.pad(x, (3, 3, 3, 3), "reflect"), bank).abs()
        features += [response.mean((2, 3)), response.square().mean((2, 3)).sqrt()]
        x = F.avg_pool2d(x, 2)
    return torch.cat(features, 1).clamp_min(1e-4).log10()


def derivative_filters(sigma: float = 1.0, radius: int = 3) -> Tensor:
    """First and second derivative of a Gaussian along 0, 45, 90 and 135 degrees, sum of |weights| 1: (8, 1, 7, 7)."""
    axis = torch.arange(-radius, radius + 1.0)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    gaussian = torch.exp(-(x**2 + y**2) / (2 * sigma**2))
    filters = []
    for angle in (0, 45, 90, 135):
        along = x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle))
        for weights in (along * gaussian, (along**2 / sigma**2 - 1) * gaussian):
            weights = weights - weights.mean()               # blind to brightness, as cut off at the radius it would not be
            filters.append(weights / weights.abs().sum())
    return torch.stack(filters)[:, None]


def encoder_extractor(vae) -> Extractor:
    """The means of the run's own latents, averaged over the slice, and their SD: (n, 2k)."""
    def features(x: Tensor) -> Tensor:
        z = vae.encode(x[:, None].to(next(vae.parameters()).device)).mean
        return torch.cat([z.mean((2, 3)), z.std((2, 3))], 1)

    return Extractor("own-encoder", features, "circular: the method that drew the images is judged by its own encoder")


def inception_extractor(weights: Path) -> Extractor:
    """Inception-v3's last pooling layer (2048 features), from torchvision and a weights file that you have.

    weights: safetensors. Where torchvision may download: safetensors.torch.save_file(torchvision.models.inception_v3(
    weights="IMAGENET1K_V1").state_dict(), "inception_v3.safetensors"). A slice is shown as three equal colours at 299 x 299
    pixels with ImageNet's mean and SD. These are not the weights of Heusel et al. 2017, so the name says torchvision.
    Raises VaeliteError if torchvision or the file is missing, or holds other weights.
    """
    if not Path(weights).is_file():
        raise VaeliteError(f"{weights} does not exist. Inception's weights are not shipped: save them where you have a network "
                           f"(vaelite.evaluation.distribution.inception_extractor says how), or use texture_extractor().")
    try:
        from torchvision.models import inception_v3
    except ImportError as error:
        raise VaeliteError("Inception features need torchvision, which is not installed: pip install torchvision, in the "
                           "version made for your torch; or use texture_extractor(), which needs nothing.") from error
    network = inception_v3(weights=None, aux_logits=True, init_weights=False, transform_input=False)
    try:
        network.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        what = " ".join(str(error).split())[:200]
        raise VaeliteError(f"{weights} does not hold Inception-v3 as torchvision names it: {what}") from error
    network.fc = torch.nn.Identity()
    network.eval().requires_grad_(False)
    mean, sd = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]

    def features(x: Tensor) -> Tensor:
        image = F.interpolate(x[:, None], (299, 299), mode="bilinear", antialias=True)
        return network(((image + 1) / 2 - mean) / sd)

    return Extractor("torchvision-inception", features, fid=True)


# --------------------------------------------------------------------------------------------------------------- distances
def kid(features, other, patients=None, other_patients=None) -> tuple[float, float]:
    """Squared kernel distance of two sets of features and its standard error, (k, SE) [1]; 0 on average for the same law.

    features: (n, d); other: (m, d); patients, other_patients: (n,), (m,) labels (default: every image is a patient of its own).
    Kernel (x.y / d + 1)^3 (Binkowski et al. 2018). Two slices of one patient are no two draws: a pair from one patient is
    left out everywhere, also where made slices meet the real ones they were made for (our choice; unbiased by patient). SE:
    jackknife over patients. Raises VaeliteError below two patients a set.
    """
    x, y = _sets(features, other)
    ours = [("x", i) for i in range(len(x))] if patients is None else list(patients)
    theirs = [("y", i) for i in range(len(y))] if other_patients is None else list(other_patients)
    if (len(ours), len(theirs)) != (len(x), len(y)):
        raise VaeliteError(f"{len(ours)} and {len(theirs)} patient labels do not fit {len(x)} and {len(y)} images: one each.")
    blocks = kernel_blocks(x, y, ours, theirs)
    return mmd(*blocks), jackknife_error(*blocks)


def kernel_blocks(x: np.ndarray, y: np.ndarray, patients: list, other_patients: list) -> tuple[Block, Block, Block]:
    """(sums, counts) of the kernel for every two patients, of x with x, y with y and x with y; each (patients, patients).

    All sets share one order of patients; a patient without images has counts 0, and so has every patient with itself.
    """
    index = {name: i for i, name in enumerate(dict.fromkeys([*patients, *other_patients]))}
    members = [np.eye(len(index))[:, [index[name] for name in names]] for names in (patients, other_patients)]

    def block(a: np.ndarray, b: np.ndarray, one: np.ndarray, two: np.ndarray) -> Block:
        different = 1 - np.eye(len(index))
        sums = one @ ((a @ b.T / a.shape[1] + 1) ** 3) @ two.T
        return sums * different, np.outer(one.sum(1), two.sum(1)) * different

    return block(x, x, members[0], members[0]), block(y, y, members[1], members[1]), block(x, y, *members)


def mmd(*blocks: Block) -> float:
    """Mean kernel inside the first set, plus inside the second, minus twice between them."""
    if not all(counts.any() for _, counts in blocks):
        raise VaeliteError("A kernel distance needs images of at least two patients in each set. Give more patients.")
    inside, inside_other, between = (float(sums.sum() / counts.sum()) for sums, counts in blocks)
    return inside + inside_other - 2 * between


def jackknife_error(*blocks: Block) -> float:
    """Standard error of `mmd`: how much it moves when one patient is left out (NaN if a set cannot spare one)."""
    left = [[part.sum() - part.sum(0) - part.sum(1) for part in block] for block in blocks]    # sums and counts without each
    if not all(counts.all() for _, counts in left):
        return float("nan")
    inside, inside_other, between = (sums / counts for sums, counts in left)
    return math.sqrt((len(between) - 1) * np.var(inside + inside_other - 2 * between))


def same_law_null(features, patients, at_most: int = 200) -> list[float]:
    """KID between two halves of ONE set, split by patient, for every split (at most 200, drawn): what nothing looks like.

    Raises VaeliteError below 4 patients: a half needs two.
    """
    x, names = np.asarray(features, dtype=np.float64), list(dict.fromkeys(patients))
    if len(names) < 4:
        raise VaeliteError(f"A split in two by patient needs at least 4 patients, these are {len(names)}.")
    sums, counts = kernel_blocks(x, x, list(patients), list(patients))[0]
    if math.comb(len(names), len(names) // 2) <= at_most:
        halves = list(itertools.combinations(range(len(names)), len(names) // 2))
    else:
        rng = np.random.default_rng(0)
        halves = [tuple(rng.permutation(len(names))[:len(names) // 2]) for _ in range(at_most)]
    values = []
    for half in halves:
        a, b = list(half), [i for i in range(len(names)) if i not in half]
        values.append(mmd(*((sums[np.ix_(*pair)], counts[np.ix_(*pair)]) for pair in ((a, a), (b, b), (a, b)))))
    return values


def frechet_distance(features, other) -> float:
    """Squared Frechet distance of two sets as if each were Gaussian: |mean difference|^2 + tr(A + B - 2 (AB)^(1/2)).

    features: (n, d); other: (m, d). Biased: two sets of the same law are apart, by more the fewer images there are; so
    never give it without its name (`frechet_name`) and beside the same for two halves of the real images.
    Source: Dowson and Landau 1982. Raises VaeliteError below two images a set.
    """
    x, y = _sets(features, other)
    if min(len(x), len(y)) < 2:
        raise VaeliteError("A Frechet distance needs a covariance: at least two images in each set.")
    mean_x, mean_y = x.mean(0), y.mean(0)
    a, b = (x - mean_x) / math.sqrt(len(x) - 1), (y - mean_y) / math.sqrt(len(y) - 1)    # A = a'a, B = b'b
    cross = np.linalg.svd(a @ b.T, compute_uv=False).sum()   # tr (AB)^(1/2), without the root of a singular matrix
    return float(((mean_x - mean_y) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * cross)


def _sets(features, other) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(f, dtype=np.float64) for f in (features, other))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise VaeliteError(f"Features (n, d) of one extractor are compared, not {x.shape} with {y.shape}.")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise VaeliteError("A feature is NaN or infinite: so is a pixel of its image. Find the cause.")
    return x, y


def frechet_name(extractor: Extractor, planes: str, n: int) -> str:
    """ "FD-texture(axial, N=300)"; FID only of an extractor that really loaded Inception's weights."""
    return f"{'FID' if extractor.fid else 'FD'}-{extractor.name}({planes}, N={n})"
