"""The masked mapper: what is hidden stays hidden, what is shown reaches every token, and it learns and draws a true density."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from vaelite.data.cases import load_cases
from vaelite.errors import VaeliteError
from vaelite.models.layers import in_slot
from vaelite.models.losses import laplace_nll
from vaelite.models.mapper import MapperConfig
from vaelite.models.masked import MaskedMapper, random_order, shown
from vaelite.profiles import profile
from vaelite.runs import open_run
from vaelite.stages import load_mapped, train_mapper, train_vae

CONFIG = MapperConfig(latent_channels=4, width=32, depth=2, heads=2, masked=True)


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    """Latents of four modalities; modality 1 is modality 0 plus noise."""
    z = torch.randn(40, 4, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    z[:, 1] = z[:, 0] + 0.5 * z[:, 1]
    return z


def new(latents: torch.Tensor) -> MaskedMapper:
    torch.manual_seed(0)
    return MaskedMapper(CONFIG).fit_ridge(latents, torch.ones(40, 4, dtype=torch.bool))


def moved(latents: torch.Tensor) -> MaskedMapper:
    """A mapper whose zero-initialised layers were moved, so that every path is open."""
    mapper = new(latents)
    with torch.no_grad():
        for parameter in mapper.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return mapper.eval()


def task(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Modality 1 from modality 0."""
    return *in_slot(z[:, 0], torch.zeros(len(z), dtype=torch.long)), torch.ones(len(z), dtype=torch.long)


def seen(mapper: MaskedMapper, z: torch.Tensor, rest: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """Location and ln scale of all tokens: (b, 2 k, h, w)."""
    stack, given, target = task(z)
    with torch.no_grad():
        return torch.cat(mapper.density(mapper.normalise(stack, given), rest, visible, given, target), 1)


def test_a_shown_token_reaches_every_hidden_one_and_a_hidden_one_reaches_none(latents):
    mapper, z = moved(latents), latents[:1]
    rest = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    visible = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    visible[..., 2, 2] = True
    before, other_shown, other_hidden = seen(mapper, z, rest, visible), rest.clone(), rest.clone()
    other_shown[..., 2, 2] += 1
    other_hidden[~visible.expand_as(rest)] += 1e3
    changed = (seen(mapper, z, other_shown, visible) - before).abs().amax(1)
    assert (changed[~visible[:, 0]] > 1e-6).all()            # before and behind: no causal mask
    assert torch.equal(seen(mapper, z, other_hidden, visible), before)


def test_a_shown_zero_is_not_a_hidden_token(latents):
    """The rest of a token may be 0 just where the ridge is right: that, too, is news."""
    nothing, visible = torch.zeros(1, 4, 6, 6), torch.zeros(1, 1, 6, 6, dtype=torch.bool)
    mapper = moved(latents)
    assert not torch.allclose(seen(mapper, latents[:1], nothing, visible), seen(mapper, latents[:1], nothing, ~visible))


def test_a_new_masked_mapper_is_its_ridge(latents):
    mapper = new(latents)
    with torch.no_grad():
        np.testing.assert_allclose(mapper(*task(latents)), mapper.ridge_latents(*task(latents)), atol=1e-6)


def test_the_same_generator_draws_the_same_sample(latents):
    mapper = moved(latents)
    a, b, c = (mapper.sample(*task(latents), 3, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6))
    assert torch.equal(a, b) and not torch.allclose(a, c)


def test_samples_of_a_new_mapper_are_laplace_around_the_ridge(latents):
    """Zero head: location 0 and scale 1 in deviations of a latent, whatever was drawn before (Kolmogorov-Smirnov)."""
    mapper, generator = new(latents), torch.Generator().manual_seed(0)
    start = mapper.ridge_latents(*task(latents))
    for rounds in (1, 4):
        draws = [(mapper.sample(*task(latents), rounds, generator) - start) / mapper.latent_deviation for _ in range(3)]
        assert stats.kstest(torch.stack(draws).flatten().numpy(), stats.laplace.cdf).pvalue > 0.001


@pytest.mark.parametrize("rounds", [1, 3, 8, 100])
def test_each_token_is_drawn_once_and_ever_more_of_them(rounds):
    """By a cosine (Chang et al. 2022): the last round leaves nothing hidden, the early rounds draw fewest."""
    order = random_order(torch.zeros(2, 4, 16, 16), torch.Generator().manual_seed(0))
    assert (order.flatten(1).sort(1).values == torch.arange(256)).all()
    visible = [shown(order, torch.tensor(number / rounds)) for number in range(rounds + 1)]
    count = [int(tokens[0].sum()) for tokens in visible]
    assert count[0] == 0 and count[-1] == 256
    assert all((before <= after).all() for before, after in zip(visible, visible[1:]))
    assert all(abs(n - 256 * (1 - np.cos(np.pi / 2 * i / rounds))) < 1.01 for i, n in enumerate(count))


def test_no_round_is_refused(latents):
    with pytest.raises(VaeliteError, match="at least one round, not 0"):
        new(latents).sample(*task(latents), 0)


@pytest.mark.parametrize(("location", "scale"), [(0.2, 1.0), (-0.2, 1.0), (0.0, 1.15), (0.0, 0.85)])
def test_laplace_nll_is_least_at_the_true_density(location, scale):
    """Gibbs' inequality, by 200,000 draws of Laplace(0.7, 0.3): any other location or scale costs more nats."""
    draws = 0.7 + 0.3 * torch.from_numpy(stats.laplace.rvs(size=200_000, random_state=0))

    def nats(shift: float, factor: float) -> float:
        return float(laplace_nll(draws - 0.7 - 0.3 * shift, torch.full_like(draws, 0.3 * factor).log()))

    assert nats(0.0, 1.0) < nats(location, scale)
    assert nats(0.0, 1.0) == pytest.approx(stats.laplace.entropy(scale=0.3) - np.log(2), abs=0.01)


def test_the_chain_takes_it_as_any_other_mapper(tiny_set, tmp_path):
    cfg, cases, run = profile("smoke", **{"data.size": 32, "decoder.stem": 1, "control.stem": 1, "vae_fit.steps": 4,
                                          "mapper_fit.steps": 8, "mapper.depth": 1, "mapper.masked": True}), load_cases(tiny_set), open_run(tmp_path / "run")
    train_vae(cfg, cases, run)
    trained = train_mapper(cfg, cases, run)
    translator = load_mapped(run)
    assert isinstance(translator.mapper, MaskedMapper)
    assert all(torch.equal(value, translator.mapper.state_dict()[name]) for name, value in trained.state_dict().items())
    x = torch.rand(2, 1, 32, 32) * 2 - 1
    assert translator.slices(x, "CBCT", "CT", "mapped").shape == (2, 1, 32, 32)


def test_it_learns_what_shown_tokens_tell_and_draws_tokens_that_agree(latents):
    """A rest that is one number for the whole slice: with nothing shown it is unknown, a few shown tokens give it away."""
    mapper, generator = new(latents), torch.Generator().manual_seed(0)
    z = torch.randn(32, 4, 4, 6, 6, generator=generator)
    optimiser = torch.optim.AdamW(mapper.parameters(), 3e-3)
    stack, given, target = task(z)

    def wanted() -> torch.Tensor:
        number = torch.randn(32, 1, 1, 1, generator=generator).expand(32, 4, 6, 6)
        return mapper.ridge_latents(stack, given, target) + number * mapper.latent_deviation

    for _ in range(100):
        loss = mapper.loss(stack, given, target, wanted(), generator)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    rest = (wanted() - mapper.ridge_latents(stack, given, target)) / mapper.latent_deviation
    error = {}
    for name, progress in (("nothing", 0.0), ("half", 2 / 3)):
        visible = shown(random_order(rest, generator), torch.tensor(progress))
        location = seen(mapper, z, rest, visible)[:, :4]
        hidden = ~visible.expand_as(rest)
        error[name] = float((location - rest).abs()[hidden].mean())
    assert error["half"] < 0.3 * error["nothing"]
    start = mapper.ridge_latents(stack, given, target)
    at_once, in_turn = ((mapper.sample(stack, given, target, rounds, generator) - start).mean((1, 2, 3)) for rounds in (1, 12))
    assert in_turn.std() > 3 * at_once.std()                 # tokens that agree do not cancel in the mean of a slice
