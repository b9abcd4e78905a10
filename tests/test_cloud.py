"""The cloud of codes: every code is one point, where its principal scores put it, and turning changes the view alone."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from vaelite.data.cases import load_cases
from vaelite.data.slices import load_slices
from vaelite.explore.cloud import DISTANCE, explore_latent_cloud, eye
from vaelite.explore.explorers import encode, principal_directions
from vaelite.models.vae import VAE, VAEConfig


@pytest.fixture(scope="module")
def codes(tiny_set):
    torch.manual_seed(0)
    slices = load_slices(load_cases(tiny_set)[:2], 32)
    vae = VAE(VAEConfig(latent_channels=4))
    vae.fit_pca(slices.x[slices.have][:, None].float())
    return encode(vae.eval(), slices)


def test_every_code_is_one_point_at_its_scores_and_named(codes):
    cloud = explore_latent_cloud(codes).children[-1]
    drawn = np.concatenate([np.stack([trace.x, trace.y, trace.z], 1) for trace in cloud.data])
    scores = principal_directions(codes.z).scores[:, :3]
    wanted = (scores / scores[:, 0].std()).numpy()
    assert np.allclose(sorted(map(tuple, drawn)), sorted(map(tuple, wanted)))
    names = [name for trace in cloud.data for name in trace.text]
    assert len(set(names)) == len(names) == len(codes.row)
    assert all(name.endswith(trace.name) for trace in cloud.data for name in trace.text)


def test_turning_moves_the_eye_on_a_circle_and_no_point(codes):
    panel = explore_latent_cloud(codes)
    _, turn, _, cloud = panel.children
    before = np.array(cloud.data[0].x)
    eyes = []
    for angle in (turn.min, 90, turn.max):
        turn.value = angle
        eyes.append([cloud.layout.scene.camera.eye[axis] for axis in "xyz"])
    assert np.allclose(eyes[0], eyes[2]) and not np.allclose(eyes[0], eyes[1])
    assert np.allclose(np.linalg.norm(eyes, axis=1), DISTANCE) and eye(90)[0] == pytest.approx(0)
    assert np.array_equal(cloud.data[0].x, before)


def test_a_page_without_a_kernel_keeps_a_picture(codes):
    bundle = explore_latent_cloud(codes)._repr_mimebundle_()
    assert bundle["text/html"].count("<img") == 1 and "Turn the cloud" in bundle["text/plain"]
