"""The joint variable of latents and mask."""

import numpy as np
import pytest
import torch

from tumorgen_cli.methods.latent.joint import (
    cell_share,
    code_labels,
    code_mask,
    mask_channels,
    of_whole,
    show_masks,
    to_flow,
    upsample_mask,
)
from tumorgen_cli.metrics.overlap import dice
from tumorgen_cli.models.mask_refiner import split_sublabels, unpack_mask
from tumorgen_cli.tumors.boxes import latent_mask


def test_an_upsampled_mask():
    mask = torch.full((1, 1, 4, 4, 4), -1.0)
    mask[:, :, 2:] = 1
    found = upsample_mask(mask, 4)[0, 0]
    assert found.shape == (16, 16, 16)
    torch.testing.assert_close(found[:, 5, 5], torch.tensor([0.0] * 6 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 6))
    assert (upsample_mask(mask * 9, 4) <= 1).all()
    finer = upsample_mask(mask, 2)[0, 0]
    assert finer.shape == (8, 8, 8)
    torch.testing.assert_close(finer[:, 3, 3], torch.tensor([0.0] * 3 + [0.25, 0.75] + [1.0] * 3))


def ball(shape=(24, 16, 20)):
    places = np.indices(shape) - np.array([11, 8, 9]).reshape(3, 1, 1, 1)
    return (np.square(places / np.array([7, 5, 6]).reshape(3, 1, 1, 1)).sum(0) < 1).astype(np.uint8)


@pytest.mark.parametrize("coding", ["mean", "packed"])
@pytest.mark.parametrize("cell", [2, 4])
def test_a_coded_mask_comes_back(coding, cell):
    """Finer codings come back closer; an empty mask stays empty."""
    mask = ball()
    coded = torch.from_numpy(code_mask(mask, coding, cell))[None]
    assert coded.shape == (1, mask_channels(coding), *(n // cell for n in mask.shape))
    back = upsample_mask(to_flow(coded), cell)[0, 0].numpy() >= 0.5
    dice = 2 * (back & (mask > 0)).sum() / (back.sum() + mask.sum())
    assert dice > (0.75 if (coding, cell) == ("mean", 4) else 0.93)
    assert not code_mask(np.zeros_like(mask), coding, cell).any()
    if coding == "packed":
        np.testing.assert_allclose(cell_share(coded)[0, 0], latent_mask(mask, cell), atol=1e-6)


def test_a_packed_mask_keeps_the_place_of_each_part():
    """Each of the eight parts of a cell has its own channel, and goes back to its own place."""
    mask = np.zeros((4, 8, 4), np.uint8)
    mask[2:, 4:6, :2] = 1  # one part of the second cell
    coded = code_mask(mask, "packed", 4)
    assert coded.sum() == 1
    assert coded[0b100, 0, 1, 0] == 1
    unpacked = unpack_mask(torch.from_numpy(coded)[None])[0, 0].numpy()
    np.testing.assert_array_equal(unpacked, mask[::2, ::2, ::2])


@pytest.mark.parametrize(("coding", "cell", "least"), [("mean", 2, 0.85), ("packed", 4, 0.85), ("packed", 2, 0.97)])
def test_coded_sublabels_come_back(coding, cell, least):
    """A core in a rim: both come back, and the whole is coded and comes back as it does alone."""
    whole = ball()
    core = (np.square(np.indices(whole.shape) - np.array([11, 8, 9]).reshape(3, 1, 1, 1)).sum(0) < 14).astype(np.uint8)
    coded = torch.from_numpy(code_labels(np.stack([whole, core]), coding, cell))[None]
    assert coded.shape[1] == mask_channels(coding, 2)
    alone = torch.from_numpy(code_mask(whole, coding, cell))[None]
    assert torch.equal(of_whole(coded, coding), alone)
    assert torch.equal(torch.from_numpy(code_labels(whole[None], coding, cell))[None], alone)
    masks = upsample_mask(to_flow(coded), cell, 2)
    assert torch.equal(masks[:, :1], upsample_mask(to_flow(alone), cell))
    likeliest = split_sublabels(masks)[0].argmax(0).numpy()
    inside = masks[0, 0].numpy() >= 0.5
    for number, true in enumerate((whole & ~core & 1, core)):
        assert dice(inside & (likeliest == number), true > 0) > least


def test_sublabels_are_shades_of_gray():
    """Outside, and the first, second and third sub-label; one label is white on black."""
    masks = np.array([[0, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1]]).reshape(3, 4, 1, 1)
    np.testing.assert_allclose(show_masks(masks).ravel(), [-1, -1 / 3, 1 / 3, 1])
    np.testing.assert_allclose(show_masks(masks[:1]).ravel(), [-1, 1, 1, 1])
