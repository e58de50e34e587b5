"""Training a judge: the rules by closed forms; nnU-Net itself on four small phantoms, killed and resumed."""

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_image, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.judge import train as jt
from tumorgen_cli.judge.card import HeldOutScore, JudgeRecord, model_card
from tumorgen_cli.judge.domain import Domain
from tumorgen_cli.judge.model import Judge
from tumorgen_cli.judge.results_files import find_checkpoints
from tumorgen_cli.judge.train import score_held_out, train_judge
from tumorgen_cli.nnunet import runner, trainer
from tumorgen_cli.nnunet.job import (
    CPU_SIZE,
    NetworkSize,
    Schedule,
    TrainingCase,
    TrainingOptions,
    make_job,
    training_data,
)
from tumorgen_cli.nnunet.results import LearnedCases, read_learned_cases, results_root
from tumorgen_cli.nnunet.runner import results_folder
from tumorgen_cli.nnunet.schedule import choose_schedule, shrink_configuration, shrink_patch
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, StateError
from tumorgen_cli.system.json_records import read_record, write_json

DOMAIN = Domain(("PET",), ((5.0, 5.0, 6.0), (5.5, 5.5, 6.5)), ((180.0, 180.0, 190.0), (230.0, 200.0, 210.0)), (1.8,))
TOY = NetworkSize(voxels=16**3, stages=3, first=4, most=8)


def test_epochs_fill_the_minutes():
    """25 minutes of 0.26 s are 5,769 iterations; an epoch is 50 of them and 2 of validation: 13.52 s."""
    assert choose_schedule(25, 0.26, 50) == Schedule(110, 50, 0.26)


def test_short_trainings_have_short_epochs():
    """100 iterations in all: epochs of 5, each with 2 of validation."""
    assert choose_schedule(1, 0.6, 50) == Schedule(14, 5, 0.6)
    assert choose_schedule(0.01, 30, 50) == Schedule(1, 1, 30)


def test_no_training_is_longer_than_nnunets():
    made = choose_schedule(10_000, 0.001, 250)
    assert (made.epochs, made.iterations) == (1000, 250)


@pytest.mark.parametrize(
    ("planned", "multiple", "voxels", "expected"),
    [
        ((40, 64, 40), (8, 8, 8), 102_400, [40, 64, 40]),  # fits: left alone
        ((128, 128, 128), (8, 8, 8), 102_400, [40, 48, 48]),
        ((32, 256, 256), (1, 8, 8), 102_400, [11, 96, 96]),  # no halving along the first axis: any length will do
        ((64, 64, 64), (8, 8, 8), 1000, [32, 32, 32]),  # the floor: four cells of the lowest resolution
    ],
)
def test_patches_shrink_in_proportion(planned, multiple, voxels, expected):
    made = shrink_patch(planned, multiple, voxels)
    assert made == expected
    assert all(n % m == 0 for n, m in zip(made, multiple, strict=True))


def configuration(stages=6):
    strides = [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * (stages - 2)]
    kwargs = {
        "n_stages": stages,
        "features_per_stage": [min(320, 32 * 2**i) for i in range(stages)],
        "strides": strides,
        "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * (stages - 1)],
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
    }
    return {
        "patch_size": [48, 160, 160],
        "batch_size": 5,
        "spacing": [3.0, 1.0, 1.0],
        "architecture": {"arch_kwargs": kwargs},
    }


def test_the_plan_shrinks_and_keeps_its_topology():
    before = configuration()
    made = shrink_configuration(before, CPU_SIZE)
    kwargs = made["architecture"]["arch_kwargs"]
    assert before == configuration()  # not changed in place
    assert kwargs["strides"] == [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert kwargs["kernel_sizes"][0] == [1, 3, 3]
    assert kwargs["features_per_stage"] == [16, 32, 64, 128]
    assert (len(kwargs["n_conv_per_stage"]), len(kwargs["n_conv_per_stage_decoder"]), kwargs["n_stages"]) == (4, 3, 4)
    assert made["batch_size"] == 2
    assert made["spacing"] == [3.0, 1.0, 1.0]
    assert math.prod(made["patch_size"]) <= CPU_SIZE.voxels
    assert [n % m for n, m in zip(made["patch_size"], (4, 8, 8), strict=True)] == [0, 0, 0]


def test_a_plan_smaller_than_the_size_stays():
    made = shrink_configuration(configuration(stages=3), NetworkSize(10**7, 4, 64, 320))
    assert made["patch_size"] == [48, 160, 160]
    assert made["architecture"]["arch_kwargs"]["features_per_stage"] == [32, 64, 128]


def test_weights_with_two_names_stay_one():
    one = torch.ones(1000)
    found = trainer._copy_to_cpu({"encoder.a": one, "decoder.encoder.a": one, "b": torch.zeros(3)})
    assert found["encoder.a"].data_ptr() == found["decoder.encoder.a"].data_ptr()
    assert len({v.data_ptr() for v in found.values()}) == 2


@pytest.fixture(scope="module")
def data(phantoms):
    dataset = read_dataset(phantoms.dataset)
    return training_data(dataset, Splits(dataset.cases[:4], dataset.cases[4:]))


def test_only_training_cases_are_linked(data, tmp_path):
    runner._link_cases(data, tmp_path / "raw")
    linked = {path.name for path in (tmp_path / "raw" / "imagesTr").iterdir()}
    assert linked == {f"{case.name}_0000.nii.gz" for case in data.train}
    assert not any(path.is_symlink() for path in (tmp_path / "raw" / "labelsTr").iterdir())
    described = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert described["numTraining"] == 4
    assert not {case.name for case in data.test} & {case.name for case in data.train}


def test_faulty_cases_are_told_all_at_once(data, tmp_path):
    first = data.train[0]
    wrong = dataclasses.replace(
        data,
        train=(
            first,
            first,
            dataclasses.replace(first, name="gone", label=tmp_path / "gone.nii.gz"),
            TrainingCase("none", (), first.label),
        ),
        test=(first,),
    )
    with pytest.raises(DataError) as error:
        train_judge(wrong, tmp_path / "judge", TrainingOptions(1, 0, "cpu", "fp32"), 1.0, "data", DOMAIN)
    text = str(error.value)
    for part in ("gone.nii.gz", "held-out", "twice", "0 images"):
        assert part in text
    assert len(error.value.faults) == 4


def test_the_users_variables_stay_out(tmp_path, monkeypatch, data):
    monkeypatch.setenv("nnUNet_raw", "/elsewhere")
    monkeypatch.setenv("nnUNet_wandb_enabled", "1")
    before = dict(os.environ)
    found = runner._environment(tmp_path, make_job(data, tmp_path, TrainingOptions(1, 0, "cpu", "fp32", TOY)))
    assert int(found["nnUNet_n_proc_DA"]) >= 1  # nnU-Net takes it for a number of threads
    assert found["nnUNet_raw"] == str(tmp_path / "nnUNet_raw")
    assert "nnUNet_wandb_enabled" not in found
    assert dict(os.environ) == before


def test_every_input_makes_another_job(data):
    def job(cases=data, device="cpu", precision="fp32", minutes=1.0, seed=0, size=TOY, spacing=None):
        return make_job(cases, Path("prepared"), TrainingOptions(minutes, seed, device, precision, size, spacing))

    fewer = dataclasses.replace(data, train=data.train[1:])
    others = [
        job(fewer),
        job(device="cuda"),
        job(precision="bf16"),
        job(minutes=2.0),
        job(seed=1),
        job(size=CPU_SIZE),
        job(spacing=(1.0, 1.0, 1.0)),
    ]
    assert len({j.inputs_hash for j in (job(), *others)}) == 8
    assert job(minutes=2.0).prepared_hash == job().prepared_hash  # nothing to prepare anew
    assert job(device="cuda").size is None


class FakeJudge:
    """Finds what is above 2."""

    def tumor(self, image, grid):
        return image[0] > 2


def test_held_out_scores_by_hand(tmp_path):
    """8 of 16 voxels found: Dice 2·8/(8+16) = 2/3; a case with nothing to find and nothing found has no score."""
    image, label = np.zeros((2, 8, 8, 8), np.float32)
    label[2:6, 2:4, 2:4] = 2
    label[7, 7, 7] = 1  # another label
    image[2:4, 2:4, 2:4] = 4
    grid = Grid((8, 8, 8), (1.0, 2.0, 3.0))
    write_volume(tmp_path / "a_0000.nii.gz", image, grid)
    write_volume(tmp_path / "a.nii.gz", label.astype(np.uint8), grid)
    write_volume(tmp_path / "b_0000.nii.gz", image * 0, grid)
    write_volume(tmp_path / "b.nii.gz", (label * 0).astype(np.uint8), grid)
    cases = [TrainingCase(name, (tmp_path / f"{name}_0000.nii.gz",), tmp_path / f"{name}.nii.gz") for name in "ab"]
    a, b = score_held_out(FakeJudge(), cases, 2, 2.0)
    assert a.dice == pytest.approx(2 / 3, abs=1e-4)
    assert score_held_out(FakeJudge(), cases[:1], 2, 100.0)[0].surface_dice == 1.0  # everything is near enough
    assert (b.dice, b.surface_dice) == (None, None)
    image[7, 7, 7] = 4  # where another label lies
    write_volume(tmp_path / "a_0000.nii.gz", image, grid)
    assert score_held_out(FakeJudge(), cases[:1], 2, 2.0)[0].dice < a.dice
    assert score_held_out(FakeJudge(), cases[:1], 2, 2.0, ignored=1)[0].dice == a.dice


RECORD = JudgeRecord(
    inputs_hash="0",
    dataset="Dataset501_X",
    fingerprint_hash="f",
    tumor_name="lesion",
    cases=("p1", "p2"),
    minutes=25.0,
    seed=3,
    device="CPU, 2 cores",
    precision="bf16",
    schedule=Schedule(45, 50, 0.5),
    seconds=1480.0,
    spacing_mm=(5.47, 5.47, 3.27),
    patch=(40, 40, 64),
    batch=2,
    features=(16, 32),
    parameters=1_400_000,
    weights_hash="1",
    tolerance_mm=5.5,
    held_out=(
        HeldOutScore("p3", 0.5, 0.25, 1.0),
        HeldOutScore("p4", None, None, 1.0),
        HeldOutScore("p5", 0.7, 0.75, 1.0),
    ),
    versions={"nnunetv2": "2.8.1", "torch": "2", "tumorgen": "0"},
    domain=DOMAIN,
)


def nnunet_results(folder, **folds):
    """nnU-Net's results of a cross-validation: what each fold has validated on."""
    write_json(folder / "plans.json", {"dataset_name": "Dataset009_Theirs"})
    write_json(folder / "dataset.json", {"file_ending": ".nii.gz"})
    for fold, cases in folds.items():
        for case in cases:
            (folder / fold / "validation").mkdir(parents=True, exist_ok=True)
            (folder / fold / "validation" / f"{case}.nii.gz").touch()
        (folder / fold / "validation" / "summary.json").touch()
        (folder / fold / "checkpoint_final.pth").touch()
    return folder


def test_what_nnunets_own_folds_have_learnt_from(tmp_path):
    """What the others have validated on; a fold may be taken by itself."""
    two = nnunet_results(tmp_path / "two", fold_0=("a", "b"), fold_1=("c", "d"))
    assert read_learned_cases(two) == LearnedCases("Dataset009_Theirs", ("a", "b", "c", "d"))
    assert read_learned_cases(two / "fold_1") == LearnedCases("Dataset009_Theirs", ("a", "b"))
    assert read_learned_cases(nnunet_results(tmp_path / "one", fold_0=("a",))) == LearnedCases("Dataset009_Theirs", ())
    assert read_learned_cases(nnunet_results(tmp_path / "all", fold_all=("a", "b"))).cases == ("a", "b")
    assert find_checkpoints(two / "fold_1") == [two / "fold_1" / "checkpoint_final.pth"]
    assert results_root(two / "fold_1") == results_root(two) == two
    assert read_learned_cases(tmp_path / "none") == LearnedCases("", ())


def test_means_leave_out_what_is_undefined():
    assert RECORD.mean_dice == pytest.approx(0.6)
    assert RECORD.mean_surface_dice == pytest.approx(0.5)
    assert math.isnan(dataclasses.replace(RECORD, held_out=()).mean_dice)


def test_the_card_tells_all():
    card = model_card(RECORD, "A judge", "FDG-PET, CC BY 3.0", "python make.py", ("Diagnosis.",))
    for part in (
        "# A judge",
        "`lesion`",
        "nnunetv2 2.8.1",
        "1.40 million",
        "45 epochs of 50 iterations, 24:40",
        "CC BY 3.0",
        "p1, p2",
        "python make.py",
        "NSD at 5.5 mm",
        "| p3 | 0.500 | 0.250 |",
        "| p4 | – | – |",
        "| mean | 0.600 | 0.500 |",
        "* Diagnosis.",
    ):
        assert part in card, part


def train_toy(data, folder, minutes, spacing_mm=None):
    return train_judge(data, folder, TrainingOptions(minutes, 0, "cpu", "fp32", TOY, spacing_mm), 6.0, "data", DOMAIN)


def test_a_restart_of_the_judge_that_was_stopped_is_said(data, tmp_path, monkeypatch, capsys):
    """By the same settings it goes on; by other settings the finished judge is kept; both are said."""
    folder = tmp_path / "judge"
    trained = []

    def train(data, place, job):
        write_json(place / "job.json", job)
        trained.append(job.minutes)
        if len(trained) in (2, 4):  # the restarts are stopped
            raise KeyboardInterrupt

    def score(data, place, job, *_):
        found = dataclasses.replace(RECORD, inputs_hash=job.inputs_hash, minutes=job.minutes)
        write_json(place / "judge.json", found)
        return found

    monkeypatch.setattr(jt, "_train", train)
    monkeypatch.setattr(jt, "_score_and_record", score)

    def run(minutes, restart=False):
        options = TrainingOptions(minutes, 0, "cpu", "fp32", TOY)
        try:
            return train_judge(data, folder, options, 6.0, "data", DOMAIN, restart).minutes
        except KeyboardInterrupt:
            return None
        finally:
            said.append(" ".join(capsys.readouterr().err.split()))

    said = []
    assert [run(1.0), run(1.0, restart=True), run(1.0), run(1.0)] == [1.0, None, 1.0, 1.0]
    assert trained == [1.0, 1.0, 1.0]
    assert f"the judge is trained again, as was begun; to keep the old one, delete {folder / 'job.json'}" in said[2]
    assert said[3] == ""
    assert [run(2.0, restart=True), run(1.0), run(1.0)] == [None, 1.0, 1.0]
    assert trained == [1.0, 1.0, 1.0, 2.0]
    assert "the finished judge is kept; an unfinished training with other settings is removed" in said[5]
    assert said[6] == ""


@pytest.mark.parametrize("finished", [True, False])
def test_a_damaged_record_of_a_training_is_replaced_by_the_restart_that_is_told(data, tmp_path, monkeypatch, finished):
    trained = []
    monkeypatch.setattr(jt, "_train", lambda data, place, job: trained.append(job.minutes))
    monkeypatch.setattr(jt, "_score_and_record", lambda *_: RECORD)
    (tmp_path / "job.json").write_text("{")
    if finished:
        write_json(tmp_path / "judge.json", RECORD)
    with pytest.raises(StateError) as error:
        train_toy(data, tmp_path, 1.0)
    assert error.value.faults[0].remedy == "run `tumorgen train judge --restart`"
    assert trained == []
    options = TrainingOptions(1.0, 0, "cpu", "fp32", TOY)
    assert train_judge(data, tmp_path, options, 6.0, "data", DOMAIN, restart=True) == RECORD
    assert trained == [1.0]
    assert not (tmp_path / "job.json").exists()


@pytest.mark.slow
def test_a_judge_from_phantoms(data, tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "judge"
    record = train_toy(data, folder, 0.01, spacing_mm=(5.0, 6.0, 7.0))
    assert record == read_record(JudgeRecord, folder / "judge.json", "")
    assert record.cases == tuple(case.name for case in data.train)
    assert [score.case for score in record.held_out] == [case.name for case in data.test]
    assert record.spacing_mm == pytest.approx((5.0, 6.0, 7.0))
    assert math.prod(record.patch) <= TOY.voxels
    assert record.features == (4, 8, 8)
    left = {path.name for path in folder.iterdir()} - {".lock", "nnUNet_preprocessed"}
    assert left == {
        "plans.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "fold_all",
        "nnunet.log",
        "judge.json",
        "MODEL_CARD.md",
    }
    content = torch.load(folder / "fold_all" / "checkpoint_final.pth", weights_only=True)
    assert "optimizer_state" not in content
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["current_epoch"] == record.schedule.epochs
    assert str(tmp_path) not in (folder / "plans.json").read_text() + (folder / "dataset.json").read_text() + str(
        content["init_args"]
    )
    image, grid = read_image(data.test[0].images)
    labels = Judge(folder, torch.device("cpu"), "tumor").predict(image, grid)
    assert labels.shape == grid.shape
    # finished is finished; other settings are told, and replaced when asked for
    before = (folder / "judge.json").stat().st_mtime_ns
    assert train_toy(data, folder, 0.01, spacing_mm=(5.0, 6.0, 7.0)) == record
    assert (folder / "judge.json").stat().st_mtime_ns == before
    with pytest.raises(StateError, match="restart"):
        train_toy(data, folder, 0.02, spacing_mm=(5.0, 6.0, 7.0))


SCRIPT = """
import pickle, sys
from pathlib import Path
from tumorgen_cli.judge.train import train_judge
data, folder, options, domain = pickle.loads(Path(sys.argv[1]).read_bytes())
train_judge(data, folder, options, 6.0, "data", domain)
"""


def running(folder):
    """Processes whose command line names the folder: the child and its workers."""
    found = []
    for path in jt.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in words:
            found.append(int(path.parent.name))
    return found


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_killed_and_gone_on_with(data, tmp_path, monkeypatch):
    import pickle

    folder = (tmp_path / "judge").resolve()
    options = TrainingOptions(0.25, 0, "cpu", "fp32", TOY)
    (tmp_path / "arguments").write_bytes(pickle.dumps((data, folder, options, DOMAIN)))
    latest = results_folder(folder) / "fold_all" / "checkpoint_latest.pth"
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "arguments")], stderr=subprocess.DEVNULL)
    try:
        assert until(lambda: latest.is_file() or parent.poll() is not None, 600)
        assert running(folder)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert until(lambda: not running(folder), 120)
    assert not (folder / "judge.json").exists()
    schedule = json.loads(latest.with_name("schedule.json").read_text())
    done = torch.load(latest, weights_only=True)["current_epoch"]
    assert 0 < done < schedule["epochs"]
    ticks = []
    monkeypatch.setattr(
        console,
        "progress",
        lambda title, total, start=0: contextlib.nullcontext(lambda n, note="": ticks.append((title, n))),
    )
    record = train_judge(data, folder, options, 6.0, "data", DOMAIN)
    assert dataclasses.asdict(record.schedule) == schedule  # not measured again
    assert min(n for title, n in ticks if "training" in title) >= done * schedule["iterations"]
    assert not running(folder)
    logs = "\n".join(path.read_text() for path in sorted((folder / "fold_all").glob("training_log_*.txt"))).splitlines()
    epochs = [int(line.split()[-1]) for line in logs if line.split()[-2:-1] == ["Epoch"]]
    rates = [float(line.split()[-1]) for line in logs if "learning rate:" in line]
    assert epochs[-1] == schedule["epochs"] - 1
    assert sorted(set(epochs)) == list(range(schedule["epochs"]))
    assert rates == pytest.approx([0.01 * (1 - epoch / schedule["epochs"]) ** 0.9 for epoch in epochs], abs=1e-5)
