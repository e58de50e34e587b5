"""The painter: patches on nnU-Net's grid, by number, into the pool."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.painting import DATASET, entry, job_of, plans
from support.pairs import Sees

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.verdict import PassRule
from tumorgen_cli.nnunet.on_the_fly import settings
from tumorgen_cli.nnunet.on_the_fly.pool import Pool
from tumorgen_cli.nnunet.on_the_fly.settings import Progress
from tumorgen_cli.synthesis import painter
from tumorgen_cli.synthesis.painter import find_turn, mix_patches, paint, patch_slices, sample_locations
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.devices import peak_memory_gib
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import from_plain


def test_patches_lie_around_the_tumor_and_inside_the_volume():
    """Axis by axis: in the middle, moved in from the edge, the whole of a shorter axis; 0 is twice the extent."""
    assert patch_slices((10, 0, 3), (14, 2, 5), (8, 8, 8), (40, 40, 6)) == (slice(8, 16), slice(0, 8), slice(0, 6))
    slices = patch_slices((10, 36.6, 3), (14, 40, 5), (0, 0, 9), (40, 40, 40))
    assert slices == (slice(8, 16), slice(33, 40), slice(0, 9))


def test_scans_that_come_more_often_count_on():
    """Three healthy scans and one training case, every second: its tumors take turns."""
    met = [find_turn("axbxcx", number) for number in range(12)]
    assert [which for which, _ in met] == [*range(6), *range(6)]
    assert [index for which, index in met if which % 2] == list(range(6))
    assert [index for which, index in met if which == 0] == [0, 1]


def test_locations_are_voxels_of_the_label_or_region():
    labels = np.zeros((1, 30, 30, 30), np.int8)
    labels[0, 3, 4, 5], labels[0, 6, 7, 8] = 1, 2
    rng = np.random.default_rng(0)
    assert sample_locations(labels, 2, rng).tolist() == [[0, 6, 7, 8]]
    assert len(sample_locations(labels, (1, 2), rng)) == 2
    assert len(sample_locations(labels, 3, rng)) == 0
    assert len(np.unique(sample_locations(labels, 0, rng), axis=0)) == 10_000


def test_mixing_pastes_a_box_where_both_have_voxels():
    one, other = entry(0, 1.0, (6, 5, 4)), entry(1, 2.0, (3, 9, 4))
    for seed in range(20):
        image, labels = mix_patches(one.image, one.labels, other, np.random.default_rng(seed))
        assert set(np.unique(image)) <= {1.0, 2.0}
        assert (image[:, 3:] == 1.0).all()
        pasted = image[0] == 2.0
        assert pasted.any()
        np.testing.assert_array_equal(labels[0, :3][pasted[:3]], other.labels[0, :, :5][pasted[:3]])
    assert (one.image == 1.0).all()


def test_the_painter_fills_a_bounded_pool_and_goes_on_with_its_numbers(painting, phantoms, tmp_path):
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    job = job_of(painting)
    paint(tmp_path, job, 3)
    pool = Pool(tmp_path / "pool", 2)
    assert [int(path.name) for path in pool.entries()] == [1, 2]
    records = read_provenance(tmp_path)
    assert [record.case for record in records] == ["00000000", "00000001", "00000002"]
    assert [record.host for record in records] == ["Healthy_000", "Healthy_001", "Healthy_000"]  # in turn
    assert {(record.method, record.plan_hash) for record in records} == {("copypaste", painting.plan_hash)}
    progress = from_plain(Progress, json.loads((tmp_path / settings.PROGRESS).read_text()))
    assert (progress.painted, progress.given_up) == (3, 0)
    assert progress.seconds > 0 < progress.busy_seconds
    assert 0.1 < progress.peak_memory_gib <= peak_memory_gib() + 0.001  # a process with torch or nnU-Net in it
    found = pool.draw(lambda: 0.0)
    assert found.image.shape[0] == 1
    assert found.labels.shape[1:] == found.image.shape[1:]
    assert all(n <= m for n, m in zip(found.image.shape[1:], job.shape, strict=True))
    assert len(found.locations[1]) == (np.asarray(found.labels) == 1).sum() > 0
    assert (found.labels[tuple(found.locations[1].T)] == 1).all()
    # from elsewhere: as large, and its tumor voxels are where it says
    other = pool.draw(lambda: 0.0, elsewhere=True)
    assert other.image.shape == found.image.shape
    assert not np.array_equal(other.image, found.image)
    assert len(other.locations[1]) == (np.asarray(other.labels) == 1).sum()
    # away from the tumor it is what nnU-Net makes of the host
    manager = PlansManager(plans())
    configuration = manager.get_configuration("3d_fullres")
    host = str(phantoms.healthy / records[1].host_file[0])
    whole, _, _ = configuration.preprocessor_class(verbose=False).run_case(
        [host], None, manager, configuration, DATASET
    )
    corner = found.image[0, :2, :2, :2]
    ahead = np.lib.stride_tricks.sliding_window_view(whole[0], corner.shape)
    assert np.abs(ahead - corner).max(axis=(-3, -2, -1)).min() < 0.05
    # a later run goes on, a line that a kill cut off is made again
    with (tmp_path / "provenance.jsonl").open("a") as stream:
        stream.write('{"case": "000')
    paint(tmp_path, replace(job, painting=replace(painting, mixup=1.0)), 1)
    last = read_provenance(tmp_path)[-1]
    assert (last.case, len(read_provenance(tmp_path))) == ("00000003", 4)
    assert last.mixed_up_with in (1, 2)


def test_pairs_of_a_number_are_the_same(painting, tmp_path):
    for name in ("one", "two"):
        paint(tmp_path / name, job_of(painting), 1)
    one, two = (Pool(tmp_path / name / "pool", 2).draw(lambda: 0.0) for name in ("one", "two"))
    np.testing.assert_array_equal(one.image, two.image)
    np.testing.assert_array_equal(one.labels, two.labels)


def test_a_changed_workspace_is_told(painting, tmp_path):
    stale = replace(painting, weights={"vae": "0"}, hosts=("other",))
    with pytest.raises(StateError, match="nnunet-setup") as error:
        paint(tmp_path, job_of(stale), 1)
    assert {fault.remedy for fault in error.value.faults} == {
        "run `tumorgen nnunet-setup` and add its two lines to the job script"
    }
    assert len(error.value.faults) == 2


def test_hopeless_painting_ends(painting, tmp_path, monkeypatch):
    def fails(*_):
        raise painter.DataError("No tumor came")

    monkeypatch.setattr(painter.PatchPainter, "paint", fails)
    with pytest.raises(StateError, match="20 pairs given up; the last: No tumor came") as error:
        paint(tmp_path, job_of(painting))
    said = "train the method longer, choose other hosts, raise --until-pass, or ask less (--keep, --p-alone)"
    assert error.value.faults[0].remedy == said
    assert len((tmp_path / "given_up.jsonl").read_text().splitlines()) == 20


def test_the_painter_rests(painting, tmp_path, monkeypatch):
    """Busy a fifth of the time: four times as long at rest as at work, once there is what training waits for."""
    rests, clock = [], iter(range(100))
    monkeypatch.setattr(painter.time, "sleep", rests.append)
    monkeypatch.setattr(painter.time, "process_time", lambda: float(next(clock)))
    paint(tmp_path, job_of(replace(painting, share=0.2)), 3)
    assert rests == pytest.approx([4.0, 4.0])


def test_a_painter_draws_until_a_pair_passes_by_the_rule_of_sets(painting, tmp_path, monkeypatch):
    """A judge that marks the whole scan passes by P alone, and by nothing else."""
    asked = Sees(each=1)  # every scan is tumor all over, but for the unpainted hosts
    monkeypatch.setattr(painter, "needed_judge", lambda *_: asked)
    monkeypatch.setattr(Predictions, "around", lambda _self, _name, _content, grid, *_: np.zeros(grid.shape, bool))
    alone = replace(painting, until_pass=2, p_alone=True)
    assert painter.load_painting(alone).inputs.quality.rule == PassRule(painting.keep, None)
    paint(tmp_path / "alone", job_of(alone), 1)
    (line,) = read_provenance(tmp_path / "alone")
    assert line.tumors[0].drawn["proportion"] == 1
    paint(tmp_path / "both", job_of(replace(alone, p_alone=False)), 1)
    lost = json.loads((tmp_path / "both" / "given_up.jsonl").read_text())
    assert "2 marked beside the mask" in lost["reason"]


def test_hosts_that_were_exchanged_are_told(painting, phantoms, tmp_path):
    shutil.copytree(phantoms.healthy, tmp_path / "healthy")
    own = replace(painting, healthy=str(tmp_path / "healthy"))
    painter.load_painting(own)
    image, grid = read_volume(tmp_path / "healthy" / "Healthy_000_0000.nii.gz")
    write_volume(tmp_path / "healthy" / "Healthy_000_0000.nii.gz", np.round(image), grid)  # packs far better
    with pytest.raises(StateError, match="sizes of the hosts' files"):
        painter.load_painting(own)
