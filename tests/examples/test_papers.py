"""The papers' tables: every command exists, rows run in order and go on, and share what is made from equal inputs."""

import csv
import subprocess
from pathlib import Path

import pytest
import typer
from support.command_line import call
from support.workspaces import TOY, plan_toy

from tumorgen_cli.cli import main
from tumorgen_cli.evaluation.trials import Analysis
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.planning.fields import check_overrides, plan_fields
from tumorgen_cli.planning.plan import make_plan
from tumorgen_cli.planning.presets import read_overrides
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.studies.downstream_tables import gains_csv
from tumorgen_cli.system.devices import DeviceBudget

FIELDS = plan_fields(1, {name: find_method(name).section for name in METHODS})
COMMANDS = typer.main.get_command(main.app).commands
TABLES = (
    "tumorgen-3",
    "difftumor-6",
    "difftumor-forms",
    "freetumor-forms",
    "freetumor-2",
    "freetumor-3",
    "freetumor-4",
    "freetumor-5",
    "freetumor-12",
    "freetumor-14",
)


@pytest.fixture(scope="module")
def papers(example):
    return example("papers")


def test_the_tables_are_those_of_the_page(papers):
    page = Path(__file__).parents[2] / "docs" / "reference" / "coverage.md"
    assert tuple(papers.TABLES) == TABLES
    for name in TABLES:
        assert f"python examples/papers.py {name} " in page.read_text(), name


@pytest.fixture
def check_plan(workspace):
    """Plan with settings, and open a method with that plan."""
    fingerprint, train = workspace.fingerprint(), workspace.splits().train
    sections = {name: find_method(name).plan_section for name in METHODS}

    def check(settings, method):
        overrides = read_overrides(None, settings)
        assert len(overrides) == len(settings)
        check_overrides(overrides, FIELDS)
        plan = make_plan(fingerprint, train, DeviceBudget("cpu", 8.0, 0.0), sections, overrides)
        find_method(method)(plan, workspace)
        taken = {decision.field: decision.source for decision in plan.decisions}
        assert all(taken[field] == "--set" for field in overrides)

    return check


@pytest.mark.parametrize("name", TABLES)
def test_every_command_and_setting_exists(papers, name, tmp_path, check_plan):
    setup = papers.Setup("Dataset001_Toy", tmp_path, tmp_path, judge=tmp_path, minutes=5.0)
    table = papers.TABLES[name]
    folders = set()
    for row in table.rows:
        commands = papers.row_commands(table, row, setup, 0)
        order = ["plan", "preprocess", "train", "synthesize", "evaluate", "downstream"]
        assert [words[0] for words in commands] == [
            each
            for each in order
            if not (each == "train" and not find_method(row.method).stages)
            and not (each == "downstream" and row.painting)
        ]
        for command, *words in commands:
            COMMANDS[command].make_context(command, [*words])
            folders.add(words[-1])
        check_plan(row.settings, row.method)
        assert ("--healthy" in commands[1]) == row.unlabeled
    assert len(folders) == len(table.rows)  # a workspace each
    plans = [(row.settings, row.painting, row.method, row.live, row.unlabeled) for row in table.rows]
    assert len(set(plans)) == len(plans)


def test_rows_run_in_order_go_on_and_say_what_failed(papers, phantoms, tmp_path, monkeypatch):
    table = papers.Table(
        "A table",
        "DSC",
        "healthy",
        (
            papers.Row("first", "0.7", "syntumor", ("methods.syntumor.contrast_from=data",), unlabeled=False),
            papers.Row("wrong", "", "syntumor", painting=("--solver", "ddim"), unlabeled=False),
        ),
    )
    ran = []

    def run(words):
        ran.append((words[0], Path(words[-1]).name))
        if call(*words, code=None).exit_code:
            raise subprocess.CalledProcessError(1, ["python", "-m", "tumorgen_cli.cli", *words])

    monkeypatch.setattr(papers, "tumorgen", run)
    toy = tuple(word for setting in TOY for word in ("--set", setting))
    options = (str(phantoms.dataset), phantoms.healthy, tmp_path, 2)
    setup, path = papers.Setup(*options, ("--memory", "8", *toy), device="cpu"), tmp_path / "table.csv"
    lines = papers.make_table(table, table.rows, setup, [0], path)
    steps = ("plan", "preprocess", "synthesize", "evaluate")
    assert ran == [*((step, "first_seed0") for step in steps), *((step, "wrong_seed0") for step in steps[:3])]
    with path.open(newline="") as stream:
        first, wrong = csv.DictReader(stream)
    assert (first["row"], first["paper: DSC"], first["pairs"], first["failure"]) == ("first", "0.7", "2", "")
    assert float(first["seconds_total"]) > 0
    assert (wrong["row"], wrong["pairs"], wrong["failure"]) == ("wrong", "", "tumorgen synthesize")
    assert [line.get("failure") for line in lines] == [None, "tumorgen synthesize"]
    one, other = (tmp_path / f"{name}_seed0" / "cases" for name in ("first", "wrong"))
    assert sorted(f.relative_to(one) for f in one.rglob("*")) == sorted(f.relative_to(other) for f in other.rglob("*"))
    ran.clear()
    papers.make_table(table, table.rows, setup, [0], path)
    assert ran == [("synthesize", "wrong_seed0")]  # the rest is finished
    ran.clear()
    lines = papers.make_table(table, table.rows[1:], setup, [0], path)
    assert [line["row"] for line in lines] == ["first", "wrong"]  # a finished row stays in the table
    ran.clear()
    changed = papers.Setup(*options, ("--memory", "8", *toy, "--set", "paste.draws=2"), device="cpu")
    monkeypatch.setattr(papers, "tumorgen", lambda words: ran.append(words[0]))
    papers.run_row(
        papers.row_commands(table, table.rows[0], changed, 0), table.rows[0], Workspace(tmp_path / "first_seed0"), []
    )
    assert tuple(ran) == steps  # what follows another plan is made again


@pytest.mark.parametrize(
    ("setting", "shared"),
    [
        ("methods.freetumor.filter.threshold=0.9", (True, True)),
        ("methods.freetumor.gan.classifier_weight=0", (True, False)),
    ],
)
def test_stages_of_equal_inputs_are_shared(papers, trained, phantoms, tmp_path, setting, shared):
    workspace, nothing = Workspace(tmp_path / "row"), Workspace(tmp_path / "nothing")
    plan_toy(workspace, str(phantoms.dataset), setting)
    papers.share_folders(workspace, [nothing, trained], ["cases"])
    assert preprocess_dataset(workspace, workers=0) == 0  # nothing is left to do
    papers.share_stages(workspace, [nothing, trained], "freetumor")
    method = find_method("freetumor")(workspace.plan(), workspace)
    assert tuple(method.trained(stage) for stage in method.stages) == shared
    twin = find_method("freetumor")(trained.plan(), trained)
    assert method.weights_hash("segmentor") == twin.weights_hash("segmentor")


def test_nnunets_of_real_cases_are_shared_and_no_others(papers, tmp_path):
    """Scored ones, with what tells `downstream` that their scores are of these held-out cases."""
    one, other, nothing = (Workspace(tmp_path / name) for name in ("one", "other", "nothing"))
    runs = Path("downstream") / "nnunet" / "real_4" / "runs"
    for name, file in (
        ("real_seed0", "run.json"),
        ("real_seed0", "schedule.json"),
        ("real_seed1", "job.json"),  # not finished
        ("freetumor_seed0", "run.json"),
    ):
        path = other.root / runs / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} {file}")
    (other.root / "downstream" / "held_out.json").write_text("hash")
    for _ in range(2):  # what is there stays
        papers.share_nnunets(one, [nothing, other])
        found = {str(path.relative_to(one.root)): path.read_text() for path in one.root.rglob("*") if path.is_file()}
        assert found == {
            str(runs / "real_seed0" / "run.json"): "real_seed0 run.json",
            str(runs / "real_seed0" / "schedule.json"): "real_seed0 schedule.json",
            "downstream/held_out.json": "hash",
        }


def test_a_gain_is_that_of_the_rows_arm(papers, tmp_path):
    path = tmp_path / "downstream.csv"
    assert papers.row_gain(path, "freetumor") == {}
    columns = gains_csv(Analysis((), None, (), ())).strip().split(",")
    with path.open("w", newline="") as stream:
        sheet = csv.DictWriter(stream, columns, restval="")
        sheet.writeheader()
        for arm, against, measure, value in (
            ("real", "", "dsc", "0.5"),
            ("freetumor-live", "", "nsd", "0.1"),
            ("freetumor-live", "", "dsc", "0.6"),
            ("freetumor-live", "empty", "dsc", "0.3"),
            ("freetumor-live", "real", "dsc", "0.1"),
            ("freetumor-live", "real", "nsd", "0.2"),
        ):
            line = {"arm": arm, "against": against, "measure": measure, "value": value}
            sheet.writerow(line | {"low over patients": "-0.1", "high over patients": "0.3"})
    row = papers.Row("meanwhile", "", "freetumor", live=True)
    found = papers.row_gain(path, papers.arm_of(row))
    assert found == {"nnU-Net DSC": "0.6", "gain": "0.1", "gain_low": "-0.1", "gain_high": "0.3"}
    assert papers.row_gain(path, "difftumor") == {}
