"""Stages 2 and 3: the ridge is least squares, new networks change nothing, the mapper sees both ways."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from vaelite.models.baselines import NoLatentControl, UNet
from vaelite.models.decoder import DecoderConfig, GuidedDecoder
from vaelite.models.layers import in_slot
from vaelite.models.mapper import LatentMapper, MapperConfig, position_code, ridge_regression
from vaelite.models.unet import UNetConfig
from vaelite.models.vae import VAE, VAEConfig

CONFIG = MapperConfig(latent_channels=4, width=32, depth=2, heads=2)


@pytest.fixture(scope="module")
def latents() -> tuple[torch.Tensor, torch.Tensor]:
    """Latents of four modalities; modality 1 is a fixed blur of modality 0 plus noise, modality 3 is sometimes absent."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(40, 4, 4, 6, 6, generator=generator)
    z[:, 1] = torch.nn.functional.avg_pool2d(z[:, 0], 3, 1, 1) + 0.1 * z[:, 1]
    have = torch.ones(40, 4, dtype=torch.bool)
    have[::3, 3] = False
    return z, have


def trained(latents) -> LatentMapper:
    """A mapper whose zero-initialised layers were moved, so that every path is open."""
    torch.manual_seed(0)
    mapper = LatentMapper(CONFIG).fit_ridge(*latents)
    with torch.no_grad():
        for parameter in mapper.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return mapper.eval()


def alone(x: torch.Tensor, s: int, t: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x of modality s as the one source of target t: what mapper and U-Net take."""
    return *in_slot(x, torch.full((len(x),), s)), torch.full((len(x),), t)


def test_ridge_without_penalty_is_numpy_s_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 7)).astype(np.float32), rng.normal(size=(200, 3)).astype(np.float32)
    expected = np.linalg.lstsq(np.c_[x, np.ones(200)].astype(np.float64), y, rcond=None)[0]
    np.testing.assert_allclose(ridge_regression(torch.tensor(x), torch.tensor(y), 0.0), expected, atol=1e-5)


def test_ridge_penalty_shrinks_the_weights():
    x, y = torch.randn(100, 5, generator=torch.Generator().manual_seed(0)), torch.randn(100, 1)
    sizes = [float(ridge_regression(x, y, penalty).norm()) for penalty in (0.0, 0.1, 1.0, 10.0)]
    assert sizes == sorted(sizes, reverse=True)


def test_convolution_ridge_equals_least_squares_on_patches(latents):
    """fit_ridge stores its solution as a convolution kernel: it must predict what the regression predicts."""
    z, have = latents
    mapper = LatentMapper(CONFIG).fit_ridge(z, have, penalty=1e-2)
    normal = (z - mapper.latent_mean) / mapper.latent_deviation
    patches = torch.nn.functional.unfold(normal[:, 0], 3, padding=1).transpose(1, 2).reshape(-1, 36)
    wanted = normal[:, 1].permute(0, 2, 3, 1).reshape(-1, 4)
    weights = ridge_regression(patches, wanted, 1e-2)
    expected = (torch.cat([patches, torch.ones(len(patches), 1)], 1) @ weights).view(40, 6, 6, 4).permute(0, 3, 1, 2)
    predicted = mapper.ridge_latents(*alone(z[:, 0], 0, 1))
    np.testing.assert_allclose((predicted - mapper.latent_mean) / mapper.latent_deviation, expected, atol=1e-4)
    residual = (expected - normal[:, 1]).square().mean()
    assert residual < 0.5 * normal[:, 1].square().mean()     # the blur is linear, so ridge finds most of it


def test_new_mapper_is_its_ridge(latents):
    mapper = LatentMapper(CONFIG).fit_ridge(*latents)
    task = alone(latents[0][:, 0], 0, 1)
    with torch.no_grad():
        np.testing.assert_allclose(mapper(*task), mapper.ridge_latents(*task), atol=1e-6)


def test_mapper_sees_both_ways(latents):
    """The Jacobian of one output token has entries for tokens before and behind it: attention has no causal mask."""
    mapper = trained(latents)
    z = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    middle = 14                                              # row 2, column 2 of 36 tokens

    def token(x: torch.Tensor) -> torch.Tensor:
        z, given, target = alone(x, 0, 1)
        return mapper.transform(mapper.normalise(z, given), given, target).flatten(2)[0, :, middle]

    jacobian = torch.autograd.functional.jacobian(token, z).flatten(-2).abs().sum((0, 1, 2))  # one number an input token
    assert (jacobian[:middle] > 0).all() and (jacobian[middle + 1:] > 0).all()


def test_attention_alone_is_permutation_equivariant(latents):
    """Without position code and depthwise convolution, shuffled tokens give shuffled answers."""
    block = trained(latents).blocks[0]
    x, order = torch.randn(2, 36, 32, generator=torch.Generator().manual_seed(2)), torch.randperm(36)
    with torch.no_grad():
        np.testing.assert_allclose(block.attend(x[:, order]), block.attend(x)[:, order], atol=1e-5)


def test_attention_maps_are_the_weights_that_the_blocks_use(latents):
    """Each row is a weighted mean's weights, and applying them by hand gives the block's own attention."""
    mapper, task = trained(latents), alone(latents[0][:2, 0], 0, 1)
    maps = mapper.attention_maps(*task)
    assert maps.shape == (CONFIG.depth, 2, CONFIG.heads, 36, 36)
    np.testing.assert_allclose(maps.sum(-1), 1.0, atol=1e-5)
    block, x = mapper.blocks[0], torch.randn(2, 36, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        values = block.qkv(x)[..., 64:].view(2, 36, CONFIG.heads, -1)
        by_hand = torch.einsum("banm,bmad->bnad", block.weights(block.qkv(x)), values).flatten(2)
        np.testing.assert_allclose(block.attention_out(by_hand), block.attend(x), atol=1e-5)


def test_ridge_is_translation_equivariant_inside(latents):
    mapper = LatentMapper(CONFIG).fit_ridge(*latents)
    z = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(3))
    a = mapper.ridge_latents(*alone(z, 0, 1))
    b = mapper.ridge_latents(*alone(z.roll(1, -1), 0, 1))
    np.testing.assert_allclose(b[..., 2:-1], a.roll(1, -1)[..., 2:-1], atol=1e-5)


def test_guidance_matters_and_batches_may_mix_directions(latents):
    mapper, z = trained(latents), latents[0][:3, 0]
    with torch.no_grad():
        one_by_one = [mapper(*alone(z[i:i + 1], 0, t)) for i, t in enumerate((1, 2, 3))]
        stack, given, _ = alone(z, 0, 1)
        mixed = mapper(stack, given, torch.tensor([1, 2, 3]))
        np.testing.assert_allclose(mixed, torch.cat(one_by_one), atol=1e-4)
        assert (mapper(*alone(z, 0, 1)) - mapper(*alone(z, 0, 2))).abs().mean() > 0.01


def test_absent_modalities_do_not_reach_the_ridge(latents):
    z, have = latents
    spoiled = torch.where(have[:, :, None, None, None], z, torch.tensor(1e6))
    a, b = LatentMapper(CONFIG).fit_ridge(z, have), LatentMapper(CONFIG).fit_ridge(spoiled, have)
    np.testing.assert_allclose(a.ridge_kernel, b.ridge_kernel)


def test_slots_that_are_not_given_are_not_read(latents):
    """Whatever stands in an absent modality's slot, and in the target's own, changes nothing."""
    mapper, (z, _) = trained(latents), latents
    given, target = torch.tensor([[True, False, True, False]]).repeat(40, 1), torch.ones(40, dtype=torch.long)
    other = z.clone()
    other[:, [1, 3]] = 1e3
    with torch.no_grad():
        assert torch.equal(mapper(z, given, target), mapper(other, given, target))
        assert not torch.equal(mapper(z, given, target), mapper(z.flip(0), given, target))


def test_joint_ridge_of_two_sources_is_numpy_s_least_squares_on_both(latents):
    z, have = latents
    mapper = LatentMapper(replace(CONFIG, neighbourhood=1)).fit_ridge(z, have, penalty=0.0)
    given, target = torch.tensor([[True, False, True, False]]).repeat(40, 1), torch.ones(40, dtype=torch.long)
    a = z[:, [0, 2]].flatten(1, 2).movedim(1, -1).reshape(-1, 8).double().numpy()
    a = np.c_[a, np.ones(len(a))]
    wanted = z[:, 1].movedim(1, -1).reshape(-1, 4).double().numpy()
    expected = a @ np.linalg.lstsq(a, wanted, rcond=None)[0]
    found = mapper.ridge_latents(z, given, target).movedim(1, -1).reshape(-1, 4)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_further_source_never_makes_the_ridge_worse_where_it_was_fitted(latents):
    z, have = latents
    mapper, target = LatentMapper(CONFIG).fit_ridge(z, have, penalty=0.0), torch.full((40,), 1)
    few, more = (torch.tensor([given]).repeat(40, 1) for given in ([True, False, False, False], [True, False, True, False]))
    error = [(mapper.ridge_latents(z, given, target) - z[:, 1]).square().mean() for given in (few, more)]
    assert error[1] <= error[0] * (1 + 1e-5)


def test_position_code_tells_all_places_apart_at_any_size():
    for h, w in ((4, 4), (7, 5), (16, 16)):
        code = position_code(h, w, 32)
        assert code.shape == (h * w, 32)
        assert torch.cdist(code, code).fill_diagonal_(9).min() > 0.1


def test_new_guided_decoder_is_the_stage_1_decoder():
    torch.manual_seed(0)
    vae = VAE(VAEConfig())
    x = torch.rand(2, 1, 64, 64) * 2 - 1
    vae.fit_pca(x)
    with torch.no_grad():
        for parameter in vae.decoder.parameters():           # a decoder that draws something
            parameter.add_(0.02 * torch.randn_like(parameter))
        guided = GuidedDecoder(DecoderConfig(fine_tune=True), vae.decoder)
        z = vae.encode(x).mean
        drawn, _ = guided(z, vae.linear_decode(z), *alone(-x[:, 0], 0, 1))
        np.testing.assert_allclose(drawn, vae.decode(z), atol=1e-6)
        guided.decoder.head.weight.add_(1.0)                 # a copy: fine-tuning leaves the VAE as it was
        np.testing.assert_allclose(drawn, vae.decode(z), atol=1e-6)


def test_blend_is_least_squares_inside_the_body():
    """Wanted = 0.3 source + 0.6 draft shifted by one pixel, counted from air: the filters find both, whatever lies outside."""
    guided = GuidedDecoder(DecoderConfig())
    draft, x = torch.rand(2, 5, 1, 24, 24, generator=torch.Generator().manual_seed(0)).unbind(0)
    mask = torch.zeros(5, 24, 24, dtype=torch.bool)
    mask[:, 4:20, 4:20] = True
    wanted = torch.where(mask[:, None], 0.3 * (x + 1) + 0.6 * (draft.roll(1, -1) + 1) - 1, torch.tensor(9.0))
    stack, given, target = alone(x[:, 0], 0, 1)
    guided.fit_blend(draft, stack, wanted, mask, given[0], 1)
    expected = torch.zeros(5, 3, 3)                          # four modalities and the draft
    expected[0, 1, 1], expected[4, 1, 0] = 0.3, 0.6
    torch.testing.assert_close(guided.blend_kernel[1, 1], expected, atol=1e-3, rtol=0)
    inside = guided.blend(draft, stack, given, target)[mask[:, None]]
    torch.testing.assert_close(inside, wanted[mask[:, None]], atol=1e-3, rtol=0)


def test_blend_leaves_air_alone():
    guided = GuidedDecoder(DecoderConfig())
    guided.blend_kernel.normal_(generator=torch.Generator().manual_seed(0))
    air = torch.full((2, 1, 16, 16), -1.0)
    torch.testing.assert_close(guided.blend(air, *alone(air[:, 0], 0, 1)), air)


@pytest.mark.parametrize("network", [UNet(UNetConfig(features=(8, 8, 8, 8, 8, 8), condition_width=16)),
                                     NoLatentControl(UNetConfig(features=(8, 8, 8, 8, 8, 8), condition_width=16)),
                                     NoLatentControl(UNetConfig(features=(8, 8, 8, 8, 8, 8), condition_width=16, stem=2))])
def test_baselines_hear_their_condition_and_read_only_what_is_given(network):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        x, given, target = alone(torch.randn(1, 64, 64), 0, 1)
        drawn, other = network.eval()(x, given, target), x.clone()
        other[:, 1:] = 7.0
        assert torch.equal(network(other, given, target), drawn)
        assert (network(x, given, target + 1) - drawn).abs().max() > 1e-4
        assert (network(*alone(x[:, 0], 3, 1)) - drawn).abs().max() > 1e-4
