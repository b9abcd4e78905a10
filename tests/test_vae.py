"""Stage 1: facts about the KL, the PCA path and the losses."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from vaelite.models.losses import image_loss, kl_divergence, ssim_2d
from vaelite.models.vae import VAE, Codebook, DiagonalGaussian, VAEConfig, stem_factor
from vaelite.profiles import TOKENIZERS, profile


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Smooth random slices in [-1, 1]: PCA has something to find."""
    coarse = torch.randn(24, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(-1, 1)


def test_kl_matches_monte_carlo():
    mean, logvar = torch.tensor([0.7, -0.3, 0.0]).view(1, 3, 1, 1), torch.tensor([-1.0, 0.5, -4.0]).view(1, 3, 1, 1)
    generator = torch.Generator().manual_seed(1)
    many = DiagonalGaussian(mean.expand(200_000, -1, -1, -1), logvar.expand(200_000, -1, -1, -1)).sample(generator)
    log_q = torch.distributions.Normal(mean, (0.5 * logvar).exp()).log_prob(many)
    log_p = torch.distributions.Normal(0.0, 1.0).log_prob(many)
    estimate = (log_q - log_p).sum((1, 2, 3))
    error = float(estimate.std() / len(estimate) ** 0.5)
    assert abs(float(kl_divergence(mean, logvar)) - float(estimate.mean())) < 4 * error


def test_kl_is_zero_only_for_the_prior():
    zero = torch.zeros(1, 2, 3, 3)
    assert float(kl_divergence(zero, zero)) == 0
    assert float(kl_divergence(zero + 0.1, zero)) > 0
    assert float(kl_divergence(zero, zero - 0.1)) > 0
    assert float(kl_divergence(zero + 1, zero)) == pytest.approx(0.5 * zero.numel())      # one sigma: half a nat each


def test_sample_has_the_posterior_s_moments_and_carries_gradients():
    mean = torch.full((50_000, 1, 1, 1), 2.0, requires_grad=True)
    logvar = torch.full((50_000, 1, 1, 1), -2.0, requires_grad=True)
    z = DiagonalGaussian(mean, logvar).sample(torch.Generator().manual_seed(0))
    assert float(z.mean()) == pytest.approx(2.0, abs=0.01)
    assert float(z.std()) == pytest.approx(np.exp(-1), abs=0.01)
    z.sum().backward()
    assert mean.grad.abs().min() > 0 and logvar.grad.abs().max() > 0


def test_untrained_vae_is_exactly_patch_pca(images):
    """Oracle: numpy's SVD of the same patches."""
    f, k = 8, 6
    vae = VAE(VAEConfig(factor=f, latent_channels=k)).fit_pca(images)
    patches = images.numpy().reshape(24, 8, f, 8, f).transpose(0, 1, 3, 2, 4).reshape(-1, f * f).astype(np.float64)
    centred = patches - patches.mean(0)
    rows = np.linalg.svd(centred, full_matrices=False)[2][:k]
    expected = (centred @ rows.T @ rows + patches.mean(0)).reshape(24, 8, 8, f, f).transpose(0, 1, 3, 2, 4).reshape(24, 1, 64, 64)
    with torch.no_grad():
        posterior = vae.encode(images)
        np.testing.assert_allclose(vae.decode(posterior.mean).numpy(), expected, atol=2e-5)
    assert posterior.mean.shape == (24, k, 8, 8)
    np.testing.assert_allclose(posterior.mean.std((0, 2, 3), correction=0), 1, rtol=1e-3)     # whitened
    np.testing.assert_allclose((0.5 * posterior.logvar).exp(), np.exp(-3.5), rtol=1e-3)


def test_more_components_never_reconstruct_worse(images):
    errors = []
    for k in (1, 4, 16, 64):
        vae = VAE(VAEConfig(latent_channels=k)).fit_pca(images)
        with torch.no_grad():
            errors.append(float((vae.linear_decode(vae.linear_encode(images)) - images).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-9                                 # 64 numbers for 64 pixels lose nothing


def test_an_unreachable_factor_is_refused():
    with pytest.raises(ValueError, match="levels"):
        stem_factor(4, (8, 8, 8, 8))


def test_training_ssim_agrees_with_scikit_image(images):
    images = images[:, :, 8:56]                              # 48 x 64: rows and columns are not the same
    noisy = (images + 0.2 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))).clamp(-1, 1)
    for x, y, value in zip(images[:4], noisy[:4], ssim_2d(images[:4], noisy[:4])):
        _, full = structural_similarity(x[0].numpy().astype(np.float64), y[0].numpy().astype(np.float64), data_range=2.0,
                                        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True)
        assert float(value) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-5)               # valid windows only


def test_image_loss_is_zero_for_the_truth_and_grows_with_error(images):
    assert float(image_loss(images, images)) == pytest.approx(0, abs=1e-6)
    assert float(image_loss(images + 0.1, images)) < float(image_loss(images + 0.3, images))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_tokenizer_starts_at_its_pca_and_trains(name, images):
    config = profile("laptop", **TOKENIZERS[name] | {"vae.attention": True}).vae
    torch.manual_seed(0)
    vae = VAE(config).fit_pca(images)
    z = vae.encode(images).mean
    assert z.shape == (24, config.latent_channels, 64 // config.factor, 64 // config.factor)
    torch.testing.assert_close(vae.linear_decode(z) + vae.decoder(z), vae.linear_decode(vae.linear_encode(images)))
    image_loss(vae(images)[0], images).backward()
    assert float(vae.decoder.head.weight.grad.abs().max()) > 0 and float(vae.encoder.head.weight.grad.abs().max()) > 0


def test_without_the_pca_start_the_linear_path_is_silent(images):
    vae = VAE(VAEConfig(pca_start=False)).fit_pca(images)
    assert float(vae.linear_decode(vae.encode(images).mean).abs().max()) == 0


def test_codebook_picks_the_nearest_vector_and_passes_the_gradient_on():
    codebook = Codebook(5, 3)
    z = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    quantised = codebook(z)
    distance = (z.detach()[:, None] - codebook.vectors.detach().view(1, 5, 3, 1, 1)).square().sum(2)      # b n h w
    torch.testing.assert_close(quantised, codebook.lookup(distance.argmin(1)))
    (3 * quantised).sum().backward()
    assert (z.grad == 3).all()


def test_k_means_lowers_the_quantisation_error():
    z = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    errors = [float((Codebook(32, 3).fit(z, torch.Generator().manual_seed(1), rounds)(z) - z).square().mean()) for rounds in (0, 1, 10)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.85 * errors[0]


def test_a_wild_encoder_cannot_widen_the_posterior_without_end(images):
    """exp(logvar) of a wild step would cost 1e12 nat a latent; a posterior far wider than the prior is of no use to anyone."""
    vae = VAE(VAEConfig())
    torch.nn.init.constant_(vae.encoder.head.bias[16:], 30.0)                # the logvar half
    with torch.no_grad():
        posterior = vae.encode(images[:2])
    assert float(posterior.logvar.exp().sqrt().max()) < 3
    assert float(kl_divergence(0 * posterior.mean, posterior.logvar).max() / posterior.mean[0].numel()) < 3
