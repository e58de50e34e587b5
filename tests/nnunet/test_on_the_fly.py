"""Painting while nnU-Net trains: the pool, nnU-Net's loader, the painter's patches, the set-up, and nnU-Net itself."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.command_line import call, told

from tumorgen_cli.data import splits as splits_module
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.judge import model
from tumorgen_cli.nnunet.on_the_fly import painter_process, settings
from tumorgen_cli.nnunet.on_the_fly import trainer as trainer_module
from tumorgen_cli.nnunet.on_the_fly.checks import painting_faults
from tumorgen_cli.nnunet.on_the_fly.dataset import PaintedDataset
from tumorgen_cli.nnunet.on_the_fly.painter_process import PainterProcess
from tumorgen_cli.nnunet.on_the_fly.pool import PaintedPatch, Pool
from tumorgen_cli.nnunet.on_the_fly.settings import PainterJob, Painting, Progress
from tumorgen_cli.pipeline.nnunet_setup import job_folders, job_lines, set_up_nnunet
from tumorgen_cli.synthesis import painter
from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions
from tumorgen_cli.synthesis.painter import find_turn, mix_patches, paint, patch_slices, sample_locations
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.devices import peak_memory_gib
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import from_plain, write_json


def entry(number, value=0.0, shape=(6, 5, 4)):
    labels = np.zeros((1, *shape), np.int8)
    labels[0, 2, 2, 2] = 1
    found = {1: np.argwhere(labels == 1), (1,): np.zeros((0, 4), int), (-1, 0, 1): np.argwhere(labels >= 0)}
    return PaintedPatch(number, np.full((2, *shape), value, np.float32), labels, found)


def test_the_oldest_make_room(tmp_path):
    pool = Pool(tmp_path / "pool", 3)
    assert pool.draw(np.random.default_rng(0).random) is None  # no folder yet
    seen = []
    for number in range(5):
        pool.put(entry(number))
        seen.append([int(path.name) for path in pool.entries()])
    assert seen == [[0], [0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert sorted(path.name for path in pool.folder.iterdir()) == [
        "00000002",
        "00000003",
        "00000004",
    ]  # nothing half done


def test_entries_come_back_whole(tmp_path):
    pool, given = Pool(tmp_path, 1), entry(7, 2.5)
    pool.put(given)
    found = pool.draw(lambda: 0.999)
    assert found.number == 7
    np.testing.assert_array_equal(found.image, given.image)
    np.testing.assert_array_equal(found.labels, given.labels)
    assert list(found.locations) == [1, (1,), (-1, 0, 1)]  # a region of one label is not the label
    np.testing.assert_array_equal(found.locations[1], [[0, 2, 2, 2]])
    found.image[:] = 0  # a transform that works in place
    assert pool.draw(lambda: 0.0).image.min() == 2.5


def test_what_a_kill_left_is_no_entry(tmp_path):
    pool = Pool(tmp_path, 2)
    for number in range(2):
        pool.put(entry(number))
    shutil.copytree(tmp_path / "00000001", tmp_path / ".begun_00000002")
    (tmp_path / ".gone_00000000").mkdir()
    assert [int(path.name) for path in pool.entries()] == [0, 1]
    Pool(tmp_path, 1).clean()
    assert [path.name for path in tmp_path.iterdir()] == ["00000001"]
    pool.put(entry(1, 3.0))  # the same number again
    assert pool.draw(lambda: 0.0).image.max() == 3.0


def test_an_entry_may_vanish_while_it_is_opened(tmp_path, monkeypatch):
    pool = Pool(tmp_path, 2)
    pool.put(entry(1))
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
        pool.put(entry(number))
        assert [int(path.name) for path in pool.entries()] == [number]
    assert [path.name for path in tmp_path.iterdir()] == ["00000002"]


class Cases:
    """As much of a data set of nnU-Net's as its loader uses."""

    identifiers = ("a", "b")

    def load_case(self, identifier):
        found = {1: np.array([[0, 10, 10, 10]])}
        return (
            np.ones((2, 20, 20, 20), np.float32),
            np.zeros((1, 20, 20, 20), np.int16),
            None,
            {"class_locations": found},
        )


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


def plans(**changes):
    """A plan of nnU-Net's for the phantoms, in 3D and in 2D."""
    facts = {
        "max": 20.0,
        "mean": 4.0,
        "median": 4.0,
        "min": 0.0,
        "percentile_00_5": 0.1,
        "percentile_99_5": 15.0,
        "std": 3.0,
    }
    return {
        "dataset_name": "Dataset999_PhantomPET",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [6.0, 5.0, 7.0],
        "original_median_shape_after_transp": [32, 32, 32],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {"3d_fullres": configuration(3), "2d": configuration(2)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": facts},
        **changes,
    }


def configuration(axes):
    """A network of three small stages."""
    stages = 3
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": [[3] * axes] * stages,
        "strides": [[1] * axes, [2] * axes, [2] * axes],
        "n_conv_per_stage": [1] * stages,
        "n_conv_per_stage_decoder": [1] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    network = {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": kwargs,
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }
    resampling = {"order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"nnUNetPlans_{axes}d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [16] * axes,
        "median_image_size_in_voxels": [32.0] * axes,
        "spacing": [6.0, 5.0, 7.0][-axes:],
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "batch_dice": False,
        "architecture": network,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
    }


DATASET = {
    "channel_names": {"0": "PET"},
    "labels": {"background": 0, "tumor": 1},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def unpainted(workspace):
    """The shared workspace, in which no set-up is left."""
    yield workspace
    shutil.rmtree(workspace.root / "nnunet", ignore_errors=True)


@pytest.fixture
def painting(unpainted, phantoms):
    patches = OnTheFlyOptions(probability=0.5, pool=2, share=1.0)
    return set_up_nnunet(unpainted, "copypaste", HostOptions(phantoms.healthy), patches, device="cpu").painting


def job_of(painting, **changes):
    job = PainterJob("0", painting, plans(), DATASET, "3d_fullres", (24, 20, 18), 2, os.getpid())
    return replace(job, **changes)


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
    assert last.drawn["mixed_up_with"] in (1, 2)


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
    assert len(error.value.faults) == 2


def test_hopeless_painting_ends(painting, tmp_path, monkeypatch):
    def fails(*_):
        raise painter.DataError("No tumor came")

    monkeypatch.setattr(painter.PatchPainter, "paint", fails)
    with pytest.raises(StateError, match="20 pairs given up; the last: No tumor came"):
        paint(tmp_path, job_of(painting))
    assert len((tmp_path / "given_up.jsonl").read_text().splitlines()) == 20


def test_the_painter_rests(painting, tmp_path, monkeypatch):
    """Busy a fifth of the time: four times as long at rest as at work, once there is what training waits for."""
    rests, clock = [], iter(range(100))
    monkeypatch.setattr(painter.time, "sleep", rests.append)
    monkeypatch.setattr(painter.time, "process_time", lambda: float(next(clock)))
    paint(tmp_path, job_of(replace(painting, share=0.2)), 3)
    assert rests == pytest.approx([4.0, 4.0])


def test_a_fold_that_nobody_wrote_is_refused(painting, tmp_path):
    """nnU-Net would draw its validation cases from all, synthetic ones too."""
    write_json(tmp_path / "splits_final.json", [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}])
    where = {"preprocessed_dataset_folder_base": str(tmp_path)}
    beyond, last, every = (
        painting_faults(painting, trainer(**where, fold=fold), (), painting.learned_from) for fold in (2, 1, "all")
    )
    assert (last, every) == ([], [])
    assert "only 2 in" in beyond[0].found


WATCHED = """
import os, sys, time
from tumorgen_cli.system.processes import exit_with_parent
exit_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], start_new_session=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals and process groups")
def test_a_child_ends_with_its_parent():
    with subprocess.Popen([sys.executable, "-c", PARENT, WATCHED], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    assert until(lambda: not alive(child), 20)


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not (stat.exists() and stat.read_text().split(")")[-1].split()[0] == "Z")  # no one may have waited for it


def test_two_lines_for_the_job_script(unpainted, phantoms, monkeypatch):
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    monkeypatch.setenv("nnUNet_raw", "/raw")
    monkeypatch.setenv("nnUNet_results", "/results")
    made = call(
        "nnunet-setup",
        "-w",
        unpainted.root,
        "--healthy",
        phantoms.healthy,
        "--method",
        "copypaste",
        "--probability",
        0.25,
    )
    lines = made.stdout.splitlines()
    folder = Path(trainer_module.__file__).parent / "nnunet_trainers"
    (file,) = (unpainted.root / "nnunet").glob("tumorgen_copypaste_*.json")
    assert lines == [f"export nnUNet_extTrainer={folder}", f"export TUMORGEN_PAINTING={file}"]
    # nnU-Net imports every module there
    assert [path.name for path in folder.glob("[!_]*.py")] == ["nnUNetTrainerTumorGen.py"]
    assert "-tr nnUNetTrainerTumorGen" in told(made)
    assert "nnUNetv2_plan_and_preprocess" in told(made)
    assert f"`export nnUNet_preprocessed={unpainted.root / 'nnunet' / 'nnUNet_preprocessed'}`" in told(
        made
    )  # which alone is not set
    found = trainer_module.read_record(Painting, file, "")
    assert (found.probability, found.pool, found.method) == (0.25, 32, "copypaste")
    assert found.hosts == ("Healthy_000", "Healthy_001")
    assert found.learned_from == unpainted.splits().train
    assert set(found.weights) == {"donors"}
    splits = json.loads((file.parent / "splits_final.json").read_text())
    assert splits == [{"train": list(unpainted.splits().train), "val": list(unpainted.splits().test)}]
    assert "nnUNetv2_train DATASET 3d_fullres 0" in told(made)
    call(
        "nnunet-setup",
        "-w",
        unpainted.root,
        "--healthy",
        phantoms.healthy,
        "--method",
        "copypaste",
        "--probability",
        0.5,
    )
    assert trainer_module.read_record(Painting, file, "") == found  # a job that waits keeps its own
    monkeypatch.setenv("nnUNet_extTrainer", "/elsewhere")
    assert job_lines(file)[0] == f"export nnUNet_extTrainer={folder}{os.pathsep}$nnUNet_extTrainer"
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    assert job_lines(file)[0] == lines[0]


def test_the_folder_of_raw_data_sets_is_one_that_holds_some(unpainted, phantoms, monkeypatch):
    """The planned data set's, unless the user named one or merged into the workspace."""
    monkeypatch.delenv("nnUNet_raw", raising=False)
    made = call("nnunet-setup", "-w", unpainted.root, "--healthy", phantoms.healthy, "--method", "copypaste")
    assert f"export nnUNet_raw={phantoms.dataset.parent}" in told(made)
    merged = unpainted.root / "nnunet" / "nnUNet_raw"
    (merged / "Dataset601_Merged").mkdir(parents=True)
    assert job_folders(unpainted)["nnUNet_raw"] == merged
    monkeypatch.setenv("nnUNet_raw", "/raw")
    assert job_folders(unpainted)["nnUNet_raw"] == Path("/raw")


def test_the_folds_are_the_data_sets_and_the_workspaces_has_its_number(unpainted, phantoms, monkeypatch):
    """One file for the workspaces of all folds, in which each trains its own."""
    train, test = unpainted.splits().train, unpainted.splits().test
    other, own = Splits(tuple({*train, *test} - {train[0]}), (train[0],)), Splits(train[::-1], test)
    monkeypatch.setattr(splits_module, "read_folds", lambda _: (Path("splits_final.json"), [other, own]))
    made = call("nnunet-setup", "-w", unpainted.root, "--healthy", phantoms.healthy, "--method", "copypaste")
    assert "nnUNetv2_train DATASET 3d_fullres 1" in told(made)
    written = json.loads((unpainted.root / "nnunet" / "splits_final.json").read_text())
    assert [fold["val"] for fold in written] == [[train[0]], list(test)]


def test_hosts_that_were_exchanged_are_told(painting, phantoms, tmp_path):
    shutil.copytree(phantoms.healthy, tmp_path / "healthy")
    own = replace(painting, healthy=str(tmp_path / "healthy"))
    painter.load_painting(own)
    image, grid = read_volume(tmp_path / "healthy" / "Healthy_000_0000.nii.gz")
    write_volume(tmp_path / "healthy" / "Healthy_000_0000.nii.gz", image[::-1], grid)
    with pytest.raises(StateError, match="sizes of the hosts' files"):
        painter.load_painting(own)


def test_everything_that_is_missing_is_told_at_once(workspace, tmp_path):
    arguments = (
        "-w",
        workspace.root,
        "--healthy",
        tmp_path,
        "--until-pass",
        2,
        "--judge",
        tmp_path / "none",
        "--device",
        "cpu",
    )
    text = told(call("nnunet-setup", *arguments, code=1))
    assert "1. " in text
    assert "3. " in text
    for part in ("tumorgen train", "no scans", "plans.json"):
        assert part in text, part
    assert not [*(workspace.root / "nnunet").glob("tumorgen*.json")]


def test_a_held_out_host_by_another_name_is_told(workspace, phantoms, tmp_path):
    case = workspace.splits().test[0]
    shutil.copy(phantoms.dataset / "imagesTr" / f"{case}_0000.nii.gz", tmp_path / "Somebody_0000.nii.gz")
    arguments = ("-w", workspace.root, "--healthy", tmp_path, "--method", "copypaste", "--device", "cpu")
    assert f"Somebody, which is {case}" in " ".join(told(call("nnunet-setup", *arguments, code=1)).split())


def test_a_judge_that_knows_held_out_cases_is_told(unpainted, phantoms, tmp_path, monkeypatch):
    write_json(tmp_path / "judge.json", {"dataset": "Dataset777_Other", "cases": unpainted.splits().test})
    monkeypatch.setattr(model, "Judge", lambda *_: SimpleNamespace(folder=tmp_path))
    arguments = (
        "--healthy",
        phantoms.healthy,
        "--method",
        "copypaste",
        "--until-pass",
        2,
        "--judge",
        tmp_path,
        "--device",
        "cpu",
    )
    made = call("nnunet-setup", "-w", unpainted.root, *arguments)
    assert (
        f"cases of Dataset777_Other that have the same names as held-out cases ({unpainted.splits().test[0]}"
        in " ".join(told(made).split())
    )


def test_options_that_do_not_fit_are_told_together(tmp_path):
    text = told(call("nnunet-setup", "-w", tmp_path, "--judge", tmp_path, code=1))
    assert "--healthy and --cases" in text
    assert "--until-pass" in text


def trainer(**changes):
    manager = SimpleNamespace(plans={"image_reader_writer": "SimpleITKIO"})
    parts = {
        "preprocessed_dataset_folder_base": "nowhere",
        "is_cascaded": False,
        "plans_manager": manager,
        "dataset_json": DATASET,
        "fold": 1,
        "configuration_name": "3d_fullres",
    }
    return SimpleNamespace(**{**parts, **changes})


def test_a_fold_that_validates_on_what_was_learnt_is_refused(painting):
    known = [*painting.learned_from, "x"]
    assert painting_faults(painting, trainer(), ["x"], known) == []
    learnt, host = painting.learned_from[0], painting.hosts[1]
    faults = painting_faults(painting, trainer(), ["x", learnt, host], known)
    assert [(fault.where, part in fault.found) for fault, part in zip(faults, (learnt, host), strict=True)] == [
        ("fold 1", True)
    ] * 2


def test_a_data_set_that_names_its_cases_otherwise_is_refused(painting, tmp_path):
    """No name would tell that its validation cases have been learnt from."""
    renamed = [f"case_{number}" for number in range(9)]
    (fault,) = painting_faults(painting, trainer(), renamed[:2], renamed)
    assert painting.learned_from[0] in fault.found
    folder = tmp_path / "gt_segmentations"  # of all cases, in whatever fold they are
    folder.mkdir()
    for case in painting.learned_from:
        (folder / f"{case}.nii.gz").touch()
    assert painting_faults(painting, trainer(preprocessed_dataset_folder_base=str(tmp_path)), ["x"], ["x"]) == []


def test_every_fault_of_the_data_is_told(painting):
    other = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "lesion": 1}}
    reader = SimpleNamespace(plans={"image_reader_writer": "Tiff3DIO"})
    assert (
        len(
            painting_faults(
                painting, trainer(is_cascaded=True, plans_manager=reader, dataset_json=other), [], painting.learned_from
            )
        )
        == 4
    )


def test_without_an_epoch_left_nothing_is_painted(monkeypatch):
    """`--c` on a finished training: nnU-Net makes its validation again, wherever the workspace is now."""

    class Finished:
        current_epoch = num_epochs = 3

        def get_tr_and_val_datasets(self):
            return "train", "validation"

        def on_train_end(self):
            self.ended = True

    class Painted(trainer_module.PaintingMixin, Finished):
        pass

    monkeypatch.delenv(settings.VARIABLE, raising=False)
    found = Painted()
    assert found.get_tr_and_val_datasets() == ("train", "validation")
    found.on_train_end()
    assert found.ended


def test_nothing_named_is_told(monkeypatch):
    monkeypatch.delenv(settings.VARIABLE, raising=False)
    with pytest.raises(StateError, match="nnunet-setup"):
        trainer_module.PaintingMixin().painting()


class FakeChild:
    """A painter that does nothing, until it is told to have ended."""

    pid, code = -1, None

    def __init__(self, command, **_):
        self.command = command

    def poll(self):
        return self.code


def impatient(_):
    raise TimeoutError


@pytest.fixture
def painter_side(painting, tmp_path, monkeypatch):
    """A trainer's side of painting, its log and its painters."""
    log, children = [], []
    monkeypatch.setattr(
        painter_process.subprocess, "Popen", lambda *a, **k: children.append(FakeChild(*a, **k)) or children[-1]
    )
    monkeypatch.setattr(painter_process.time, "sleep", impatient)
    parts = {
        "output_folder": str(tmp_path),
        "print_to_log_file": log.append,
        "configuration_manager": SimpleNamespace(patch_size=[16, 16, 16]),
        "configure_rotation_dummyDA_mirroring_and_inital_patch_size": lambda: (
            None,
            False,
            np.array([24, 22, 20]),
            (0, 1, 2),
        ),
        "plans_manager": SimpleNamespace(plans=plans()),
    }
    return PainterProcess(trainer(**parts), painting, Cases()), log, children


def test_the_log_says_what_is_painted_and_what_it_costs(painter_side, painting):
    made, log, children = painter_side
    made.start()
    assert made.job.shape == (40, 38, 36)  # half a patch beyond what the loader cuts, on each side
    assert children[0].command[1:] == ["-m", "tumorgen_cli.synthesis.painter", str(made.folder)]
    assert painter_process.read_record(PainterJob, made.folder / settings.JOB, "") == made.job
    assert painting.plan_hash in log[0]
    assert "Healthy_000, Healthy_001" in log[0]
    most = int(re.search(r"at most (\d+) MiB", log[1])[1])
    shape = made.job.shape
    full = PaintedPatch(
        2, np.zeros((1, *shape), np.float32), np.zeros((1, *shape), np.int8), {1: np.zeros((10_000, 4), np.int64)}
    )
    for number in range(2):
        made.pool.put(replace(full, number=number + 2))
    taken = (
        sum(path.stat().st_size for path in made.pool.folder.rglob("*") if path.is_file()) / 2 * 3
    )  # a third is written meanwhile
    assert taken / 2**20 <= most + 0.5 <= 1.2 * taken / 2**20 + 1
    with pytest.raises(TimeoutError):  # entries of an earlier painter are not enough
        made.wait_until_ready()
    assert "waiting for the painter to be ready" in log.pop()
    write_json(made.folder / settings.PROGRESS, Progress(0, 0, "", 0.0, 0.0, 0.5))
    made.wait_until_ready()
    assert len(log) == 2
    write_json(made.folder / settings.PROGRESS, Progress(7, 1, "No tumor came", 3.0, 20.0, 0.625))
    made.data.counts[:] = [40, 10]
    made.report_epoch()
    cost = "busy 15% of the time and held at most 0.62 GiB; 25% of 40 patches"
    for part in ("2 entries in the pool, 7 painted", "1 given up (the last: No tumor came)", cost):
        assert part in log[-1], part
    write_json(made.folder / settings.PROGRESS, Progress(9, 1, "No tumor came", 4.0, 30.0, 0.75))
    made.report_epoch()
    assert "2 painted since the last epoch; the painter was busy 10% of the time and held at most 0.75 GiB; " in log[-1]
    assert "; 0% of 0 patches" in log[-1]


def test_a_painter_that_stops_is_told_and_started_again(painter_side):
    made, log, children = painter_side
    made.start()
    (made.folder / settings.LOG).write_text("Traceback\nKeyError: 'x'\n\n")
    children[0].code = 1
    with pytest.raises(StateError, match="KeyError: 'x'"):
        made.wait_until_ready()
    made.report_epoch()
    assert "stopped (KeyError: 'x') and is started again" in log[-1]
    assert len(children) == 2


def test_a_pool_of_something_else_is_emptied_and_its_own_kept(painter_side):
    made, log, _ = painter_side
    made.start()
    made.pool.put(entry(0))
    made.start()
    assert len(made.pool.entries()) == 1
    records = [made.folder / name for name in ("provenance.jsonl", "given_up.jsonl", settings.LOG)]
    for path in records:
        path.write_text("of an epoch that was trained\n")
    made.job = replace(made.job, pool_hash="another")
    made.start()
    assert made.pool.entries() == []
    assert any("emptied" in line for line in log)
    assert {path.read_text() for path in records} == {"of an epoch that was trained\n"}


def test_how_often_and_how_much_changes_no_entry(painting):
    assert replace(painting, probability=0.9, pool=3, share=0.5).content_hash == painting.content_hash
    assert replace(painting, seed=99).content_hash != painting.content_hash


@pytest.mark.slow
def test_nnunet_finds_the_trainer(monkeypatch):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    monkeypatch.setenv("nnUNet_extTrainer", str(Path(trainer_module.__file__).parent / "nnunet_trainers"))
    found = recursive_find_trainer_class_by_name("nnUNetTrainerTumorGen")
    assert found.__mro__[1:3] == (trainer_module.PaintingMixin, nnUNetTrainer)


TINY = """
import os
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from tumorgen_cli.nnunet.on_the_fly.trainer import PaintingMixin


class TinyTumorGen(PaintingMixin, nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = int(os.environ["EPOCHS"])
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 4, 1
"""
TRAIN = "import torch; from nnunetv2.run.run_training import run_training_entry; run_training_entry()"


def prepare(folder, phantoms, workspace, name="3d_fullres"):
    """nnU-Net's folder of the phantoms, preprocessed by nnU-Net for a configuration of the plan above."""
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    base = folder / "nnUNet_preprocessed" / "Dataset999_PhantomPET"
    splits = workspace.splits()
    cases = (*splits.train, *splits.test)
    write_json(base / "nnUNetPlans.json", plans())
    write_json(base / "dataset.json", DATASET)
    write_json(base / "dataset_fingerprint.json", {})
    shutil.copy(workspace.root / "nnunet" / "splits_final.json", base)
    shutil.copytree(phantoms.dataset / "labelsTr", base / "gt_segmentations")
    manager = PlansManager(plans())
    configuration = manager.get_configuration(name)
    (base / configuration.data_identifier).mkdir()
    for case in cases:
        files = [
            [str(phantoms.dataset / "imagesTr" / f"{case}_0000.nii.gz")],
            str(phantoms.dataset / "labelsTr" / f"{case}.nii.gz"),
        ]
        preprocessor = configuration.preprocessor_class(verbose=False)
        preprocessor.run_case_save(
            str(base / configuration.data_identifier / case), *files, manager, configuration, DATASET
        )


def train(folder, epochs, *options, name="3d_fullres"):
    own = {name: str(folder / name) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    found = f"{Path(trainer_module.__file__).parent / 'nnunet_trainers'}{os.pathsep}{folder / 'trainers'}"
    own |= {
        "nnUNet_extTrainer": found,
        "EPOCHS": str(epochs),
        "nnUNet_compile": "f",
        "nnUNet_n_proc_DA": "1",
        "nnUNet_def_n_proc": "1",
    }
    own |= {settings.VARIABLE: str(folder / "tumorgen.json")}
    command = [sys.executable, "-c", TRAIN, "999", name, "0", "-tr", "TinyTumorGen", "-device", "cpu", *options]
    run = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout


@pytest.mark.slow
def test_nnunet_trains_resumes_and_finetunes(painting, workspace, phantoms, tmp_path):
    prepare(tmp_path, phantoms, workspace)
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "TinyTumorGen.py").write_text(TINY)
    write_json(tmp_path / "tumorgen.json", replace(painting, pool=4, share=0.5))
    said = train(tmp_path, 1)
    fold = tmp_path / "nnUNet_results" / "Dataset999_PhantomPET" / "TinyTumorGen__nnUNetPlans__3d_fullres" / "fold_0"
    assert (fold / "checkpoint_final.pth").is_file()
    assert "waiting for the first 4 entries" in said
    assert "paints into 2 hosts (Healthy_000, Healthy_001)" in said
    line = next(line for line in said.splitlines() if "in the pool" in line)
    assert re.search(r"TumorGen: [34] entries in the pool", line)  # one of them may be making room for another
    assert not line.split(";")[2].startswith(" 0% of")  # some of the patches were painted
    assert (fold / "validation" / "summary.json").is_file()
    assert not (fold / "tumorgen" / "pool").exists()  # a finished training needs none
    before = len(read_provenance(fold / "tumorgen"))
    again = train(tmp_path, 2, "--c")
    assert "Epoch 1" in again
    assert "Epoch 0" not in again
    assert len(read_provenance(fold / "tumorgen")) >= before
    write_json(tmp_path / "tumorgen.json", replace(painting, pool=4, probability=0.0))
    shutil.copy(fold / "checkpoint_final.pth", tmp_path / "pretrained.pth")
    tuned = train(tmp_path, 1, "-pretrained_weights", str(tmp_path / "pretrained.pth"))
    assert "Loading pretrained weights" in tuned
    assert "; 0% of" in tuned


@pytest.mark.slow
def test_nnunet_trains_on_painted_slices(painting, workspace, phantoms, tmp_path):
    """nnU-Net's 2D configuration draws its slices from the pool's volumes."""
    prepare(tmp_path, phantoms, workspace, "2d")
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "TinyTumorGen.py").write_text(TINY)
    write_json(tmp_path / "tumorgen.json", replace(painting, pool=4, probability=1.0))
    said = train(tmp_path, 1, name="2d")
    assert "entries of 2 tumors×" in said
    assert "; 100% of" in said
    fold = tmp_path / "nnUNet_results" / "Dataset999_PhantomPET" / "TinyTumorGen__nnUNetPlans__2d" / "fold_0"
    assert (fold / "validation" / "summary.json").is_file()
