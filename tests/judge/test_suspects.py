"""Suspected lesions in hosts: what is listed, what is kept, what is told."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tumorgen_cli.data.volumes import write_volume
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.suspects import FILE, Suspect, find_suspects, write_suspects

# x runs to the right and z down, from an origin off zero
GRID = Grid((30, 20, 10), (2.0, 2.0, 5.0), (100.0, -50.0, 20.0), (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0))
LEAST_ML = 0.5


class Marks:
    """Stands in for a judge: marks what is above 3, as surely as it is bright."""

    folder, hash, tumor_labels = Path("marks"), "m", (1,)

    def __init__(self, usual_mm=1000.0):
        self.asked, self.usual_extent_mm = 0, (usual_mm,) * 3

    def tumor(self, image, grid):
        return self.tumor_with_probability(image, grid)[0]

    def tumor_with_probability(self, image, grid):
        self.asked += 1
        return image[0] > 3, (image[0] / 10).astype(np.float32)


@pytest.fixture
def hosts(tmp_path):
    """`a` has two suspected lesions and a crumb, `b` has none."""
    image = np.ones(GRID.shape, np.float32)
    image[4:8, 4:8, 4:6] = 6  # 32 voxels of 0.02 ml
    image[20:26, 10:16, 2:4] = 8  # 72 voxels
    image[0, 0, 0] = 9
    paths = {name: tmp_path / "hosts" / f"{name}_0000.nii.gz" for name in "ab"}
    write_volume(paths["a"], image, GRID)
    write_volume(paths["b"], np.ones(GRID.shape, np.float32), GRID)
    return {name: (path,) for name, path in paths.items()}


def look(judge, hosts, tmp_path):
    steps = []
    cache = tmp_path / "cache"
    found = find_suspects(Predictions(judge, cache), hosts, cache, LEAST_ML, lambda number, name: steps.append(name))
    assert steps == list(hosts)
    return found


def test_components_are_listed_with_volume_place_and_probability(hosts, tmp_path):
    found = look(Marks(), hosts, tmp_path)
    assert found.suspicious == ("a",)
    assert found.found["b"] == ()
    assert not found.unlike
    first, second = found.found["a"]  # the crumb of 0.02 ml is not among them
    assert first.volume_ml == pytest.approx(72 * 0.02)
    assert first.center_mm == pytest.approx((100 - 22.5 * 2, -50 + 12.5 * 2, 20 - 2.5 * 5))
    assert first.probability == pytest.approx(0.8)
    assert (second.volume_ml, second.probability) == (pytest.approx(32 * 0.02), pytest.approx(0.6))


def test_what_is_listed_has_the_least_volume_and_eight_voxels(hosts, tmp_path):
    cache, judge = tmp_path / "cache", Marks()
    counts = {
        least_ml: len(find_suspects(Predictions(judge, cache), hosts, cache, least_ml, lambda *_: None).found["a"])
        for least_ml in (0.001, 0.6, 0.7, 1.5)
    }
    assert counts == {0.001: 2, 0.6: 2, 0.7: 1, 1.5: 0}  # 0.64 and 1.44 ml, and a crumb of one voxel


def test_nothing_is_asked_again_and_damaged_caches_are_made_again(hosts, tmp_path):
    first, judge = look(Marks(), hosts, tmp_path), Marks()
    again = look(judge, hosts, tmp_path)
    assert (again.found, again.seconds, judge.asked) == (first.found, 0.0, 0)
    for path in (tmp_path / "cache" / "suspects").rglob("*.npz"):
        path.write_bytes(path.read_bytes()[:40])
    assert look(judge, hosts, tmp_path).found == first.found
    assert judge.asked == 2


def test_the_prediction_is_that_of_the_pairs_of_the_host(hosts, tmp_path):
    """Filtering and painting with a judge do not ask for it again."""
    from tumorgen_cli.system.files import hash_files

    look(Marks(), hosts, tmp_path)
    judge = Marks()
    found = Predictions(judge, tmp_path / "cache").around(
        "a", hash_files(hosts["a"]), GRID, [Box((3, 3, 3), (9, 9, 7))], lambda: pytest.fail("the host was read")
    )
    assert (int(found.sum()), judge.asked) == (32 + 72 + 1, 0)


def test_a_host_that_the_judge_sees_in_part_is_not_looked_at(hosts, tmp_path):
    judge = Marks(usual_mm=30.0)  # the host is 60 mm long
    found = look(judge, hosts, tmp_path)
    assert (found.found, judge.asked) == ({}, 0)
    assert set(found.unlike) == {"a", "b"}
    assert "longer than the judge's training scans" in found.unlike["a"]


def test_a_host_that_cannot_be_read_stops_nothing(hosts, tmp_path):
    path = hosts["a"][0]
    path.write_bytes(path.read_bytes()[:100])
    found = look(Marks(), hosts, tmp_path)
    assert set(found.unlike) == {"a"}
    assert found.found == {"b": ()}


def test_a_labeled_lesion_is_not_suspected(hosts, tmp_path):
    label, mask = tmp_path / "a.nii.gz", np.zeros(GRID.shape, np.uint8)
    mask[22:24, 12:14, 2:4] = 2  # in the larger lesion
    mask[5, 5, 5] = 1  # another label in the smaller one
    write_volume(label, mask, GRID)
    cache = tmp_path / "cache"

    def find(labels):
        return find_suspects(Predictions(Marks(), cache), hosts, cache, LEAST_ML, lambda *_: None, labels).found["a"]

    assert [round(each.volume_ml, 2) for each in find({"a": (label, 2)})] == [0.64]
    assert len(find({})) == 2  # what was found with labels is not taken for what is found without
    write_volume(label, mask * 0, GRID)
    assert len(find({"a": (label, 2)})) == 2


def test_labels_that_do_not_lie_on_the_host_stop_nothing(hosts, tmp_path):
    label, cache = tmp_path / "a.nii.gz", tmp_path / "cache"
    write_volume(label, np.zeros((3, 3, 3), np.uint8), Grid((3, 3, 3), (1.0, 1.0, 1.0)))
    found = find_suspects(Predictions(Marks(), cache), hosts, cache, LEAST_ML, lambda *_: None, {"a": (label, 1)})
    assert set(found.found) == {"b"}
    assert "differ in geometry" in found.unlike["a"]


def test_a_host_with_voxels_that_are_no_numbers_is_not_looked_at(hosts, tmp_path):
    image = np.ones(GRID.shape, np.float32)
    image[0, 0, 0] = np.nan
    write_volume(hosts["a"][0], image, GRID)
    found = look(Marks(), hosts, tmp_path)
    assert (found.unlike, set(found.found)) == ({"a": "it has voxels that are NaN or infinite"}, {"b"})


def test_the_lists_of_shards_are_one(tmp_path):
    lesion = Suspect(1.5, (1.0, -2.0, 3.25), 0.75)
    write_suspects(tmp_path, {"b": (lesion,), "c": ()})
    write_suspects(tmp_path, {"a": (lesion, lesion)})
    write_suspects(tmp_path, {"b": (lesion,), "c": ()})
    rows = list(csv.DictReader((tmp_path / FILE).read_text().splitlines()))
    assert [row["host"] for row in rows] == ["a", "a", "b"]
    assert rows[0] == {
        "host": "a",
        "volume_ml": "1.500",
        "x_mm": "1.0",
        "y_mm": "-2.0",
        "z_mm": "3.2",
        "probability": "0.750",
    }
