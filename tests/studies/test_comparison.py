"""Methods side by side: the same places for all, told failures as rows, budgets that a stopped comparison keeps, a page
on its own."""

import csv
import json
import math
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from support.command_line import call, told
from support.scores import make_scores
from support.sets import painted_tumor, provenance

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.evaluation.comparison import (
    COLUMNS,
    Comparison,
    MethodEntry,
    PaintedSet,
    StageCost,
    Table,
    Value,
    best_of,
    make_table,
    stage_runs,
)
from tumorgen_cli.evaluation.options import ScoreOptions
from tumorgen_cli.geometry import Box
from tumorgen_cli.judge.find import Choice
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline import evaluate as pipeline_evaluate
from tumorgen_cli.pipeline import synthesize as pipeline_synthesize
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies import comparison as comparison_module
from tumorgen_cli.synthesis.options import HostOptions
from tumorgen_cli.system.errors import DataError, Fault, PlanError, StateError, one_line
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training.stage import StageRun

BY_KEY = {column.key: column for column in COLUMNS}


def entries(key, **values):
    return [MethodEntry(method, method, "", {key: Value(*value)}) for method, value in values.items()]


def test_the_best_is_marked_where_it_is_told_apart():
    dice = BY_KEY["dice"]
    assert best_of(dice, {}, entries("dice", a=(0.8, 0.7, 0.9), b=(0.5, 0.4, 0.6))) == "a"
    assert best_of(dice, {}, entries("dice", a=(0.8, 0.55, 0.9), b=(0.5, 0.4, 0.6))) == ""  # they overlap
    assert best_of(dice, {}, entries("dice", a=(0.8,), b=(0.5,))) == ""  # without an interval nothing is told apart
    assert best_of(dice, {}, entries("dice", a=(0.8, 0.7, 0.9))) == ""
    assert best_of(dice, {}, entries("dice", a=(0.8, 0.7, 0.9), b=(math.nan,))) == ""
    auc = entries("auc", a=(0.9, 0.85, 0.95), b=(0.6, 0.55, 0.65), c=(0.2, 0.1, 0.3))
    assert best_of(BY_KEY["auc"], {}, auc) == "b"
    assert (
        best_of(BY_KEY["auc"], {}, entries("auc", a=(0.4, 0.35, 0.45), b=(0.61, 0.56, 0.66))) == ""
    )  # as far from 0.5, on its other side
    assert (
        best_of(BY_KEY["auc"], {}, entries("auc", a=(0.48, 0.4, 0.55), b=(0.61, 0.59, 0.66))) == ""
    )  # 0 to 0.1 against 0.09 to 0.16
    assert best_of(BY_KEY["auc"], {}, entries("auc", a=(0.48, 0.45, 0.55), b=(0.61, 0.59, 0.66))) == "a"
    seconds = entries("seconds_total", a=(0.1, 0.1, 0.1), b=(1.0, 0.9, 1.1))
    assert best_of(BY_KEY["seconds_total"], {}, seconds) == "a"
    assert best_of(BY_KEY["near_copies"], {}, entries("near_copies", a=(0.0,), b=(9.0,))) == ""


def test_distances_are_told_apart_by_the_real_rows_width():
    """Intervals of single draws may close: what the choice of real cases does is what counts."""
    far, near = {"kernel_all": Value(0.0, -0.2, 0.2)}, {"kernel_all": Value(0.0, -0.01, 0.01)}
    found = entries("kernel_all", a=(0.05, 0.05, 0.05), b=(0.1, 0.1, 0.1))
    assert best_of(BY_KEY["kernel_all"], far, found) == ""
    assert best_of(BY_KEY["kernel_all"], near, found) == "a"
    assert best_of(BY_KEY["kernel_all"], {}, found) == ""


def test_distances_of_fewer_slices_are_told_and_not_held_against_others():
    near = {"frechet_all": Value(60.0, 59.0, 61.0, (20, 32))}
    alike = entries("frechet_all", a=(70.0, 69.0, 71.0, (20, 32)), b=(80.0, 79.0, 81.0, (20, 32)))
    few = entries("frechet_all", c=(50.0, 49.0, 51.0, (6, 32)))
    assert best_of(BY_KEY["frechet_all"], near, [*alike, *few]) == "a"
    large = make_scores([0.5, 0.6, 0.7, 0.8], name="large")
    fewer = [
        replace(p, **{k: replace(getattr(p, k), counts=(1, 5)) for k in ("matched", "floor")}) for p in large.planes
    ]
    scores = {"small": replace(large, name="small", planes=tuple(fewer)), "large": large}
    table = make_table(
        "hosts",
        4,
        [*scores],
        {name: PaintedSet(Path(name), each, [line("one", name)], {}) for name, each in scores.items()},
        {},
    )
    assert table.real["kernel_all"].counts == (2, 5)  # whichever comes first
    assert [entry.values["kernel_all"].note for entry in table.entries] == [
        "of only 1 against 5 slices",
        "too few slices to differ from real",
    ]


def line(case, method, start=0, rejected=0):
    tumor = painted_tumor(Box((start, 0, 0), (start + 2, 2, 2)), rejected={"empty": rejected})
    made = replace(provenance(case, "host"), method=method, tumors=(tumor,))
    return replace(made, seconds={"method": 0.1, "total": 0.4})


def test_a_table_has_a_row_for_every_method(tmp_path):
    a = [line("one", "a"), line("two", "a", rejected=2)]
    b = [line("one", "b"), line("two", "b", start=5)]  # its second box was drawn again
    lost = {
        "three": {"case": "three", "rejected": {"empty": 10}},
        "four": {"case": "four", "rejected": {}, "reason": "damaged"},
    }
    made = {
        "b": PaintedSet(tmp_path / "b", make_scores([0.5, 0.7], name="b"), b, lost),
        "a": PaintedSet(tmp_path / "a", make_scores([0.5, 0.9], name="a"), a, {}),
    }
    table = make_table("hosts", 4, ["a", "broken", "b"], made, {"broken": "it is ill"})
    assert [(entry.method, entry.failure) for entry in table.entries] == [("a", ""), ("broken", "it is ill"), ("b", "")]
    assert table.alike == 1
    values, others = table.entries[0].values, table.entries[2].values
    assert values["dice"].value == pytest.approx(0.7)
    assert [(v["pairs"].value, v["given_up"].value, v["rejected"].value) for v in (values, others)] == [
        (2, 0, 0.5),
        (2, 2, 10 / 12),
    ]
    assert values["seconds_total"].value == pytest.approx(0.4)
    assert table.real["dice"].value == pytest.approx(0.6)
    assert {column.key for column in COLUMNS} <= {*values}
    assert all(0 <= table.real[f"ks_{key}"].value <= 1 for key in ("volume_ml", "mean", "contrast"))


def test_an_error_is_told_in_a_line():
    text = one_line(DataError("No tumor came", [Fault("case", "10 draws", "a tumor", "train longer")]))
    assert text == "No tumor came. case: 10 draws, expected a tumor; train longer"


def test_what_training_cost_and_came_to_is_told(tmp_path):
    from tumorgen_cli.evaluation.reports.comparison import training_rows

    run = StageRun("gan", "", 3, 5, 1.5, "cpu", 1, 0.5, "", {"unlabeled_scans": 2.0})
    write_json(tmp_path / "gan" / "run.json", run)
    runs = stage_runs({"segmentor": tmp_path / "segmentor", "gan": tmp_path / "gan"}, {"segmentor": 9, "gan": 5})
    assert runs == (StageCost("gan", 3, 5, 1.5, "cpu", {"unlabeled_scans": 2.0}),)
    ((*_, told),) = training_rows(Comparison("", "", "", 0, "", "", "", "", False, 1.0, {"freetumor": runs}, ()))
    assert "unlabeled scans 2" in told


def test_weak_weights_are_remarked_on_the_page(tmp_path):
    from tumorgen_cli.evaluation.reports.comparison import write_page

    write_json(tmp_path / "set" / "shortfalls.json", ["flow was trained for 1 of 9 planned steps"])
    table = Table("scans", 1, 0, {}, (MethodEntry("tumorgen", str(tmp_path / "set"), "no values"),), {})
    comparison = Comparison("", "", "", 0, "", "", "", "", False, 1.0, {}, (table,))
    write_page(tmp_path / "page.html", comparison, {}, {})
    assert "tumorgen: flow was trained for 1 of 9 planned steps." in (tmp_path / "page.html").read_text()


def test_minutes_are_shared_out_by_planned_work():
    from tumorgen_cli.studies.training_length import share_minutes

    planned, seconds = {"vae": 100, "flow": 50}, {"vae": 0.5, "flow": 2.0}
    lengths = share_minutes(1.0, planned, seconds)
    assert lengths == {"vae": 40, "flow": 20}
    assert sum(lengths[k] * seconds[k] for k in lengths) == pytest.approx(60)
    assert share_minutes(1e-6, planned, seconds) == {"vae": 1, "flow": 1}


@pytest.fixture
def fresh(workspace, tmp_path):
    """A copy of `workspace` to train in."""
    shutil.copytree(
        workspace.root, tmp_path / "work", ignore=shutil.ignore_patterns("comparison", "synthetic", "evaluation")
    )
    return Workspace(tmp_path / "work")


def run_of(workspace, stage):
    return json.loads((workspace.run("tumorgen", stage) / "run.json").read_text())


def test_the_same_steps_for_every_stage_that_is_not_trained(fresh):
    from tumorgen_cli.pipeline.train import train_stage
    from tumorgen_cli.studies.training_length import TrainingLength, train_within

    train_stage(fresh, "tumorgen", "vae", 1, "cpu")
    before = run_of(fresh, "vae")
    train_within(fresh, "tumorgen", TrainingLength(iterations=2), "cpu")
    assert run_of(fresh, "vae") == before  # though it is shorter
    assert [run_of(fresh, stage)["iterations"] for stage in ("flow", "refiner")] == [2, 2]
    assert not (fresh.root / "comparison").exists()


def test_minutes_are_measured_once_and_change_nothing(fresh, monkeypatch):
    from tumorgen_cli.methods.registry import find_method
    from tumorgen_cli.pipeline import training_forecast
    from tumorgen_cli.studies import training_length

    before = {path: path.stat().st_mtime_ns for path in fresh.root.rglob("*") if path.is_file()}
    method = find_method("tumorgen")(fresh.plan(), fresh)
    monkeypatch.setattr(training_forecast, "MEASURED", 3)
    found = training_length.stage_lengths(method, method.stages, 0.01)
    assert list(found) == ["vae", "flow", "refiner"]
    assert all(steps >= 1 for steps in found.values())
    record = fresh.root / "comparison" / "budgets" / "tumorgen.json"
    assert {path for path in fresh.root.rglob("*") if path.is_file()} == {*before, record}
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert all(seconds > 0 for seconds in json.loads(record.read_text())["seconds_a_step"].values())
    monkeypatch.setattr(training_length, "measure_stages", None)  # would fail if called
    assert training_length.stage_lengths(method, ("flow", "refiner"), 0.01) == found
    with pytest.raises(TypeError):
        training_length.stage_lengths(method, method.stages, 0.02)


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loaded, self.links = [], []

    def handle_starttag(self, tag, attrs):
        self.loaded += [
            value for name, value in attrs if name in ("src", "srcset") or (tag in ("link", "image") and name == "href")
        ]
        self.links += [value for name, value in attrs if tag == "a" and name == "href"]


NO_JUDGE = Choice(None, "tumor", reason="none in this test")


def without_judge(patch):
    """No judge scores pairs or looks at hosts."""
    for module in (pipeline_evaluate, pipeline_synthesize):
        patch.setattr(module, "choose_judge", lambda *_: NO_JUDGE)


@pytest.fixture(scope="module")
def compared(workspace, phantoms, tmp_path_factory):
    """(workspace, report): two methods without training and one that fails, in phantoms and held-out cases."""
    found = Workspace(tmp_path_factory.mktemp("compared") / "work")
    shutil.copytree(workspace.root, found.root, ignore=shutil.ignore_patterns("synthetic", "evaluation"))
    return found, compare(found, phantoms)


def compare(workspace, phantoms, methods=("copypaste", "tumorgen", "syntumor"), **options):
    from tumorgen_cli.studies import comparison

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "train_within", _stale)
        patch.setattr(find_method("syntumor"), "cell", 4)  # its places are wider than the other's, and still the same
        without_judge(patch)  # it takes seconds
        hosts = HostOptions(phantoms.healthy, "test", tumors=1)
        design = comparison.ComparisonDesign(methods, 3, **options)
        return comparison.compare_methods(workspace, design, hosts, ScoreOptions(features="filters"), device="cpu")


def _stale(workspace, method, budget, device):
    if method == "tumorgen":
        raise StateError(
            "The vae stage is stale", [Fault("last.pt", "made from <other> data", "the present ones", "restart it")]
        )


def test_every_method_meets_the_same_places(compared, phantoms):
    workspace, report = compared
    assert [table.hosts for table in report.comparison.tables] == ["test", phantoms.healthy.name]
    for table in report.comparison.tables:
        assert [bool(entry.failure) for entry in table.entries] == [False, True, False]
        assert "made from <other> data" in table.entries[1].failure
        places = []
        for method in ("copypaste", "syntumor"):
            lines = (
                (workspace.synthetic(f"{method}_{table.hosts}_n3_tumors1") / "provenance.jsonl")
                .read_text()
                .splitlines()
            )
            places.append(
                [
                    (each["case"], each["seed"], tumor["requested_box"], tumor["box"], tumor["attempt"])
                    for each in map(json.loads, lines)
                    for tumor in each["tumors"]
                ]
            )
        both = list(zip(*places, strict=True))
        first = [(one, other) for one, other in both if one[4] == other[4] == 0]  # a rejected draw gets another place
        assert first
        assert all(one[:3] == other[:3] for one, other in first)
        assert all(one[3] != other[3] for one, other in both)
        assert (table.pairs, table.alike) == (3, sum(one[:3] == other[:3] for one, other in both))
    assert report.comparison.training == {"copypaste": (), "tumorgen": (), "syntumor": ()}


def test_files_of_a_comparison(compared, phantoms):
    workspace, report = compared
    (folder,) = workspace.root.glob(f"comparison/*_test_{phantoms.healthy.name}_n3_tumors1")
    assert report.page == str(folder / "comparison.html")
    rows = list(csv.DictReader((folder / "comparison.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["real", "copypaste", "tumorgen", "syntumor"] * 2
    assert 0 <= float(rows[1]["ks_volume_ml"]) <= 1
    assert [(row["pairs"], row["given_up"]) for row in rows[:4]] == [("", ""), ("3", "0"), ("", ""), ("3", "0")]
    assert "stale" in rows[2]["failure"]
    assert rows[3]["paper_fid_hecktor_autopet"] == "89.7 / 109.0"
    assert "NaN" not in (folder / "comparison.json").read_text()
    html = (folder / "comparison.html").read_text()
    links = Links()
    links.feed(html)
    assert links.loaded
    assert all(value.startswith("data:image/") for value in links.loaded)
    assert "http" not in re.sub(r"data:image/[^\"]*", "", html)
    assert len(links.links) == 4
    assert all((folder / link).is_file() for link in links.links)
    assert "&lt;other&gt;" in html
    assert "prefers-color-scheme:dark" in html
    assert len(html) < 2_000_000


def test_a_second_call_does_nothing_again(compared, phantoms, monkeypatch):
    workspace, report = compared
    stamps = {path: path.stat().st_mtime_ns for path in workspace.root.glob("synthetic/*/*Tr/*")}
    again = compare(workspace, phantoms)
    assert str(again) == str(report)  # nan is not equal to itself; its text is
    assert {path: path.stat().st_mtime_ns for path in workspace.root.glob("synthetic/*/*Tr/*")} == stamps


def test_nothing_that_could_be_compared(compared, phantoms):
    with pytest.raises(StateError, match="No method made a set"):
        compare(compared[0], phantoms, ("tumorgen",))


def test_faults_are_told_at_once(workspace, tmp_path):
    result = call(
        "compare",
        "-w",
        workspace.root,
        "--methods",
        "copypast,syntumor,syntumor",
        "--iterations",
        3,
        "--minutes",
        1,
        code=1,
    )
    for part in ("did you mean copypaste?", "named twice", "nothing to paint into", "--iterations and --minutes"):
        assert part in told(result)
    assert "tumorgen plan DATASET" in told(
        call("compare", "-w", tmp_path, "--methods", "copypaste", "--cases", "test", code=1)
    )
    assert "add what is missing" in told(
        call(
            "compare",
            "-w",
            workspace.root,
            "--methods",
            "copypaste",
            "--healthy",
            tmp_path,
            "--paint-in",
            "liver",
            code=1,
        )
    )


def test_hosts_and_labels_that_are_not_there(workspace, phantoms, tmp_path):
    from tumorgen_cli.studies.comparison import ComparisonDesign, compare_methods

    with pytest.raises(PlanError, match="Nowhere to paint"):
        compare_methods(
            workspace,
            ComparisonDesign(["copypaste"], 1),
            HostOptions(phantoms.healthy, paint_in="tumor", host_labels=tmp_path),
            device="cpu",
        )
    with pytest.raises(DataError, match="cannot be used"):
        compare_methods(workspace, ComparisonDesign(["copypaste"], 1), HostOptions(tmp_path / "none"), device="cpu")
    with pytest.raises(PlanError, match="No such organ"):
        compare_methods(
            workspace,
            ComparisonDesign(["copypaste"], 1, train_on="background"),
            HostOptions(phantoms.healthy),
            device="cpu",
        )
    with pytest.raises(DataError, match="no case without a voxel of tumor"):
        compare_methods(
            workspace, ComparisonDesign(["copypaste"], 1), HostOptions(paint_in=str(phantoms.dataset)), device="cpu"
        )


def test_learning_from_one_organ(tmp_path, phantoms, monkeypatch):
    """In a workspace of its own, where the judge of the whole one still scores."""
    from tumorgen_cli.pipeline import evaluate, plan, preprocess
    from tumorgen_cli.studies import comparison
    from tumorgen_cli.system import devices

    monkeypatch.setattr(devices, "measure_bf16_speedup", lambda: 0.0)
    path, workspace = tmp_path / "Dataset778_Organs", Workspace(tmp_path / "work")
    shutil.copytree(phantoms.dataset, path)
    for number, name in enumerate(sorted((path / "labelsTr").iterdir())):
        labels, grid = read_volume(name)
        write_volume(name, np.where(labels == 1, 1, 2 + number % 2), grid)
    plain = json.loads((path / "dataset.json").read_text())
    write_json(path / "dataset.json", {**plain, "labels": {"background": 0, "tumor": 1, "muscle": 2, "fat": 3}})
    plan.plan_dataset(workspace, str(path), PlanOptions("tumor"), "cpu")
    preprocess.preprocess_dataset(workspace, 0)
    asked = []

    def judge(_, folder, *__):
        asked.append(folder)
        return Choice(workspace.judge, "tumor")

    monkeypatch.setattr(comparison, "choose_judge", judge)
    monkeypatch.setattr(comparison, "needed_judge", judge)
    without_judge(monkeypatch)
    monkeypatch.setattr(evaluate, "choose_judge", lambda _, folder, __: (asked.append(folder), NO_JUDGE)[1])
    scoring = ScoreOptions(features="filters")
    design = comparison.ComparisonDesign(["syntumor"], 2, train_on="fat")
    comparison.compare_methods(workspace, design, HostOptions(phantoms.healthy), scoring, device="cpu")
    inner, outer = Workspace(workspace.root / "train_on" / "fat").splits(), workspace.splits()
    fat = {case.name.removesuffix(".nii.gz") for case in sorted((path / "labelsTr").iterdir())[1::2]}
    assert ({*inner.train}, {*inner.test}) == ({*outer.train} & fat, {*outer.test} & fat)
    assert asked == [None, workspace.judge, workspace.judge]  # told of the own one, then told to use it


def test_data_sets_of_the_same_name_are_told_apart(fresh, phantoms, tmp_path, monkeypatch):
    from tumorgen_cli.studies import comparison
    from tumorgen_cli.system import devices

    monkeypatch.setattr(devices, "measure_bf16_speedup", lambda: 0.0)
    twin = tmp_path / "elsewhere" / phantoms.dataset.name
    shutil.copytree(phantoms.dataset, twin)
    inner = comparison._workspace_on(fresh, str(phantoms.dataset), "cpu")
    assert inner.plan().memory_gib == fresh.plan().memory_gib
    assert comparison._workspace_on(fresh, str(phantoms.dataset), "cpu") == inner
    with pytest.raises(StateError, match="belongs to another data set") as error:
        comparison._workspace_on(fresh, str(twin), "cpu")
    assert error.value.faults[0].remedy == f"rename one of the data sets, or delete {inner.root}"
    shutil.rmtree(inner.root)
    assert comparison._workspace_on(fresh, str(twin), "cpu").plan().dataset_path == str(twin)


def test_learning_from_one_data_set_and_painting_in_another(fresh, phantoms, tmp_path, monkeypatch):
    """What is learnt from gets a workspace of its own; of what is painted in only cases without a tumor are hosts."""
    from tumorgen_cli.studies import comparison
    from tumorgen_cli.system import devices

    other = tmp_path / "Dataset777_Other"
    shutil.copytree(phantoms.dataset, other)
    names = sorted(path.name for path in (other / "labelsTr").iterdir())
    for name in names[:2]:
        labels, grid = read_volume(other / "labelsTr" / name)
        write_volume(other / "labelsTr" / name, labels * 0, grid)
    monkeypatch.setattr(devices, "measure_bf16_speedup", lambda: 0.0)
    without_judge(monkeypatch)
    hosts = HostOptions(paint_in=str(other))
    scoring = ScoreOptions(features="filters")
    design = comparison.ComparisonDesign(["syntumor"], 2, train_on=str(phantoms.dataset))
    report = comparison.compare_methods(fresh, design, hosts, scoring, device="cpu")
    inner = fresh.root / "train_on" / phantoms.dataset.name
    lines = (inner / "synthetic" / f"syntumor_{other.name}_n2" / "provenance.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["host"] for line in lines) == [name.removesuffix(".nii.gz") for name in names[:2]]
    assert report.page.startswith(str(inner))
    assert not list(fresh.root.glob("synthetic/*"))


def test_the_name_of_a_label_leads_nowhere_else(workspace, monkeypatch):
    """It names the folder of the workspace that learns in this label."""
    plan = replace(workspace.plan(), labels={"background": 0, "tumor": 1, "../../liver": 2})
    monkeypatch.setattr(Workspace, "plan", lambda _: plan)
    monkeypatch.setattr(comparison_module, "select_organ_cases", lambda *_: [])
    monkeypatch.setattr(comparison_module, "subset_workspace", lambda *_: pytest.fail("outside"))
    with pytest.raises(StateError, match="out of their folder") as caught:
        comparison_module._workspace_on(workspace, "../../liver", "cpu")
    assert caught.value.faults[0].remedy == "rename the label"
