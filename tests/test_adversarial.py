"""The discriminator beside a training: it learns to tell, it costs nothing where it is not wanted, and it survives a stop."""
from __future__ import annotations

import pytest
import torch

from vaelite.data.cases import load_cases
from vaelite.errors import VaeliteError
from vaelite.models.adversarial import Adversary
from vaelite.profiles import profile
from vaelite.runs import open_run
from vaelite.stages import adversary_of, finetune_decoder, train_mapper, train_vae
from vaelite.training.resume import Resume
from vaelite.training.train import FitConfig, fit, has_bf16

pytestmark = pytest.mark.usefixtures("one_thread")
KNOBS = {"data.size": 32, "decoder.stem": 1, "control.stem": 1, "vae_fit.steps": 4, "mapper_fit.steps": 2, "decoder_fit.steps": 4,
         "mapper.depth": 1}


def noise(generator: torch.Generator, n: int = 4) -> torch.Tensor:
    """Slices of white noise: all of their detail is fine."""
    return torch.rand(n, 1, 32, 32, generator=generator) * 2 - 1


def blurred(x: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.avg_pool2d(x, 3, 1, 1)


def test_without_weights_no_discriminator_is_built():
    assert adversary_of(profile("paper"), "cpu") is None
    assert all(adversary_of(profile("smoke", **{knob: 0.1}), "cpu") for knob in ("loss.gan", "loss.features"))


@pytest.mark.parametrize("knob", ["loss.gan", "loss.features"])
def test_a_negative_weight_is_refused(knob):
    with pytest.raises(VaeliteError, match=f"{knob} must be 0"):
        profile("smoke", **{knob: -0.1})


def test_an_image_has_the_features_of_itself():
    torch.manual_seed(0)
    adversary, x = Adversary(0.0, 1.0, "cpu"), noise(torch.Generator().manual_seed(0))
    assert float(adversary.loss(x, x)["features"]) == 0
    assert 0 < float(adversary.loss(0.9 * x + 0.1 * blurred(x), x)["features"]) < float(adversary.loss(blurred(x), x)["features"])


def test_the_discriminator_learns_to_tell_blurred_from_sharp():
    torch.manual_seed(0)
    generator, adversary, losses = torch.Generator().manual_seed(0), Adversary(1.0, 0.0, "cpu"), []
    for _ in range(40):
        x = noise(generator)
        judged = adversary.loss(blurred(x), x)
        losses.append(float(adversary.step()["discriminator"].detach()))
    assert sum(losses[-5:]) / 5 < 0.1 < losses[0]            # 0.5 is a coin's
    assert float(judged["gan"].detach()) > 0.5               # and the blurred does not pass for sharp


def test_the_losses_teach_the_network_that_draws_and_only_the_step_teaches_the_discriminator():
    adversary, x = Adversary(1.0, 1.0, "cpu"), noise(torch.Generator().manual_seed(0))
    drawn = blurred(x).requires_grad_(True)
    judged = adversary.loss(drawn, x)
    sum(judged.values()).backward()
    assert float(drawn.grad.abs().sum()) > 0 and all(p.grad is None for p in adversary.network.parameters())
    drawn.grad, before = None, [p.clone() for p in adversary.network.parameters()]
    adversary.step()
    assert drawn.grad is None and any(not torch.equal(a, b) for a, b in zip(before, adversary.network.parameters()))


@pytest.mark.parametrize("bf16", [False, True])
def test_a_stopped_training_goes_on_with_its_discriminator_bit_for_bit(tmp_path, bf16):
    """Stopped after step 5 of 8. The end is the same as without a stop, and both networks took part in it."""
    if bf16 and not has_bf16("cpu"):
        pytest.skip("this processor has no bfloat16")

    def train(stop_at: int | None, every_s: float | None, gan: float = 1.0) -> tuple[torch.nn.Module, Adversary, list[dict]]:
        torch.manual_seed(0)
        model, adversary = torch.nn.Conv2d(1, 1, 3, padding=1), Adversary(gan, 1.0, "cpu")
        generator, calls = torch.Generator().manual_seed(1), iter(range(100))

        def batch_loss():
            if next(calls) == stop_at:
                raise KeyboardInterrupt
            x = noise(generator)
            drawn = model(blurred(x)).float()
            judged = adversary.loss(drawn, x)
            return {"loss": (drawn - x).abs().mean() + sum(judged.values())} | judged

        resume = None if every_s is None else Resume(tmp_path / "state.safetensors", {}, generator, every_s=every_s)
        history = fit(model, batch_loss, FitConfig(steps=8, bf16=bf16), resume=resume, adversary=adversary).history
        return model, adversary, history

    model, adversary, history = train(None, None)
    with pytest.raises(KeyboardInterrupt):
        train(5, 0.0)
    again, other, resumed = train(None, 1e9)
    assert torch.equal(again.weight, model.weight)
    assert all(torch.equal(a, b) for a, b in zip(other.network.state_dict().values(), adversary.network.state_dict().values()))
    assert [entry["discriminator"] for entry in resumed] == [entry["discriminator"] for entry in history]
    assert not torch.equal(train(None, None, gan=0.0)[0].weight, model.weight)


def test_both_image_drawing_stages_train_with_it_and_none_of_it_is_saved(tiny_set, tmp_path):
    cases = load_cases(tiny_set)
    plain, judged = open_run(tmp_path / "plain"), open_run(tmp_path / "judged")
    for run, more in ((plain, {}), (judged, {"loss.gan": 0.1, "loss.features": 0.1})):
        cfg = profile("smoke", **KNOBS, **more)
        train_vae(cfg, cases, run)
        train_mapper(cfg, cases, run)
        finetune_decoder(cfg, cases, run)
    for stage in ("vae", "decoder"):
        with_it, without = judged.load_stage(stage), plain.load_stage(stage)
        assert set(with_it.record["history"][0]) - set(without.record["history"][0]) == {"gan", "features", "discriminator"}
        assert with_it.weights.keys() == without.weights.keys() and judged.hash_of(stage) != plain.hash_of(stage)
    first = [run.load_stage("vae").record["history"][0]["image"] for run in (plain, judged)]
    assert first[0] == first[1], "the same initial weights and the same first batch: what differs later is the loss"
