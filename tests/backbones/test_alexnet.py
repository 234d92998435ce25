"""AlexNet as convolutions over the whole image."""

import pytest
import torch
import torchvision

from pipeline.backbones import load_backbone


@pytest.fixture(scope="module")
def alexnet():
    return load_backbone("alexnet", weights="random", seed=1, taps=["fc6=classifier.1", "fc7"])


@pytest.fixture(scope="module")
def original():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return torchvision.models.alexnet(weights=None).eval()


def layers(original, pool5):
    """Return the original's fc6 and fc7, before their ReLUs, of a pool5 map (N, 256, 6, 6)."""
    fc6 = original.classifier[1](pool5.flatten(1))
    return fc6, original.classifier[4](fc6.clamp(min=0))


@torch.no_grad()
def test_one_cell_at_224_equals_the_original(alexnet, original):
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    assert alexnet.feature_shapes(224, 224) == [(4096, 1, 1), (4096, 1, 1)]
    for got, want in zip(alexnet(images), layers(original, original.features(images)), strict=True):
        assert want.min() < 0
        torch.testing.assert_close(got[:, :, 0, 0], want, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_each_cell_equals_the_original_on_its_window(alexnet, original):
    images = torch.randn(1, 3, 260, 330, generator=torch.Generator().manual_seed(0))
    pool5 = original.features(images)
    _, got = alexnet(images)
    assert got.shape[2:] == (pool5.shape[2] - 5, pool5.shape[3] - 5)
    assert got.shape[2] > 1
    for y in range(got.shape[2]):
        for x in range(got.shape[3]):
            _, want = layers(original, pool5[:, :, y : y + 6, x : x + 6])
            torch.testing.assert_close(got[:, :, y, x], want, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_a_smaller_image_repeats_the_border_of_pool5(alexnet, original):
    images = torch.randn(1, 3, 100, 240, generator=torch.Generator().manual_seed(0))
    pool5 = original.features(images)
    assert pool5.shape[2:] == (2, 6)
    _, got = alexnet(images)
    rows = [0, 0, 0, 1, 1, 1]
    _, want = layers(original, pool5[:, :, rows])
    assert got.shape[2:] == (1, 1)
    torch.testing.assert_close(got[:, :, 0, 0], want, rtol=1e-4, atol=1e-6)
