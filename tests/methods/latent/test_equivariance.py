"""Changes of latents and images agree: what is in a cell before is in the changed cell afterwards."""

import numpy as np
import pytest
import torch

from tumorgen_cli.methods.latent import equivariance as eq

CUBE, FLAT = (2.0, 2.0, 2.0), (2.0, 2.0, 5.0)


def draws(share, spacing, cells=(8, 12, 16), steps=400):
    return [eq.unpack_change(torch.from_numpy(eq.draw_change(share, spacing, cells, 3, n))[None]) for n in range(steps)]


def test_the_share_of_steps_and_all_kinds_of_change():
    assert all(change is None for change in draws(0.0, CUBE))
    found = draws(0.25, CUBE)
    assert np.mean([change is not None for change in found]) == pytest.approx(0.25, abs=0.06)
    every = draws(1.0, CUBE)
    assert all(every)
    assert {change.plane for change in every} == {None, 0, 1, 2}
    assert {change.mirrored for change in every} == {(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}
    shares = [np.prod(change.cells) / (8 * 12 * 16) for change in every]
    assert min(shares) < 0.2
    assert max(shares) > 0.9
    assert min(min(change.cells) for change in every) >= 4  # half of 8 cells


def test_voxels_that_are_not_square_are_not_turned():
    assert {change.plane for change in draws(1.0, FLAT)} == {None, 0}
    assert {change.plane for change in draws(1.0, (1.0, 2.0, 5.0))} == {None}


def test_a_draw_depends_on_seed_and_step_alone():
    np.testing.assert_array_equal(eq.draw_change(1, CUBE, (8, 8, 8), 1, 5), eq.draw_change(1, CUBE, (8, 8, 8), 1, 5))
    assert not np.array_equal(eq.draw_change(1, CUBE, (8, 8, 8), 1, 5), eq.draw_change(1, CUBE, (8, 8, 8), 1, 6))


@pytest.mark.parametrize("step", range(12))
def test_latents_and_image_change_alike(step):
    """Means of cells are an encoder that is equivariant; a ramp is interpolated without error inside."""
    slopes = np.random.default_rng(step).normal(size=3)
    ramp = torch.from_numpy(np.tensordot(slopes, np.indices((32, 48, 64)), 1))[None, None]
    latent = torch.nn.functional.avg_pool3d(ramp, 4)
    change = eq.unpack_change(torch.from_numpy(eq.draw_change(1.0, CUBE, latent.shape[2:], 3, step))[None])
    image = change.of_image(ramp, 4)
    assert image.shape[2:] == tuple(4 * n for n in change.cells)
    difference = (torch.nn.functional.avg_pool3d(image, 4) - change.of_latents(latent))[..., 1:-1, 1:-1, 1:-1]
    assert difference.abs().max() < 1e-9
    if not any(change.mirrored) and change.plane is None:
        return
    unchanged = eq.Change((False, False, False), None, change.cells)
    assert (unchanged.of_latents(latent) - change.of_latents(latent)).abs().max() > 1


def test_a_mirrored_and_turned_cell_by_hand():
    latent = torch.arange(8.0).view(1, 1, 2, 2, 2)
    change = eq.Change((True, False, False), 0, (2, 2, 2))
    mirrored = latent.flip(2)
    expected = torch.stack([torch.rot90(mirrored[0, 0, :, :, z]) for z in range(2)], 2)
    torch.testing.assert_close(change.of_latents(latent)[0, 0], expected)
