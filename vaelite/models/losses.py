"""What the three stages minimise: the pieces, each short enough to be read beside its formula."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the posterior N(mean, exp(logvar)) from the prior N(0, 1).

    mean, logvar: (b, k, h, w) -> (b,) [nat per slice], always >= 0.
    Source: Kingma and Welling 2014, appendix B.
    """
    nats = 0.5 * (mean.square() + logvar.exp() - 1 - logvar)
    return nats.flatten(1).sum(1)                            # independent latents: their nats add up


def ssim_2d(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity of images in [-1, 1], Gaussian window 11, sigma 1.5, mean over the image.

    x, y: (b, 1, h, w) -> (b,) [1].  A training loss; the reported SSIM is 3-D and lives in `metrics`.
    Computed in float32 even under autocast: E[x^2] - E[x]^2 cancels in bfloat16 and reads up to 2 points high.
    Source: Wang et al. 2004, with data range 2, K1 = 0.01, K2 = 0.03.
    """
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        offset = torch.arange(11, device=x.device) - 5.0
        window = torch.exp(-offset.square() / (2 * 1.5**2))
        window = window / window.sum()

        def weights(n: int) -> Tensor:                       # (n - 10, n): row i holds the window from place i on
            return F.conv1d(torch.eye(n, device=x.device)[:, None], window[None, None])[:, 0].T

        rows, columns = weights(x.shape[-2]), weights(x.shape[-1]).T

        def blur(image: Tensor) -> Tensor:                   # two products: six times as fast as convolutions on a CPU
            return rows @ image @ columns

        mean_x, mean_y = blur(x), blur(y)
        var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
        covariance = blur(x * y) - mean_x * mean_y
        c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
        luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
        structure = (2 * covariance + c2) / (var_x.clamp_min(0) + var_y.clamp_min(0) + c2)
        return (luminance * structure).mean((1, 2, 3))


def image_loss(prediction: Tensor, target: Tensor, ssim_weight: float = 0.2) -> Tensor:
    """L1 + weight * (1 - SSIM), mean over the batch; images (b, 1, h, w) in [-1, 1].

    The paper does not publish its losses; these and the weight 0.2 are our choice.
    """
    return (prediction - target).abs().mean() + ssim_weight * (1 - ssim_2d(prediction, target).mean())


def laplace_nll(error: Tensor, log_scale: Tensor) -> Tensor:
    """Mean negative log-likelihood of errors that are Laplace with scale b: |e| / b + ln b (+ ln 2, left out).

    error, log_scale = ln b: (b, 1, h, w). Its minimum is at b = |e| on average, so b learns the expected error.
    """
    return (error.abs() * (-log_scale).exp() + log_scale).mean()
