"""The bounded pool of painted patches."""

import shutil

import numpy as np
import pytest
from support.painting import entry

from tumorgen_cli.nnunet.on_the_fly.pool import Pool


def test_the_oldest_make_room(tmp_path):
    pool = Pool(tmp_path / "pool", 3)
    assert pool.draw(np.random.default_rng(0).random) is None  # no folder yet
    seen = []
    for number in range(5):
        pool.put(entry(number), entry(99, -1.0))
        seen.append([int(path.name) for path in pool.entries()])
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert sorted(path.name for path in pool.folder.iterdir()) == [
        "00000002",
        "00000003",
        "00000004",
    ]  # nothing half done


def test_entries_come_back_whole(tmp_path):
    pool, given = Pool(tmp_path, 1), entry(7, 2.5)
    pool.put(given, entry(99, -1.0))
    found = pool.draw(lambda: 0.999)
    assert found.number == 7
    np.testing.assert_array_equal(found.image, given.image)
    np.testing.assert_array_equal(found.labels, given.labels)
    assert list(found.locations) == [1, (1,), (-1, 0, 1)]  # a region of one label is not the label
    np.testing.assert_array_equal(found.locations[1], [[0, 2, 2, 2]])
    found.image[:] = 0  # a transform that works in place
    assert pool.draw(lambda: 0.0).image.min() == 2.5
    other = pool.draw(lambda: 0.0, elsewhere=True)
    assert other.image.max() == -1.0
    assert other.number == 7


def test_what_a_kill_left_is_no_entry(tmp_path):
    pool = Pool(tmp_path, 2)
    for number in range(2):
        pool.put(entry(number), entry(99, -1.0))
    shutil.copytree(tmp_path / "00000001", tmp_path / ".begun_00000002")
    (tmp_path / ".gone_00000000").mkdir()
    assert [int(path.name) for path in pool.entries()] == [0, 1]
    Pool(tmp_path, 1).clean()
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    pool.put(entry(1, 3.0), entry(99, -1.0))  # the same number again
    assert pool.draw(lambda: 0.0).image.max() == 3.0


def test_an_entry_may_vanish_while_it_is_opened(tmp_path, monkeypatch):
    pool = Pool(tmp_path, 2)
    pool.put(entry(1), entry(99, -1.0))
    listed = [[tmp_path / "00000000", tmp_path / "00000001"]]
    monkeypatch.setattr(Pool, "entries", lambda self: listed[0])
    chances = iter([0.0, 0.0, 0.9])
    assert pool.draw(lambda: next(chances)).number == 1
    listed[0] = [tmp_path / "00000000"]
    with pytest.raises(FileNotFoundError, match="no entry"):
        pool.draw(lambda: 0.0)


def test_a_file_that_a_network_disk_keeps_stops_nobody(tmp_path, monkeypatch):
    pool, remove, kept = Pool(tmp_path, 1), shutil.rmtree, [True]

    def keeps(path, ignore_errors=False):
        if path.name.startswith(".gone_") and path.is_dir() and kept[0]:
            if not ignore_errors:
                raise OSError(39, "Directory not empty")
            return
        remove(path, ignore_errors)

    monkeypatch.setattr("tumorgen_cli.nnunet.on_the_fly.pool.shutil.rmtree", keeps)
    for number in range(3):
        kept[0] = number < 2
        pool.put(entry(number), entry(99, -1.0))
        assert [int(path.name) for path in pool.entries()] == [number]
    assert [path.name for path in tmp_path.iterdir()] == ["00000002"]
