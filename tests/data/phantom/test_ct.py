"""Chest CT phantoms: tissues, nodules with their masks, noise, and crops that tell nothing by position."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.data import volumes
from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.phantom import Phantom, write_phantoms
from tumorgen_cli.data.phantom.chest import Chest, draw_chest
from tumorgen_cli.data.phantom.ct import (
    CROP_SPACING_MM,
    draw_first_spot,
    draw_grid,
    draw_phantom,
    draw_scan,
    kernel_noise,
)
from tumorgen_cli.data.phantom.nodules import KINDS, LARGEST_MM, SMALLEST_MM, Spot, draw_nodule
from tumorgen_cli.geometry import Grid


@pytest.fixture(scope="module")
def drawn() -> list[Phantom]:
    return [draw_phantom(3, index, crop_mm=60) for index in range(10)]


@pytest.fixture(scope="module")
def whole() -> Phantom:
    return draw_phantom(3, 0, tumors=False)


@functools.cache
def draw_pair(kind: str, radius: float, seed: int) -> tuple[Phantom, Phantom, Spot]:
    """One crop with a nodule of a kind in the middle of lung tissue, and the same without."""
    rng = np.random.default_rng(seed)
    chest = draw_chest(rng)
    spot = Spot(np.array([-0.6 * chest.width, -20.0, 25.0]), radius, "free")
    grid = draw_grid(np.random.default_rng(0), spot, 60.0)
    nodule = draw_nodule(rng, spot, kind)
    with_it, without = (draw_scan(np.random.default_rng(5), chest, 9, grid, found) for found in ([nodule], []))
    return with_it, without, spot


def test_a_whole_chest_has_the_tissues_of_one(whole: Phantom) -> None:
    image = whole.image
    lung = ndimage.binary_erosion(whole.region > 0, iterations=3)
    assert image.dtype == np.int16
    assert -910 < np.median(image[lung]) < -780
    assert np.percentile(image[lung], 99.5) > -200, "vessels"
    assert -1010 < np.median(image[:6, :6]) < -990, "air outside"
    liters = whole.region.sum() * whole.grid.voxel_ml / 1000
    assert 2.0 < liters < 7.0
    assert ((image > 10) & (image < 90)).mean() > 0.15, "muscle, liver and blood"
    assert ((image > -140) & (image < -70)).mean() > 0.05, "fat"
    assert (image > 300).mean() > 0.003, "bone"
    _, sides = ndimage.label(ndimage.binary_opening(whole.region, iterations=2))
    assert sides == 2, "two lungs, which do not touch"
    assert not whole.mask.any()


def test_a_case_depends_on_its_seed_and_number_alone() -> None:
    first, again = (draw_phantom(3, 4, crop_mm=60) for _ in range(2))
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.mask, again.mask)
    others = [draw_phantom(4, 4, crop_mm=60), draw_phantom(3, 5, crop_mm=60), draw_phantom(3, 4, False, crop_mm=60)]
    for other in others:
        assert other.grid.origin_mm != first.grid.origin_mm, "another patient, another place"


def test_crops_have_the_voxels_of_a_thin_reconstruction(drawn: list[Phantom]) -> None:
    assert {phantom.image.shape for phantom in drawn} == {(60, 60, 48)}
    assert {phantom.grid.spacing_mm for phantom in drawn} == {CROP_SPACING_MM} == {(1.0, 1.0, 1.25)}


def test_nodules_are_of_five_to_thirty_millimeters(drawn: list[Phantom]) -> None:
    diameters = []
    for phantom in drawn:
        parts, count = ndimage.label(phantom.mask, np.ones((3, 3, 3)))
        assert count >= 1
        for number in range(1, count + 1):
            milliliters = (parts == number).sum() * phantom.grid.voxel_ml
            diameters.append((6000 * milliliters / np.pi) ** (1 / 3))
    assert min(diameters) > 0.7 * SMALLEST_MM, "a part in the chest wall does not count"
    assert max(diameters) < 1.15 * LARGEST_MM
    assert [phantom.kinds[0] for phantom in drawn] == [*KINDS, *KINDS]


@pytest.mark.parametrize("kind", sorted({*KINDS}))
@pytest.mark.parametrize("radius", [3.0, 7.0])
def test_a_nodule_has_the_volume_that_was_drawn(kind: str, radius: float) -> None:
    with_it, _, _ = draw_pair(kind, radius, 0)
    milliliters = with_it.mask.sum() * with_it.grid.voxel_ml
    ball = 4 / 3 * np.pi * radius**3 / 1000
    most = 1.8 if kind == "spiculated" else 1.25  # spicules come on top
    assert 0.75 < milliliters / ball < most


@pytest.mark.parametrize("kind", sorted({*KINDS}))
def test_the_mask_ends_at_half_contrast(kind: str) -> None:
    """Just inside the outline more, and just outside less than half of what the nodule adds to lung tissue."""
    with_it, without, _ = draw_pair(kind, 7.0, 0)
    added = with_it.image.astype(float) - without.image  # the same noise, so the difference is the nodule
    mask = with_it.mask > 0
    inner = mask & ~ndimage.binary_erosion(mask)
    outer = ndimage.binary_dilation(mask) & ~mask
    core = ndimage.binary_erosion(mask, iterations=2)
    top = np.percentile(added[core], 25)  # of the ground glass, where there is a solid core
    assert np.median(added[outer]) < 0.5 * top < np.median(added[inner])
    assert abs(added[~ndimage.binary_dilation(mask, iterations=14)]).max() == 0, "nothing else changes"


def test_ground_glass_is_thinner_than_tissue() -> None:
    means = {}
    for kind in {*KINDS}:
        with_it, _, _ = draw_pair(kind, 7.0, 0)
        means[kind] = float(with_it.image[ndimage.binary_erosion(with_it.mask, iterations=2)].mean())
    assert -720 < means["ground-glass"] < -430
    assert means["ground-glass"] < means["part-solid"] < means["solid"]
    assert all(-60 < means[kind] < 100 for kind in ("solid", "spiculated"))


def test_a_spiculated_nodule_has_a_larger_surface() -> None:
    def surface(kind: str) -> float:
        rough = []
        for seed in range(2):
            mask = draw_pair(kind, 7.0, seed)[0].mask > 0
            rough.append((mask & ~ndimage.binary_erosion(mask)).sum() / mask.sum() ** (2 / 3))
        return float(np.mean(rough))

    assert surface("spiculated") > 1.1 * surface("solid")


def test_a_patient_without_nodules_is_the_same_elsewhere() -> None:
    with_it, without, _ = draw_pair("solid", 7.0, 0)
    assert with_it.mask.any()
    assert not without.mask.any()
    assert without.kinds == ()
    assert np.array_equal(with_it.region, without.region)
    assert without.image[with_it.mask > 0].mean() < -600, "lung, where the nodule was"


def test_healthy_crops_have_no_nodule() -> None:
    """Their masks are empty, and no nodule is listed."""
    for index in range(2):
        phantom = draw_phantom(3, index, tumors=False, crop_mm=60)
        assert not phantom.mask.any()
        assert phantom.kinds == ()


def test_the_noise_has_the_spectrum_of_a_kernel() -> None:
    """Power rises with the frequency and falls again: neither white nor blobs; and no streaks along an axis."""
    grid = Grid((96, 96, 24), CROP_SPACING_MM)
    noise = kernel_noise(np.random.default_rng(0), grid, 0.45)
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    power = (np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2).mean(axis=2)
    fx, fy = np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96), indexing="ij")
    radial, angle = np.hypot(fx, fy), np.arctan2(fy, fx)

    def band(low: float, high: float) -> float:
        return float(power[(radial >= low) & (radial < high)].mean())

    assert band(0.14, 0.20) > 3 * band(0.005, 0.03)
    assert band(0.14, 0.20) > 20 * band(0.42, 0.50)
    ring = (radial > 0.1) & (radial < 0.25)
    along = [power[ring & (np.abs(np.sin(angle - a)) < 0.2)].mean() for a in (0, np.pi / 4, np.pi / 2)]
    assert max(along) < 1.25 * min(along)
    neighbors = [
        float((np.take(noise, range(1, n), k) * np.take(noise, range(n - 1), k)).mean())
        for k, n in enumerate(noise.shape)
    ]
    assert all(0.05 < value < 0.8 for value in neighbors), "neighbors are alike, and not the same"


def test_a_nodule_lies_anywhere_in_its_crop() -> None:
    """Its middle is uniform over the room that its size leaves, and a healthy crop follows the same rule."""
    rng = np.random.default_rng(0)
    spot = Spot(np.array([-60.0, 0.0, 20.0]), 5.0, "free")
    places = []
    for _ in range(400):
        grid = draw_grid(rng, spot, 60.0)
        places.append((spot.center - np.array(grid.origin_mm)) / np.array(grid.extent_mm))
    room = 0.5 - (1.6 * 5 + 2) / 60
    spread = (np.array(places) - 0.5 + 0.5 / np.array([60, 60, 48])) / room
    assert np.abs(spread).max() < 1.05
    counts = np.stack([np.histogram(axis, 5, (-1, 1))[0] for axis in spread.T])
    assert (np.abs(counts - 80) < 35).all()


def test_nodules_lie_in_lungs_at_pleura_and_vessels() -> None:
    sites: dict[str, int] = {}
    for index in range(24):
        rng = np.random.default_rng(index)
        chest: Chest = draw_chest(rng)
        spot = draw_first_spot(rng, chest, index)
        sites[spot.site] = sites.get(spot.site, 0) + 1
        depth = chest.lung_depth(tuple(spot.center[k : k + 1] for k in range(3)))[0]
        assert depth > 0
        assert spot.site != "pleura" or depth < spot.radius + 1
    assert {*sites} == {"free", "pleura", "vessel"}
    assert sites["free"] > 6


def test_they_are_a_sound_dataset_with_regions(tmp_path: Path) -> None:
    places = write_phantoms(tmp_path, cases=2, healthy=1, seed=3, modality="ct", crop_mm=60)
    dataset = read_dataset(places.dataset)
    assert (dataset.name, dataset.channel_names, dataset.labels) == (
        "Dataset998_PhantomCT",
        ("CT",),
        {"background": 0, "nodule": 1},
    )
    image, grid = volumes.read_volume(dataset.image_files("Phantom_001")[0])
    label, _ = volumes.read_volume(dataset.label_file("Phantom_001"))
    drawn = draw_phantom(3, 1, crop_mm=60)
    assert np.array_equal(image, drawn.image)
    assert np.array_equal(label, drawn.mask)
    assert grid.origin_mm == pytest.approx(drawn.grid.origin_mm)
    region, _ = volumes.read_volume(places.regions / "Healthy_000.nii.gz")
    assert np.array_equal(region, draw_phantom(3, 0, tumors=False, crop_mm=60).region)
    assert region.any()
