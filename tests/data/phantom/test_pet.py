from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.data import volumes
from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.hosts import find_hosts
from tumorgen_cli.data.integrity import CaseVoxels
from tumorgen_cli.data.phantom import Phantom, Phantoms, write_phantoms
from tumorgen_cli.data.phantom.pet import SHAPE, SMALL_SHAPE, draw_phantom
from tumorgen_cli.planning.fingerprint import make_fingerprint, measure_tumors
from tumorgen_cli.system.files import hash_file


def hashes(places: Phantoms) -> dict[str, str]:
    paths = (*places.dataset.rglob("*.nii.gz"), *places.healthy.iterdir())
    return {path.name: hash_file(path) for path in paths}


@pytest.fixture(scope="module")
def drawn() -> list[Phantom]:
    return [draw_phantom(11, index, small=True) for index in range(20)]


def test_they_are_a_sound_dataset_and_hosts(phantoms: Phantoms) -> None:
    dataset = read_dataset(phantoms.dataset)
    made = make_fingerprint(dataset, 0)
    assert (dataset.name, dataset.channel_names, len(dataset.cases), made.tumor_free) == (
        "Dataset999_PhantomPET",
        ("PET",),
        6,
        (),
    )
    assert [host.case for host in find_hosts(phantoms.healthy, dataset.channel_names)] == ["Healthy_000", "Healthy_001"]
    image, _ = volumes.read_volume(dataset.image_files("Phantom_000")[0])
    label, _ = volumes.read_volume(dataset.label_file("Phantom_000"))
    assert (image.dtype, label.dtype, image.shape) == (np.float32, np.uint8, SMALL_SHAPE)


def test_a_seed_tells_everything(phantoms: Phantoms, tmp_path: Path) -> None:
    first = hashes(phantoms)
    more = hashes(write_phantoms(tmp_path / "more", cases=7, healthy=3, seed=7, small=True))
    assert len(more) == 17
    assert first.items() < more.items()
    other = hashes(write_phantoms(tmp_path / "other", cases=1, healthy=1, seed=8, small=True))
    assert not set(other.values()) & set(more.values())


def test_a_shorter_run_leaves_nothing_behind(tmp_path: Path) -> None:
    told: list[int] = []
    write_phantoms(tmp_path, cases=3, healthy=2, small=True, ticker=lambda done, note="": told.append(done))
    places = write_phantoms(tmp_path, cases=2, healthy=1, small=True)
    assert told == [1, 2, 3, 4, 5]
    assert len(hashes(places)) == 5
    assert [path.name for path in places.regions.iterdir()] == ["Healthy_000.nii.gz"]
    assert len(read_dataset(places.dataset).cases) == 2


def test_geometry_varies_and_one_case_lies_turned(drawn: list[Phantom]) -> None:
    assert len({phantom.grid.spacing_mm for phantom in drawn}) == len(drawn)
    assert all(max(phantom.grid.spacing_mm) > 1.05 * min(phantom.grid.spacing_mm) for phantom in drawn)
    straight = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
    assert [index for index, phantom in enumerate(drawn) if phantom.grid.direction != straight] == [1]
    turned = np.array(drawn[1].grid.direction).reshape(3, 3)
    assert np.allclose(turned @ turned.T, np.eye(3))
    assert all(drawn[1].grid.origin_mm)


def test_uptake_is_that_of_a_body_in_air(drawn: list[Phantom]) -> None:
    for phantom in drawn:
        image = phantom.image
        assert np.isfinite(image).all()
        assert image.min() >= 0
        assert image[[0, -1]].max() < 0.3, "air at the left and right edge"
        assert 0.4 < np.median(image[image > 0.2]) < 1.6, "soft tissue"
        assert 4 < image.max() < 40, "bladder or tumor"


def test_tumors_lie_in_the_body_and_are_large_enough(drawn: list[Phantom]) -> None:
    assert {len(phantom.kinds) for phantom in drawn} == {1, 2, 3}
    for phantom in drawn:
        tumors, _ = measure_tumors(CaseVoxels((phantom.image,), phantom.mask.astype(bool), phantom.grid))
        assert tumors
        body = ndimage.binary_opening(phantom.image > 0.1)
        assert (phantom.mask.astype(bool) & ~body).sum() <= 0.05 * phantom.mask.sum()


def test_every_kind_of_tumor_looks_like_its_kind(drawn: list[Phantom]) -> None:
    assert [phantom.kinds[0] for phantom in drawn[:5]] == ["plain", "necrotic", "mixed", "low", "plain"]
    ratios: dict[str, list[float]] = {"plain": [], "necrotic": [], "mixed": [], "low": []}
    spread: dict[str, list[float]] = {kind: [] for kind in ratios}
    for phantom in drawn:
        if len(phantom.kinds) == 1:
            mask = phantom.mask.astype(bool)
            (tumor, *_), _ = measure_tumors(CaseVoxels((phantom.image,), mask, phantom.grid))
            ratios[phantom.kinds[0]].append(tumor.mean[0] / (tumor.mean[0] - tumor.contrast[0]))
            depth = ndimage.distance_transform_edt(mask, sampling=phantom.grid.spacing_mm)
            inner = phantom.image[depth > 0.5 * depth.max()]  # the rim is blurred in any tumor
            spread[phantom.kinds[0]].append(float(inner.std() / inner.mean()))
    assert all(ratios.values())
    assert 1.0 < np.median(ratios["low"]) < 1.7 < np.median(ratios["necrotic"])
    assert max(ratios["low"]) < np.median(ratios["plain"])
    assert np.median(spread["mixed"]) > 1.3 * np.median(spread["plain"])


def test_necrotic_tumors_are_cold_inside() -> None:
    colder = []
    for index in (1, 6, 11, 16, 21, 26):
        phantom = draw_phantom(0, index)
        if phantom.kinds != ("necrotic",):
            continue
        depth = ndimage.distance_transform_edt(phantom.mask, sampling=phantom.grid.spacing_mm)
        core, rim = depth > 0.8 * depth.max(), (depth > 0) & (depth <= 0.6 * depth.max())
        colder.append(phantom.image[core].mean() < phantom.image[rim].mean())
    assert phantom.image.shape == SHAPE
    assert len(colder) >= 3
    assert all(colder)


def test_healthy_scans_have_no_tumor() -> None:
    phantom = draw_phantom(0, 1, small=True, tumors=False)
    assert phantom.kinds == ()
    assert not phantom.mask.any()
    assert 0 < phantom.region.mean() < 0.5
    assert phantom.image[phantom.region > 0].max() < phantom.image.max() / 2, "away from hot organs"
    assert phantom.grid.spacing_mm != draw_phantom(0, 1, small=True).grid.spacing_mm, "not a body of the dataset"
