"""nnU-Nets with and without pairs: rules in closed form, the order of work with a made-up nnU-Net, and, slowly, with
the real one."""

import dataclasses
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.command_line import call, told
from support.scan_rows import row
from support.workspaces import TOY, plan_toy

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.evaluation.design import Design, Variant, attained_share, find_arm, repeats
from tumorgen_cli.evaluation.gains import Downstream, TrainedNnunet
from tumorgen_cli.evaluation.recovery import recovered_shares
from tumorgen_cli.evaluation.reports.downstream import draw_page
from tumorgen_cli.evaluation.trials import analyze
from tumorgen_cli.evaluation.verdicts import Primary
from tumorgen_cli.judge import model
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.nnunet import job as job_module
from tumorgen_cli.nnunet import runner
from tumorgen_cli.nnunet.job import NetworkSize, Schedule, TrainingCase
from tumorgen_cli.nnunet.on_the_fly.settings import Painting
from tumorgen_cli.nnunet.results import BEST, FINAL
from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies import downstream_points, downstream_runs, downstream_sources
from tumorgen_cli.studies.downstream import measure_gains
from tumorgen_cli.studies.downstream_points import case_counts, nested_order
from tumorgen_cli.studies.downstream_tables import COLUMNS, arm_rows, gains_csv
from tumorgen_cli.studies.downstream_tasks import Point, Task
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, TumorgenError
from tumorgen_cli.system.json_records import read_record, write_json

DESIGN = Design(("real", "copypaste"), (0.5, 1.0), 2, 0.02, 2, 0.5, unpainted=0.0)


def test_fractions_become_counts():
    assert case_counts(32, (1, 0.25, 0.5)) == [8, 16, 32]
    assert case_counts(3, (0.5, 0.6)) == [2]


@pytest.mark.parametrize("fractions", [(), (0.0,), (1.5,), (0.01,)])
def test_a_wrong_fraction_is_told(fractions):
    with pytest.raises(PlanError, match="--fractions") as caught:
        case_counts(32, fractions)
    (fault,) = caught.value.faults
    assert fault.remedy == "for example --fractions 0.25,0.5,1"
    assert case_counts(32, [float(part) for part in fault.remedy.split()[-1].split(",")]) == [8, 16, 32]


def test_fewer_cases_are_part_of_more():
    names = [f"case_{i:02d}" for i in range(20)]
    assert sorted(nested_order(names, 0)) == names
    assert nested_order(names, 0) == nested_order(names[::-1], 0)
    assert nested_order(names, 0) != nested_order(names, 1)


def test_real_cases_are_repeated_to_their_share():
    assert repeats(8, 32, 0.5) == 4
    assert repeats(8, 32, 0.2) == 1
    assert repeats(8, 0, 0.5) == 1
    assert repeats(32, 8, 0.5) == 1  # never fewer than they are
    shares = [
        attained_share(dataclasses.replace(DESIGN, ratio=ratio, real_share=share), 0.0)
        for ratio, share in ((4, 0.5), (2, 0.75), (1, 0.25))
    ]
    assert shares == [0.5, 0.75, 0.5]  # a real case stands there once at least, so live arms see as many


def test_jobs_keep_to_the_gpus_they_were_given(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(runner, "usable_cores", lambda: 16)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-5")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in downstream_runs.list_devices("cuda", None)] == ["2", "GPU-5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    found = downstream_runs.list_devices("cuda", 3)
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["0", "1", "0"]
    assert {each["nnUNet_n_proc_DA"] for each in found} == {"4"}


def test_arms_differ_in_their_pairs_alone(copy, nnunets, phantoms):
    plan_toy(copy, copy.plan().dataset_path, "paste.draws=30")  # no pair is given up
    made = measure_gains(copy, DESIGN, HostOptions(phantoms.healthy, "train"), "cpu")
    counts = case_counts(len(copy.splits().train), DESIGN.fractions)
    assert [(run.arm, run.cases, run.seed) for run in made.result.runs] == [
        (arm, count, seed) for count in counts for seed in range(2) for arm in DESIGN.arms
    ]
    jobs = [job for _, job in nnunets]
    assert jobs[0].schedule is None  # it measures
    assert {job.schedule for job in jobs[1:]} == {Schedule(3, 7, 0.5)}
    for (name, job), run in zip(nnunets, made.result.runs, strict=True):
        real = {case for case in job.train if case in copy.splits().train}
        assert len(real) == run.cases
        assert len(job.extra) == run.pairs == (2 * run.cases if "copypaste" in name else 0)
        assert {*job.train} == real | {extra.name for extra in job.extra}
        assert not {*job.train} & {*copy.splits().test}
        assert run.real_share == (pytest.approx(0.5) if run.pairs else 1.0)
        assert len({other.prepared_hash for _, other in nnunets if other.prepared == job.prepared}) == 1


def test_weak_weights_that_painted_pairs_are_on_the_page(copy, nnunets, phantoms, monkeypatch):
    monkeypatch.setattr(downstream_sources, "find_shortfalls", lambda method: (f"{method.name} saw 40 of 4000 steps",))
    design = dataclasses.replace(DESIGN, fractions=(1.0,), seeds=1)
    made = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    count = len(copy.splits().train)
    assert made.result.weak == (f"copypaste with {count} real cases: copypaste saw 40 of 4000 steps",)
    assert f"weak weights painted pairs.</b> {made.result.weak[0]}." in Path(made.page).read_text(encoding="utf-8")


def test_hosts_without_the_data_sets_labels_are_refused(copy, nnunets, phantoms, monkeypatch):
    """Before anything is learnt: half of what nnU-Net draws would have no organ."""
    plan = dataclasses.replace(copy.plan(), labels={"background": 0, "tumor": 1, "body": 2})
    monkeypatch.setattr(Workspace, "plan", lambda _: plan)
    monkeypatch.setattr(downstream_points, "check_preprocessed", lambda *_: None)
    with pytest.raises(DataError, match="organs are background"):
        measure_gains(copy, DESIGN, HostOptions(phantoms.healthy, "train"), "cpu")
    assert nnunets == []
    with pytest.raises(StateError) as error:
        set_up_nnunet(copy, "copypaste", HostOptions(phantoms.healthy), device="cpu")
    assert "organs are background" in str(error.value)


def test_few_cases_teach_the_method_alone(copy, nnunets, phantoms):
    measure_gains(copy, dataclasses.replace(DESIGN, fractions=(0.5,), seeds=1), HostOptions(phantoms.healthy), "cpu")
    count = case_counts(len(copy.splits().train), (0.5,))[0]
    (settings,) = (copy.root / "downstream" / f"real_{count}").glob("synthetic/*/set.json")
    real = {case for _, job in nnunets for case in job.train if case in copy.splits().train}
    assert set(json.loads(settings.read_text())["learned_from"]) == real
    inner = Workspace(copy.root / "downstream" / f"real_{count}")
    assert {case.case for case in inner.fingerprint().cases} == real | {*copy.splits().test}
    assert {d.field: d.value for d in inner.plan().decisions if d.source != "rule"}.keys() >= {
        setting.split("=")[0] for setting in TOY
    }


def test_what_is_done_is_not_done_again(copy, nnunets, phantoms):
    design = dataclasses.replace(DESIGN, fractions=(1.0,))
    first = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    assert len(nnunets) == 4
    again = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    assert len(nnunets) == 4
    assert again.result == first.result
    more = measure_gains(
        copy, dataclasses.replace(design, arms=("real", "copypaste", "syntumor")), HostOptions(phantoms.healthy), "cpu"
    )
    assert [name for name, _ in nnunets[4:]] == ["syntumor_seed0", "syntumor_seed1"]
    assert len(more.result.analysis.arms) == 3
    measure_gains(copy, dataclasses.replace(design, ratio=1), HostOptions(phantoms.healthy), "cpu")
    assert [name for name, _ in nnunets[6:]] == [
        "copypaste_seed0",
        "copypaste_seed1",
    ]  # other pairs; the real arm stays
    assert measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu").result == first.result
    assert len(nnunets) == 8  # what gave way was kept


def test_weights_that_have_seen_held_out_cases_are_no_arm(copy, nnunets, phantoms, monkeypatch):
    """Given by --init from a workspace of another fold, say."""
    seen = copy.splits().test[0]
    monkeypatch.setattr(find_method("copypaste"), "learned_from", lambda self: (*self.workspace.splits().train, seen))
    design = dataclasses.replace(DESIGN, arms=("real", "copypaste", "copypaste-live"), fractions=(1.0,), seeds=1)
    made = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    assert [run.arm for run in made.result.runs] == ["real"]
    assert [(failure.arm, seen in failure.reason) for failure in made.result.failures] == [
        ("copypaste", True),
        ("copypaste-live", True),
    ]


def test_checkpoints_may_be_deleted(copy, nnunets, phantoms):
    """Scores stay, and what is trained later is as long as what was."""
    design = dataclasses.replace(DESIGN, fractions=(1.0,), seeds=1)
    measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    for results in (copy.root / "downstream").rglob("nnUNet_results"):
        shutil.rmtree(results)
    made = measure_gains(copy, dataclasses.replace(design, seeds=2), HostOptions(phantoms.healthy), "cpu")
    assert len(made.result.runs) == 4
    assert [job.schedule for _, job in nnunets] == [None, *[Schedule(3, 7, 0.5)] * 3]


def test_all_trainings_of_so_many_minutes_are_equally_long(copy, nnunets, phantoms):
    """Whatever was trained for other minutes in between."""
    design = dataclasses.replace(DESIGN, fractions=(1.0,), seeds=1)
    measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    measure_gains(copy, dataclasses.replace(design, minutes=0.5, arms=("real",)), HostOptions(phantoms.healthy), "cpu")
    measure_gains(copy, dataclasses.replace(design, seeds=2, arms=("real",)), HostOptions(phantoms.healthy), "cpu")
    jobs = [(name, job.minutes, job.schedule and job.schedule.iterations) for name, job in nnunets]
    assert jobs == [
        ("real_seed0", 0.02, None),
        ("copypaste_seed0", 0.02, 7),
        ("real_seed0", 0.5, None),
        ("real_seed1", 0.02, 7),
    ]


def test_other_held_out_cases_are_scored_anew(copy, nnunets, phantoms, monkeypatch):
    design, splits = dataclasses.replace(DESIGN, fractions=(1.0,), seeds=1), copy.splits()
    write_json(copy.splits_file, Splits(splits.train[1:], (*splits.test, splits.train[0])))
    assert (
        len(measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu").result.runs[0].scans)
        == len(splits.test) + 1
    )
    write_json(copy.splits_file, Splits(splits.train[1:], splits.test))
    asked = []
    monkeypatch.setattr(downstream_runs, "is_trained", lambda folder: True)
    monkeypatch.setattr(downstream_runs, "run_job", lambda data, folder, job, *_: asked.append(job.train))
    made = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    assert [len(run.scans) for run in made.result.runs] == [len(splits.test)] * 2
    assert len(asked) == 2  # each is asked for, and is there; nothing is prepared
    assert all(asked)


def test_what_nnunet_ignores_is_not_scored(copy, tmp_path, monkeypatch):
    """A prediction wholly where the label says `ignore` is no false positive; where it says anything else, it is."""
    case = copy.splits().test[0]
    dataset = read_dataset(Path(copy.plan().dataset_path), "tumor")
    labels, grid = read_volume(dataset.label_file(case))
    corner = np.zeros(labels.shape, bool)
    corner[:3, :3, :3] = True
    write_volume(tmp_path / "label.nii.gz", np.where(corner, 2, labels).astype(np.uint8), grid)
    found = SimpleNamespace(tumor_with_probability=lambda image, grid: ((labels == 1) | corner, labels == 1))
    monkeypatch.setattr(model, "Judge", lambda *_: found)
    files = TrainingCase(case, dataset.image_files(case), tmp_path / "label.nii.gz")
    for names, spurious in (
        ({"background": 0, "tumor": 1, "organ": 2}, 1),
        ({"background": 0, "tumor": 1, "ignore": 2}, 0),
    ):
        data = job_module.TrainingData("D", ("PET",), names, "tumor", ".nii.gz", (), (files,))
        folder = tmp_path / str(spurious)
        (runner.results_folder(folder) / "fold_all").mkdir(parents=True)
        torch.save({"seconds": 60.0}, runner.results_folder(folder) / "fold_all" / FINAL)
        job = SimpleNamespace(inputs_hash="0")
        task = Task(Point(4, 0, data), Variant(find_arm("real")), 0, folder, job, 0, 1.0)
        (score,) = downstream_runs._score(task, copy.plan(), Schedule(1, 1, 0.5), "cpu").scans
        assert (score.dsc == 1, len(score.false_positives)) == (not spurious, spurious)


def test_a_subset_of_other_splits_is_refused(copy, nnunets, phantoms):
    """The same cases, of which another is held out: the subset's methods have learnt from it."""
    design, splits = dataclasses.replace(DESIGN, fractions=(0.5,), seeds=1), copy.splits()
    measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    (inner,) = (copy.root / "downstream").glob("real_*/splits.json")
    path, found = inner, read_record(Splits, inner, "")
    write_json(path, Splits((*found.train[1:], *found.test), found.train[:1]))
    result = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu").result
    assert [run.arm for run in result.runs] == ["real"]
    assert [
        (each.arm, "delete this folder, then run the same command again" in each.reason) for each in result.failures
    ] == [("copypaste", True)]
    assert copy.splits() == splits
    shutil.rmtree(inner.parent)
    result = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu").result
    assert [run.arm for run in result.runs] == ["real", "copypaste"]


def test_a_live_arm_paints_at_the_same_rate(copy, nnunets, phantoms):
    design = dataclasses.replace(DESIGN, arms=("real", "copypaste-live"), fractions=(1.0,), seeds=1, real_share=0.75)
    made = measure_gains(copy, design, HostOptions(phantoms.healthy, "train"), "cpu")
    job = nnunets[-1][1]
    painting = read_record(Painting, Path(job.painting), "")
    assert painting.probability == 0.25
    assert painting.learned_from == copy.splits().train
    assert {*painting.hosts} == {*copy.splits().train} | {
        path.name.split("_0000")[0] for path in phantoms.healthy.iterdir()
    }
    assert {*job.train} == {*copy.splits().train}
    assert not job.extra
    assert made.result.runs[1].real_share == 0.75
    measure_gains(copy, design, HostOptions(phantoms.healthy, "train"), "cpu")
    assert len(nnunets) == 2
    measure_gains(copy, dataclasses.replace(design, real_share=0.5), HostOptions(phantoms.healthy, "train"), "cpu")
    assert [name for name, _ in nnunets[2:]] == ["copypaste-live_seed0"]  # the real arm draws nothing else


def test_what_fails_ends_the_command(copy, nnunets, phantoms, monkeypatch):
    """Not only what is told: a thread that dies must not leave the command waiting."""
    made = downstream_runs.run_job

    def fails(data, folder, job, title, variables=None):
        if job.schedule is not None:
            raise OSError("no more processes")
        made(data, folder, job, title, variables)

    monkeypatch.setattr(downstream_runs, "run_job", fails)
    with pytest.raises(OSError, match="no more processes"):
        measure_gains(copy, dataclasses.replace(DESIGN, fractions=(1.0,)), HostOptions(phantoms.healthy), "cpu")


def test_an_arm_that_fails_leaves_the_others(copy, nnunets, phantoms, monkeypatch):
    def synthesize(workspace, method, *_, **__):
        raise DataError("No tumor came", [Fault("a case", "10 draws", "a tumor", "train longer")])

    monkeypatch.setattr(downstream_sources, "synthesize_pairs", synthesize)
    made = measure_gains(
        copy, dataclasses.replace(DESIGN, fractions=(1.0,), seeds=1), HostOptions(phantoms.healthy), "cpu"
    )
    assert [run.arm for run in made.result.runs] == ["real"]
    (failure,) = made.result.failures
    assert (failure.arm, "10 draws" in failure.reason) == ("copypaste", True)
    assert "10 draws" in Path(made.page).read_text()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_training_that_fails_leaves_the_others_and_is_tried_again(copy, nnunets, phantoms, monkeypatch, jobs):
    """The first, which measures, too."""
    made = downstream_runs.run_job

    def fails(data, folder, job, title, variables=None):
        if folder.name in ("copypaste-live_seed0", "real_seed1"):
            raise StateError("The painter stopped", [Fault("painter.log", "no host", "painted patches", "mend it")])
        made(data, folder, job, title, variables)

    design = dataclasses.replace(DESIGN, arms=("copypaste-live", "real", "copypaste"), fractions=(1.0,))
    monkeypatch.setattr(downstream_runs, "run_job", fails)
    result = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu", jobs).result
    assert {(run.arm, run.seed) for run in result.runs} == {
        ("real", 0),
        ("copypaste", 0),
        ("copypaste", 1),
        ("copypaste-live", 1),
    }
    assert {each.arm for each in result.failures} == {"copypaste-live", "real"}
    assert result.failures[0].reason.startswith("seed 0: The painter stopped")
    monkeypatch.setattr(downstream_runs, "run_job", made)
    again = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu", jobs).result
    assert (len(again.runs), again.failures, len(nnunets)) == (6, (), 6)


def test_a_preparation_that_fails_leaves_what_was_trained(copy, nnunets, phantoms, monkeypatch):
    """Its scores may be there or not."""
    design, made = dataclasses.replace(DESIGN, fractions=(1.0,)), downstream_runs.run_job
    measure_gains(copy, dataclasses.replace(design, seeds=1), HostOptions(phantoms.healthy), "cpu")
    (
        copy.root / "downstream" / "nnunet" / f"real_{len(copy.splits().train)}" / "runs" / "real_seed0" / "run.json"
    ).unlink()

    def fails(data, folder, job, title, variables=None):
        if not job.train:
            raise StateError("nnU-Net failed", [Fault("nnunet.log", "a bad pair", "whole files", "mend it")])
        made(data, folder, job, title, variables)

    monkeypatch.setattr(downstream_runs, "run_job", fails)
    monkeypatch.setattr(downstream_runs, "is_trained", lambda folder: folder.name.endswith("seed0"))
    result = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu").result
    assert [(run.arm, run.seed) for run in result.runs] == [(arm, 0) for arm in design.arms]
    assert [(each.arm, each.reason[:23]) for each in result.failures] == [
        (arm, "seed 1: nnU-Net failed.") for arm in design.arms
    ]


def test_cases_that_cannot_be_learnt_from_leave_the_other_numbers(copy, nnunets, phantoms, monkeypatch):
    def subset_workspace(*_):
        raise PlanError("No tumor to learn from", [Fault("cases", "none", "one", "take more")])

    monkeypatch.setattr(downstream_sources, "subset_workspace", subset_workspace)
    result = measure_gains(
        copy, dataclasses.replace(DESIGN, seeds=1), HostOptions(phantoms.healthy), "cpu"
    ).result  # the real arm needs no method
    few, many = case_counts(len(copy.splits().train), DESIGN.fractions)
    assert [(run.arm, run.cases) for run in result.runs] == [("real", few), ("real", many), ("copypaste", many)]
    assert [(each.arm, each.cases) for each in result.failures] == [("copypaste", few)]


def test_nobody_held_out_is_told(copy):
    splits = copy.splits()
    write_json(copy.splits_file, dataclasses.replace(splits, train=(*splits.train, *splits.test), test=()))
    with pytest.raises(PlanError, match="no case held out") as caught:
        measure_gains(copy, DESIGN, HostOptions(cases="train"), "cpu")
    said = "add cases, or write a splits_final.json into the data set that holds out other cases, then plan again"
    assert caught.value.faults[0].remedy == said


def test_held_out_hosts_are_told_before_anything_is_trained(copy, nnunets, phantoms, tmp_path):
    """By name, and by content under another name."""
    hosts, held_out = tmp_path / "hosts", copy.splits().test[0]
    shutil.copytree(phantoms.healthy, hosts)
    for name in (held_out, "Somebody"):
        shutil.copy(phantoms.dataset / "imagesTr" / f"{held_out}_0000.nii.gz", hosts / f"{name}_0000.nii.gz")
    with pytest.raises(DataError, match=f"2 held-out cases .*Somebody, which is {held_out}") as caught:
        measure_gains(copy, DESIGN, HostOptions(hosts), "cpu")
    assert caught.value.faults[0].remedy == "take them out of the folder"
    with pytest.raises(DataError, match="no such folder"):
        measure_gains(copy, DESIGN, HostOptions(tmp_path / "none"), "cpu")
    assert not nnunets
    assert not (copy.root / "downstream").exists()
    for name in (held_out, "Somebody"):
        (hosts / f"{name}_0000.nii.gz").unlink()
    assert measure_gains(copy, dataclasses.replace(DESIGN, seeds=1), HostOptions(hosts), "cpu").result.runs


def test_what_cannot_be_made_is_told_before_anything_is_trained(copy, nnunets):
    """From Python, where no command line has checked it: every fault at once."""
    design = Design(("copypaste", "copypaste", "nonsense-live"), (1.0,), 0, math.nan, 0, 1.0)
    with pytest.raises(PlanError) as caught:
        measure_gains(copy, design, HostOptions(cases="test"), "cpu")
    told = str(caught.value)
    for part in ("nonsense", "no real", "copypaste more than once", "--cases test", "--seeds", "--minutes", "--ratio"):
        assert part in told, part
    assert len(caught.value.faults) == 8
    for remedy in ("add real to --arms", "give --cases train", "give a number in this range, or leave it out"):
        assert remedy in told
    with pytest.raises(PlanError, match="neither given"):
        measure_gains(copy, DESIGN, HostOptions(), "cpu")
    assert not nnunets
    assert not (copy.root / "downstream").exists()
    real = dataclasses.replace(DESIGN, arms=("real",), fractions=(1.0,), seeds=1)
    made = measure_gains(copy, real, HostOptions(), "cpu")  # which needs no hosts
    assert "<dt>painted into</dt><dd>nothing</dd>" in Path(made.page).read_text()


def test_without_any_training_the_cause_is_told_and_the_same_command_goes_on(copy, nnunets, monkeypatch):
    design = dataclasses.replace(DESIGN, arms=("real",), fractions=(1.0,), seeds=1)

    def fails(*_):
        raise StateError("nnU-Net failed", [Fault("log", "no disk", "a finished training", "see this log")])

    with monkeypatch.context() as patch:
        patch.setattr(downstream_runs, "run_job", fails)
        with pytest.raises(StateError, match="No training was made") as caught:
            measure_gains(copy, design, HostOptions(), "cpu")
    (fault,) = caught.value.faults
    assert "no disk" in fault.found
    assert fault.remedy == "correct it and run the command again"
    assert len(measure_gains(copy, design, HostOptions(), "cpu").result.runs) == 1


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("run.json", "[1]", "run.json"),
        ("run.json", {"inputs_hash": "../../x"}, "'../../x'"),
        ("run.json", {"seed": 5}, "seed 5"),
        ("inputs.txt", "../../x", "'../../x'"),
        ("job.json", "{", "job.json"),
    ],
)
def test_a_malformed_run_is_one_clear_error(copy, nnunets, name, content, part):
    design = dataclasses.replace(DESIGN, arms=("real",), fractions=(1.0,), seeds=1)
    measure_gains(copy, design, HostOptions(), "cpu")
    (folder,) = (copy.root / "downstream").glob("nnunet/*/runs/real_seed0")
    path = folder / name
    if isinstance(content, dict):
        content = json.dumps({**json.loads(path.read_text()), **content})
    if name != "run.json":
        (folder / "run.json").unlink()
    path.write_text(content)
    with pytest.raises(TumorgenError) as caught:
        measure_gains(copy, design, HostOptions(), "cpu")
    assert part in str(caught.value)
    assert "delete the run's folder: the same command makes the run again" in str(caught.value)
    shutil.rmtree(folder)
    assert len(measure_gains(copy, design, HostOptions(), "cpu").result.runs) == 1


def test_wrong_options_are_told_at_once(workspace):
    text = told(call("downstream", "-w", workspace.root, "--arms", "copypaste,nonsense", "--fractions", "a", code=1))
    for part in ("no real", "neither given", "numbers with commas", "--arms.nonsense"):
        assert part in text


def test_page_and_tables():
    rows = [
        row(f"p{i}", arm, draw, dsc=0.3 + 0.1 * (arm != "real") + 0.1 * i + 0.01 * draw * (arm != "real"), cases=cases)
        for cases in (2, 4)
        for arm in DESIGN.arms
        for draw in range(3)
        for i in range(6)
    ]
    runs = tuple(TrainedNnunet(arm, 4, 0, 0, 1.0, 2100, 0.1, "0", ()) for arm in DESIGN.arms)
    analysis = analyze(rows, Primary("copypaste", "real", "dsc", 2))
    verdict = "copypaste against real, 2 real cases, DSC: better by 0.110, [0.085, 0.135] over draws of the real cases"
    assert analysis.primary.verdict.startswith(verdict)
    result = Downstream(
        "Dataset1_<b>", "0", ("p0",), "scans of x", DESIGN, Schedule(3, 7, 0.5), "cpu", 5.0, analysis, runs,
        tuple(recovered_shares(rows, 4)), conclusions=(analysis.primary.verdict,),
    )  # fmt: skip
    page = draw_page(result, [])
    assert "Dataset1_&lt;b&gt;" in page
    assert verdict in page
    assert "var(--text)" in page  # the figure follows the page's colors
    assert not re.search(r'(src|href)="http', page)
    lines = gains_csv(analysis).splitlines()
    assert lines[0].startswith("arm,hosts,real cases,against,measure,draws,value,low over draws,high over draws,")
    (own,) = [line for line in lines if line.startswith("copypaste,,2,,dsc,3,")]
    assert own.startswith("copypaste,,2,,dsc,3,0.6600,0.6352,0.6848,")
    (gain,) = [line for line in lines if line.startswith("copypaste,,2,real,dsc,3,")]
    assert gain.startswith("copypaste,,2,real,dsc,3,0.1100,0.0852,0.1348,0.1100,0.1100,0.0027,,")
    assert [each[:3] for each in arm_rows(analysis)] == [
        ("2", "real", "3"),
        ("2", "copypaste", "3"),
        ("4", "real", "3"),
        ("4", "copypaste", "3"),
    ]
    assert arm_rows(analysis)[1][3 + [*COLUMNS].index("DSC")] == "0.660"


@pytest.mark.slow
def test_real_nnunets(copy, phantoms):
    """Two at a time; pairs are preprocessed by the plan of the real cases; predictions lie in the scans' own grid."""
    from tumorgen_cli.data.volumes import read_volume

    design = dataclasses.replace(DESIGN, arms=("real", "copypaste", "copypaste-live"), fractions=(0.5,), seeds=1)
    made = measure_gains(
        copy, design, HostOptions(phantoms.healthy, "train"), "cpu", jobs=2, size=NetworkSize(16**3, 3, 4, 8)
    )
    real, own, live = made.result.runs
    assert live.pairs >= 8  # the least that training waits for
    assert (real.pairs, real.iterations) == (0, own.iterations)
    root = copy.root / "downstream" / "nnunet" / f"real_{real.cases}"
    prepared = {path.stem for path in root.glob("nnUNet_preprocessed/*/*/*.pkl")}
    assert len(prepared) == real.cases + own.pairs
    for case in copy.splits().test:
        _, grid = read_volume(root / "runs" / "real_seed0" / "predictions" / f"{case}.nii.gz")
        _, truth = read_volume(phantoms.dataset / "labelsTr" / f"{case}.nii.gz")
        assert grid.shape == truth.shape
    page = (copy.root / "downstream" / "downstream.html").read_text()
    assert page.count("data:image") == 4  # the truth and the arms, of the one patient held out
    assert "in the pool" in (root / "runs" / "copypaste-live_seed0" / "nnunet.log").read_text()


@pytest.mark.slow
def test_real_nnunets_with_cases_aside_and_pretraining(copy, phantoms):
    """The final weights are the best by the cases held aside; a pretrained arm starts from the weights of its pairs."""
    arms = ("real", "copypaste-pretrained")
    design = dataclasses.replace(DESIGN, arms=arms, fractions=(1.0,), seeds=1, ratio=1, aside=0.2, segmentor="unet")
    made = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu", size=NetworkSize(32**3, 3, 4, 8))
    real, pretrained = made.result.runs
    root = copy.root / "downstream" / "unet" / "nnunet" / "real_5_aside1" / "runs"
    for run in (real, pretrained):
        assert len(run.curve) == made.result.schedule.epochs
        results = runner.results_folder(root / f"{run.arm}_seed0") / "fold_all"
        final, best = (torch.load(results / name, weights_only=True)["network_weights"] for name in (FINAL, BEST))
        assert all(torch.equal(final[name], best[name]) for name in final)
    first = runner.results_folder(root / "copypaste-pretrained_seed0" / "pretraining") / "fold_all" / FINAL
    assert first.is_file()
    rows = [json.loads(line) for line in (copy.root / "downstream" / "unet" / "scores.jsonl").read_text().splitlines()]
    assert [row["arm"] for row in rows] == list(arms)
    assert rows[0]["plateau_iterations"] is not None
