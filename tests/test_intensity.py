"""HU and MR grey values go to [-1, 1] and come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import tiny_patient

from vaelite.data import intensity
from vaelite.errors import VaeliteError


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_every_whole_hu_in_the_window_comes_back(kind):
    hu = kind(np.arange(-1000, 2001, dtype=np.int16))
    unit = intensity.hu_to_unit(hu)
    assert type(unit) is type(hu)
    assert float(unit.min()) == -1.0 and float(unit.max()) == 1.0
    back = np.asarray(intensity.unit_to_hu(unit))
    assert np.abs(back - np.arange(-1000, 2001)).max() < 0.001
    assert np.array_equal(np.rint(back), np.arange(-1000, 2001))


def test_water_and_metal_lie_where_they_should():
    unit = intensity.hu_to_unit(np.array([-3024.0, 0.0, 30000.0]))
    assert unit == pytest.approx([-1.0, -1 / 3, 1.0], abs=1e-6)
    assert unit.dtype == np.float32


def test_hu_map_keeps_the_gradient_inside_the_window():
    hu = torch.tensor([-5000.0, 40.0, 5000.0], requires_grad=True)
    intensity.hu_to_unit(hu).sum().backward()
    assert hu.grad.tolist() == pytest.approx([0.0, 2 / 3000, 0.0])


def test_mr_scale_ignores_air_and_a_few_bright_voxels():
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 20, 20), dtype=bool)
    mask[:, 4:16, 4:16] = True
    mr = np.where(mask, rng.uniform(100.0, 200.0, mask.shape), 0.0)
    scale = intensity.mr_scale(mr, mask)
    assert scale == pytest.approx((100.5, 199.5), abs=1.0)
    brighter = mr.copy()
    brighter[4, 10, 10] = 1e6
    assert intensity.mr_scale(brighter, mask) == pytest.approx(scale, abs=0.5)
    inside = (mr > scale[0]) & (mr < scale[1])
    assert np.abs(intensity.unit_to_mr(intensity.mr_to_unit(mr, scale), scale) - mr)[inside].max() < 1e-3


def test_mr_scale_follows_the_scanner_gain():
    patient = tiny_patient(0)
    mask = patient["mask"].astype(bool)
    unit, scale = intensity.to_unit(patient["t1c"], "T1c", mask)
    unit_7, scale_7 = intensity.to_unit(7.0 * patient["t1c"], "T1c", mask)
    assert np.allclose(unit, unit_7, atol=1e-5)
    assert np.allclose(np.multiply(7.0, scale), scale_7)


@pytest.mark.parametrize("modality", intensity.MODALITIES)
def test_to_unit_and_from_unit_are_inverse(modality):
    patient = tiny_patient(1)
    volume, mask = patient[modality.lower()], patient["mask"].astype(bool)
    unit, scale = intensity.to_unit(volume, modality, mask)
    assert unit.dtype == np.float32 and np.abs(unit).max() <= 1.0
    back = intensity.from_unit(unit, modality, scale)
    assert np.abs(back - np.clip(volume, *scale)).max() < 1e-3
    assert (scale == intensity.HU_WINDOW) == (modality in intensity.HU_MODALITIES)


@pytest.mark.parametrize("modality", intensity.MODALITIES)
def test_body_mask_finds_the_head(modality):
    patient = tiny_patient(2)
    head = patient["mask"].astype(bool)
    volume = patient[modality.lower()].astype(np.float32)
    found = intensity.body_mask(volume, modality)
    dice = 2 * (found & head).sum() / (found.sum() + head.sum())
    assert dice > 0.95
    assert found[4, 16, 16] and found[4, 10, 16], "the air cavity belongs to the body"


def test_body_mask_leaves_the_table_out():
    ct = np.full((6, 64, 64), -1000.0)
    ct[:, 10:45, 15:50] = 40.0
    ct[:, 52:54, 5:60] = 200.0  # a table plate below the patient
    found = intensity.body_mask(ct, "CT")
    assert found[:, 12:43, 17:48].all() and not found[:, 50:].any()


def test_refusals_say_what_to_do():
    volume, nothing = np.ones((2, 4, 4)), np.zeros((2, 4, 4), dtype=bool)
    with pytest.raises(VaeliteError, match="mask is empty"):
        intensity.mr_scale(volume, nothing)
    with pytest.raises(VaeliteError, match="one value 1"):
        intensity.mr_scale(volume, ~nothing)
    with pytest.raises(VaeliteError, match="window .* is empty"):
        intensity.hu_to_unit(volume, (100.0, 100.0))
    with pytest.raises(VaeliteError, match="CBCT, CT, T1c, T2w"):
        intensity.to_unit(volume, "PET")
    with pytest.raises(VaeliteError, match="pass the scale"):
        intensity.from_unit(volume, "T2w")
    with pytest.raises(VaeliteError, match="mask is empty"):
        intensity.to_unit(volume, "T2w")
    with pytest.raises(VaeliteError, match="No body found"):
        intensity.body_mask(np.full((4, 16, 16), -1000.0), "CT")
