"""What is said about an nnU-Net's cases and its process works when it is followed."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tumorgen_cli.nnunet import child, runner
from tumorgen_cli.nnunet.job import TrainingCase, TrainingData, check_data
from tumorgen_cli.nnunet.results import read_learned_cases
from tumorgen_cli.synthesis import painter
from tumorgen_cli.system.errors import DataError, DeviceError, StateError


@pytest.fixture
def data(tmp_path):
    """The training cases a and b, and c, which is held out."""

    def case(name):
        paths = [tmp_path / f"{name}_0000.nii.gz", tmp_path / f"{name}.nii.gz"]
        for path in paths:
            path.touch()
        return TrainingCase(name, (paths[0],), paths[1])

    a, b, c = map(case, "abc")
    return TrainingData("Dataset1_X", ("PET",), {"background": 0, "tumor": 1}, "tumor", ".nii.gz", (a, b), (c,))


def without_a_label(data):
    return replace(
        data, train=(replace(data.train[0], label=data.train[0].label.with_name("gone.nii.gz")), data.train[1])
    )


def in_another_format(data):
    path = data.train[0].label.with_name("a.mha")
    path.touch()
    return replace(data, train=(replace(data.train[0], label=path), data.train[1]))


CASES = [  # what is wrong with the cases, remedy
    (without_a_label, "put it back"),
    (lambda data: replace(data, test=data.train[:1]), "run `tumorgen plan DATASET` again"),
    (lambda data: replace(data, train=()), "run `tumorgen plan DATASET` again"),
    (lambda data: replace(data, train=data.train[:1] * 2), "rename one of them"),
    (lambda data: replace(data, channel_names=("CT", "PET")), "give an image for each channel"),
    (in_another_format, "convert it: nnU-Net reads one format per data set"),
]


@pytest.mark.parametrize(("spoil", "remedy"), CASES)
def test_cases_are_mended_as_told(data, spoil, remedy):
    """The data as they are have each remedy followed: files are there, in one format, each case in one part."""
    with pytest.raises(DataError) as error:
        check_data(spoil(data))
    assert {fault.remedy for fault in error.value.faults} == {remedy}
    check_data(data)


@pytest.mark.parametrize(
    ("script", "kind", "remedy"),
    [
        ("kill -9 $$", DeviceError, "free some memory and call it again: it continues from the last checkpoint"),
        ("echo no disk; exit 1", StateError, "see this log for the cause; then call it again: it continues from the"),
    ],
    ids=["killed", "failed"],
)
def test_a_training_that_stopped_is_called_again_as_told(tmp_path, monkeypatch, script, kind, remedy):
    python, job = tmp_path / "python", SimpleNamespace(device="cpu", prepared=str(tmp_path), processes=1)
    python.write_text(f"#!/bin/sh\n[ -e {tmp_path}/again ] && exit 0\ntouch {tmp_path}/again\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(kind) as error:
        runner._run_child(tmp_path, job, None, {})
    (fault,) = error.value.faults
    assert fault.remedy.startswith(remedy)
    if kind is StateError:
        assert (fault.where, fault.found) == (str(tmp_path / runner.LOG), "no disk")
    runner._run_child(tmp_path, job, None, {})


def test_what_a_process_was_given_is_written_again_by_the_next_start(tmp_path, monkeypatch):
    """The child of nnU-Net and the painter read files that whoever starts them writes before."""
    monkeypatch.setattr(child, "exit_when_stdin_closes", lambda: None)
    for function, name, remedy in (
        (child._main, "job.json", "start the training again"),
        (painter._main, painter.JOB, "start nnU-Net again"),
    ):
        (tmp_path / name).write_text("{")
        with pytest.raises(StateError) as error:
            function(tmp_path)
        assert error.value.faults[0].remedy == remedy


def test_learned_cases_are_read_once_the_folder_is_copied_again(tmp_path):
    (tmp_path / "plans.json").write_text('{"dataset_name": "Dataset7_X"}')
    (tmp_path / "dataset.json").write_text("[")
    with pytest.raises(StateError) as error:
        read_learned_cases(tmp_path)
    assert error.value.faults[0].remedy == "copy the folder again, or train the judge again"
    (tmp_path / "dataset.json").write_text('{"file_ending": ".nii.gz"}')
    assert read_learned_cases(tmp_path).dataset == "Dataset7_X"
