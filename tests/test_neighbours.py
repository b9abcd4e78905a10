"""The benchmark of neighbouring slices as inputs compares like with like, and its measure of the jump is right."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.benchmarks.neighbours import METHODS, WideControl, judge, neighbours, scores, stacked, train, training_slices
from vaelite.data.cases import load_cases
from vaelite.data.slices import load_slices
from vaelite.models.baselines import NoLatentControl
from vaelite.profiles import profile
from vaelite.stages import split, stage_slices

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def full(tiny_set):
    return load_slices(split(load_cases(tiny_set), "train"), 32, skip_empty=False)


def test_neighbours_stay_within_a_patient():
    case = torch.tensor([0, 0, 0, 1, 2, 2])
    assert neighbours(case).tolist() == [[0, 0, 1], [1, 0, 2], [2, 1, 2], [3, 3, 3], [4, 4, 5], [5, 4, 5]]


def test_networks_train_on_the_slices_of_the_kit(full, tiny_set):
    shipped = stage_slices(profile("laptop", **{"data.size": 32, "decoder.stem": 1, "control.stem": 1}), load_cases(tiny_set), "train")
    slices, context = training_slices(full, 2)
    assert torch.equal(slices.x, shipped.x) and torch.equal(slices.case, shipped.case)
    assert torch.equal(full.x[context[:, 0]], shipped.x)
    assert torch.equal(full.case[context], shipped.case[:, None].expand(-1, 3))


def test_jump_of_the_reference_is_right_and_of_a_frozen_volume_is_none():
    wanted = torch.rand(6, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mask, z = torch.ones(6, 32, 32, dtype=torch.bool), torch.tensor([0, 1, 2, 5, 6, 7])
    perfect, frozen = judge(wanted, wanted, mask, z), judge(wanted[:1].expand(6, -1, -1), wanted, mask, z)
    assert perfect["jump"] == 1 and perfect["jump_error"] == 0
    true_jump = 50 * float(wanted.diff(dim=0)[[0, 1, 3, 4]].abs().mean())        # between 2 and 5 lies a gap
    assert frozen["jump"] == 0 and frozen["jump_error"] == pytest.approx(true_jump, rel=1e-5)


def test_a_shift_of_all_slices_is_an_error_but_no_jump():
    wanted = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) - 1
    found = judge(wanted + 0.1, wanted, torch.ones(3, 32, 32, dtype=torch.bool), torch.arange(3))
    assert found["mae"] == pytest.approx(5, rel=1e-4) and found["jump_error"] < 1e-4


def test_a_wide_control_without_neighbours_is_the_control(full):
    cfg = replace(profile("smoke").control, stem=1)
    control, wide = NoLatentControl(cfg).eval(), WideControl(cfg, 1).eval()
    torch.nn.init.normal_(control.guided.unet.unet.final_conv.weight)            # it starts silent: let it speak
    wide.load_state_dict(control.state_dict())
    task = full.x[3:4].float(), torch.tensor([[True, False, True, False]]), torch.tensor([1])
    assert torch.equal(control(*task), wide(*task))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "control"])
def test_a_network_reads_neighbours_of_its_sources_and_nothing_of_the_target(full, method):
    cfg = profile("smoke", **{"data.size": 32, "decoder.stem": 1, "control.stem": 1, "data.fused": 0.0})
    slices, context = training_slices(full, 1)
    network = METHODS[method][1](cfg.control)
    assert train(network, cfg, slices, full.x, context, seconds=2.0) > 1         # the first step wakes the silent U-Net
    x, given, target = stacked(full.x, context[4:5]).float(), torch.tensor([[True, False, False, False] * 3]), torch.tensor([1])
    drawn = network(x, given, target)
    for slots, is_read in (([4, 8], True), ([1, 5, 9], False)):                  # of the source below and above; the target
        changed = x.index_fill(1, torch.tensor(slots), 0.3)
        assert torch.equal(network(changed, given, target), drawn) != is_read
    assert len(scores(network, full, 3)[0]["jump"]) == 2                         # one value a patient
