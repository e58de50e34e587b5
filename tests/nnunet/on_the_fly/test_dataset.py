"""nnU-Net's training data, of which some are painted patches."""

from types import SimpleNamespace

import numpy as np
import pytest
from support.painting import Cases, entry

from tumorgen_cli.nnunet.on_the_fly.dataset import PaintedDataset
from tumorgen_cli.nnunet.on_the_fly.pool import Pool


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_patches_are_painted_as_often_as_asked(tmp_path, probability):
    pool = Pool(tmp_path, 2)
    pool.put(entry(0))
    data = PaintedDataset(Cases(), pool, probability)
    np.random.seed(0)
    painted = sum(data[name][0].shape[1:] == (6, 5, 4) for name in ("a", "b") * 100)
    assert list(data.counts) == [200, painted]
    assert painted == pytest.approx(200 * probability, abs=25 * (0 < probability < 1))
    assert data.identifiers == ("a", "b")


def test_without_an_entry_the_case_itself_comes(tmp_path):
    data = PaintedDataset(Cases(), Pool(tmp_path, 2), 1.0)
    assert data.load_case("a")[0].shape == (2, 20, 20, 20)
    assert list(data.counts) == [1, 0]


def test_nnunets_loader_cuts_from_entries(tmp_path):
    """The last third of a batch shows foreground: the entry's tumor voxel."""
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader

    pool = Pool(tmp_path, 1)
    pool.put(entry(0, 2.0, (9, 8, 7)))
    manager = SimpleNamespace(all_labels=[0, 1], has_ignore_label=False)
    loader = nnUNetDataLoader(PaintedDataset(Cases(), pool, 1.0), 2, (4, 4, 4), (4, 4, 4), manager, 0.5)
    batch = next(loader)
    assert batch["data"].shape == (2, 2, 4, 4, 4)
    assert float(batch["data"].max()) == 2.0
    assert (batch["target"][1] == 1).sum() == 1
