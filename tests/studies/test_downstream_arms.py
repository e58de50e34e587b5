"""The arms of `downstream` and its axes, with made-up nnU-Nets: what each one learns from, for how long, and where."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.evaluation.design import Design
from tumorgen_cli.nnunet.job import Schedule
from tumorgen_cli.nnunet.on_the_fly.settings import Painting
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies import downstream_runs, downstream_sources
from tumorgen_cli.studies.downstream import measure_gains
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.json_records import read_record

DESIGN = Design(("real", "copypaste"), (1.0,), 1, 0.02, 1, 0.5)


@pytest.fixture
def sets(monkeypatch, phantoms):
    """Sets that are made at once; their pairs are one healthy scan by many names."""
    made = []
    files = tuple(sorted(phantoms.healthy.glob("Healthy_000*")))

    def synthesize_pairs(workspace, method, options, hosts, device):
        made.append((workspace, options, hosts))

    def synthetic_cases(plan, folder):
        (count,) = {options.pairs for _, options, _ in made if options.out == folder}
        return [SimpleNamespace(case=f"s{i:04d}", images=files, label=files[0]) for i in range(count)]

    monkeypatch.setattr(downstream_sources, "synthesize_pairs", synthesize_pairs)
    monkeypatch.setattr(downstream_sources, "synthetic_cases", synthetic_cases)
    return made


def test_the_control_has_the_same_scans_with_empty_masks(copy, nnunets, phantoms):
    """Of the arms, one host and both; half of an arm's hosts are drawn unpainted."""
    arms = ("real", "empty", "copypaste", "copypaste-live")
    design = dataclasses.replace(DESIGN, arms=arms, hosts=(1, None))
    made = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    jobs = dict(nnunets)
    assert [*jobs] == [f"{arm}_seed0" for arm in ("real", *(a + h for a in arms[1:] for h in ("_hosts1", "")))]
    real, every = set(copy.splits().train), {path.name.split("_0000")[0] for path in phantoms.healthy.iterdir()}
    count = len(real)
    for name, others in (("empty", count), ("copypaste", 2 * count)):
        for hosts, scans in (("_hosts1", 1), ("", len(every))):
            job = jobs[f"{name}{hosts}_seed0"]
            drawn = Counter(job.train)
            empty = {case.name: case for case in job.extra if case.name.startswith("empty_")}
            assert sum(drawn[case] for case in real) == others  # half of all
            assert (len(empty), sum(drawn[case] for case in empty)) == (scans, count)
            for case in empty.values():
                labels, grid = read_volume(Path(case.label))
                assert not labels.any()
                assert grid == read_volume(Path(case.images[0]))[1]
    (one,) = {case.name for case in jobs["empty_hosts1_seed0"].extra}
    sets = {folder.name: read_provenance(folder) for folder in copy.root.glob("synthetic/copypaste_*")}
    assert {pair.host for pair in sets[f"copypaste_healthy1_n{count}"]} == {one.removeprefix("empty_")}
    assert {pair.host for pair in sets[f"copypaste_healthy_n{count}"]} == every
    live = jobs["copypaste-live_hosts1_seed0"]
    assert read_record(Painting, Path(live.painting), "").probability == 0.25  # of half, a half is unpainted
    assert (Counter(live.train)[one], len(live.train)) == (round(count / 2), count + round(count / 2))
    assert made.result.conclusions[0].startswith("No conclusion: whether more than")
    rows = [json.loads(line) for line in (copy.root / "downstream" / "scores.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["hosts"]) for row in rows] == [
        ("real", None),
        *((arm, hosts) for arm in arms[1:] for hosts in (1, None)),
    ]
    measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    assert len(nnunets) == 7  # nothing is made again


def test_each_draw_of_the_real_cases_has_its_own_methods_and_paintings(copy, nnunets, sets, phantoms):
    design = dataclasses.replace(DESIGN, fractions=(0.4, 1.0), subsets=2, paintings=2, unpainted=0.0)
    made = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    root, train = copy.root / "downstream", set(copy.splits().train)
    few, every = sorted({run.cases for run in made.result.runs})
    assert [(run.cases, run.subset, run.arm, run.painting) for run in made.result.runs] == [
        (cases, subset, arm, painting)
        for cases in (few, every)
        for subset in range(2)
        for arm, painting in (("real", 0), ("copypaste", 0), ("copypaste", 1))
    ]
    drawn = {}
    for name, folder in ((few, f"real_{few}"), (few, f"real_{few}_subset1"), (every, f"real_{every}_subset1")):
        inner = Workspace(root / folder)
        drawn[folder] = set(inner.splits().train)
        assert len(drawn[folder]) == name
        assert inner.plan().seed == copy.plan().seed + folder.endswith("_subset1")
        first, second = [options for workspace, options, _ in sets if workspace.root == inner.root]
        assert first.seed is None  # the plan's
        assert second.seed is not None
        assert second.out.name == f"{first.out.name}_painting1"
    assert drawn[f"real_{few}"] != drawn[f"real_{few}_subset1"]
    assert drawn[f"real_{every}_subset1"] == train
    places = [Path(job.prepared).name for _, job in nnunets]
    assert places == [f"real_{n}{s}" for n in (few, every) for s in ("", "_subset1") for _ in range(3)]
    for _, job in nnunets:
        assert {*job.train} & train == (drawn.get(Path(job.prepared).name) or train)
    measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    assert len(nnunets) == 12


def test_cases_held_aside_are_learned_from_by_nothing(copy, nnunets, sets, phantoms):
    """Neither by nnU-Nets nor by methods; they are prepared by the plan of the others."""
    design = dataclasses.replace(DESIGN, aside=0.4, unpainted=0.0)
    measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    train = set(copy.splits().train)
    for _, job in nnunets:
        assert len(job.aside) == 2  # of five
        assert not {*job.aside} & {*job.train}
        assert {*job.aside} | {*job.train} >= train
        assert {*job.aside} <= {case.name for case in job.extra}
        assert Path(job.prepared).name == "real_5_aside2"
    (inner, options, _), *_ = sets
    assert set(inner.splits().train) == train - {*nnunets[0][1].aside}
    assert options.pairs == 3
    with pytest.raises(PlanError, match="cases to learn from") as caught:
        measure_gains(copy, dataclasses.replace(design, fractions=(0.2,)), HostOptions(phantoms.healthy), "cpu")
    assert caught.value.faults[0].remedy == "raise --fractions"


def test_arms_without_real_cases_and_longer_ones(copy, nnunets, sets, phantoms):
    arms = ("copypaste-pretrained", "copypaste-alone", "copypaste-longer", "real")
    design = dataclasses.replace(DESIGN, arms=arms, unpainted=0.0, times=2.0)
    made = measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    real = set(copy.splits().train)
    assert [name for name, _ in nnunets] == [
        "real_seed0",  # whose length the others follow
        "pretraining",
        "copypaste-pretrained_seed0",
        "copypaste-alone_seed0",
        "copypaste-longer_seed0",
    ]
    first, before, after, alone, longer = (job for _, job in nnunets)
    assert not {*before.train} & real
    assert {*after.train} == real
    assert Path(after.initial).parts[-7:-5] == ("copypaste-pretrained_seed0", "pretraining")
    assert before.initial is None
    assert {*alone.train} == {*before.train} == {case.name for case in alone.extra}
    assert first.schedule is None
    assert {job.schedule for job in (before, after, alone)} == {
        Schedule(6, 7, 0.5)
    }  # twice the real arm's three epochs
    assert longer.schedule == Schedule(12, 7, 0.5)  # half of what it draws is real
    assert [run.real_share for run in made.result.runs] == [1.0, 1.0, 0.0, 0.5]
    assert before.inputs_hash == alone.inputs_hash  # the same training
    assert len({job.inputs_hash for _, job in nnunets}) == 4


def test_the_length_is_that_of_the_real_arm_alone(copy, nnunets, sets, phantoms, monkeypatch):
    """An arm of another length is not trained where the real arm's training failed."""
    made = downstream_runs.run_job

    def fails(data, folder, job, *rest):
        if folder.name.startswith("real_seed"):
            raise StateError("nnU-Net failed", [])
        made(data, folder, job, *rest)

    monkeypatch.setattr(downstream_runs, "run_job", fails)
    design = dataclasses.replace(DESIGN, times=2.0)
    with pytest.raises(StateError, match="No training was made") as caught:
        measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    said = str(caught.value.faults[1])
    assert "no training of 0.02 minutes, whose length this one follows" in said
    monkeypatch.setattr(downstream_runs, "run_job", made)  # corrected, the same command goes on
    assert len(measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu").result.runs) == 2


def test_more_hosts_than_there_are_is_one_clear_error(copy, nnunets, sets, phantoms):
    with pytest.raises(PlanError, match="--hosts") as caught:
        measure_gains(copy, dataclasses.replace(DESIGN, hosts=(1, 9)), HostOptions(phantoms.healthy), "cpu")
    (fault,) = caught.value.faults
    assert (fault.found, fault.remedy) == ("9", "ask for fewer, or for all")
    assert not nnunets
    made = measure_gains(copy, dataclasses.replace(DESIGN, hosts=(1, None)), HostOptions(phantoms.healthy), "cpu")
    assert {run.hosts for run in made.result.runs} == {1, None}


def test_healthy_scans_are_asked_for_where_they_are_needed(copy, nnunets, sets):
    design = dataclasses.replace(DESIGN, arms=("real", "empty", "copypaste"), hosts=(2,), unpainted=0.5)
    with pytest.raises(PlanError) as caught:
        measure_gains(copy, design, HostOptions(cases="train"), "cpu")
    assert [fault.where for fault in caught.value.faults] == ["--arms empty", "--hosts", "--unpainted"]
    assert {fault.remedy for fault in caught.value.faults} == {"leave it out, or give --healthy DIR"}
    made = measure_gains(copy, DESIGN, HostOptions(cases="train"), "cpu")  # the remedy, followed
    assert not any(case.name.startswith("empty_") for _, job in nnunets for case in job.extra)
    assert [run.real_share for run in made.result.runs] == [1.0, 0.5]


def test_a_method_may_learn_from_more_cases_than_nnunet(copy, nnunets, sets, phantoms):
    """DiffTumor's curve of the generator's cases at a fixed segmentor set, and of pairs for each case."""
    arms = ("real", "copypaste", "copypaste-from4-x3")
    design = dataclasses.replace(DESIGN, arms=arms, fractions=(0.4,), unpainted=0.0)
    measure_gains(copy, design, HostOptions(phantoms.healthy), "cpu")
    (own, few, _), (more, many, _) = sets
    assert (own.root.name, more.root.name) == ("real_2", "real_4")
    assert set(own.splits().train) < set(more.splits().train)
    assert (few.pairs, many.pairs) == (2, 6)
    jobs = dict(nnunets)
    real = set(jobs["real_seed0"].train)
    for name in arms[1:]:
        assert {*jobs[f"{name}_seed0"].train} & set(copy.splits().train) == real
    with pytest.raises(PlanError, match="at most the 5 training cases") as caught:
        measure_gains(copy, dataclasses.replace(design, arms=("real", "copypaste-from9")), HostOptions(cases="train"))
    assert caught.value.faults[0].remedy == "name fewer"
