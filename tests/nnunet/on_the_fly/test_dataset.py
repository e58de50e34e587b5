"""nnU-Net's training data, of which some are painted patches, with as many tumors as real ones."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.painting import Cases, entry

from tumorgen_cli.nnunet.on_the_fly.dataset import PaintedDataset
from tumorgen_cli.nnunet.on_the_fly.pool import PaintedPatch, Pool

TUMOR = (1,)


def test_patches_are_painted_as_often_as_asked(tmp_path):
    pool = Pool(tmp_path, 2)
    pool.put(entry(0), entry(0))
    for probability in (0.0, 0.3, 1.0):
        data = PaintedDataset(Cases(), pool, probability, TUMOR)
        np.random.seed(0)
        for name in ("a", "b") * 100:
            _ = data[name][1][:, :4, :4, :4]
        real, painted = data.take_drawn()
        assert real.patches + painted.patches == 200
        assert painted.patches == pytest.approx(200 * probability, abs=25 * (0 < probability < 1))
        assert data.identifiers == ("a", "b")
        assert [drawn.patches for drawn in data.take_drawn()] == [0, 0]


def test_without_an_entry_the_case_itself_comes(tmp_path):
    data = PaintedDataset(Cases(), Pool(tmp_path, 2), 1.0, TUMOR)
    image, labels, _, _ = data.load_case("a")
    assert image.shape == (2, 20, 20, 20)
    assert labels[:, 2:5].shape == (1, 3, 20, 20)
    assert [drawn.patches for drawn in data.take_drawn()] == [1, 0]


def test_nnunets_loader_cuts_from_entries(tmp_path):
    """The last half of a batch shows foreground: the entry's tumor voxel."""
    pool = Pool(tmp_path, 1)
    pool.put(entry(0, 2.0, (9, 8, 7)), entry(0, 1.0, (9, 8, 7)))
    loader = make_loader(PaintedDataset(Cases(), pool, 1.0, TUMOR, around=1.0), 2, 4, 0.5)
    batch = next(loader)
    assert batch["data"].shape == (2, 2, 4, 4, 4)
    assert float(batch["data"].max()) == 2.0
    assert (batch["target"][1] == 1).sum() == 1
    _, painted = loader._data.take_drawn()
    assert painted.patches == 2
    assert painted.with_tumor >= 1
    assert painted.tumor == pytest.approx(painted.with_tumor / 64)


def make_loader(data, batch, side, oversampling):
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    manager = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    return nnUNetDataLoader(data, batch, (side,) * 3, (side,) * 3, manager, oversampling)


class Scans:
    """Scans of 40³ voxels with a tumor of 5³ in the middle, as nnU-Net has preprocessed them."""

    identifiers = ("a",)

    def __init__(self):
        self.labels = np.zeros((1, 40, 40, 40), np.int16)
        self.labels[0, 18:23, 18:23, 18:23] = 1
        self.image = np.zeros((1, 40, 40, 40), np.float32)

    def load_case(self, identifier):
        return self.image, self.labels, None, {"class_locations": {1: np.argwhere(self.labels == 1)}}

    def cut(self, start):
        """A patch of a pool: that of the loader, 8³, and half of it on each side."""
        part = (slice(None), *(slice(a, a + 16) for a in start))
        labels = self.labels[part]
        return PaintedPatch(0, self.image[part] + 1, labels, {1: np.argwhere(labels == 1)})


def test_as_many_painted_patches_show_a_tumor_as_real_ones(tmp_path):
    """A third is cut around tumors, and by chance a few others show one: 0.38 of the real patches.

    Around a tumor nearly all painted ones would.
    """
    scans, pool = Scans(), Pool(tmp_path, 1)
    pool.put(scans.cut((12, 12, 12)), scans.cut((0, 0, 0)))

    def shares(around):
        np.random.seed(3)
        data = PaintedDataset(scans, pool, 0.5, TUMOR, 0.33, around)
        loader = make_loader(data, 3, 8, 0.33)
        for _ in range(150):
            next(loader)
        real, painted = data.take_drawn()
        assert real.patches + painted.patches == 450
        return real.with_tumor / real.patches, painted.with_tumor / painted.patches, real.tumor, painted.tumor

    real, alone, voxels, more = shares(1.0)
    assert 0.33 < real < 0.45
    assert alone > 0.9
    assert more > 2 * voxels
    real, matched, voxels, same = shares(None)
    assert matched == pytest.approx(real, abs=0.08)
    assert same == pytest.approx(voxels, rel=0.4)
    real, none, _, _ = shares(0.0)
    assert none < 0.05


def test_the_share_around_tumors_starts_at_nnunets_own(tmp_path):
    data = PaintedDataset(Cases(), Pool(tmp_path, 1), 0.5, TUMOR, 0.4)
    assert data.around_share() == pytest.approx(0.4)
    data.counts[:] = [99, 79.6, 0, 99, 99, 0, 99, 0, 0]
    assert data.around_share() == pytest.approx(0.8)
    data.counts[:] = [99, 99.6, 0, 99, 59, 0, 99, 0, 0]  # not even all of them are enough
    assert data.around_share() == 1.0
    assert PaintedDataset(Cases(), Pool(tmp_path, 1), 0.5, TUMOR, 0.4, 0.25).around_share() == 0.25
