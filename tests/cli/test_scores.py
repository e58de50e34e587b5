"""filter, evaluate and reader-study, one after the other."""

import json
from pathlib import Path
from types import SimpleNamespace

from support.command_line import call, told


def test_from_pairs_to_scores(workspace, phantoms, tmp_path):
    """Filter, evaluate and reader study with nothing given: the bundled judge, the default features."""
    work, pairs, kept = ("-w", workspace.root), tmp_path / "pairs", tmp_path / "kept"
    call(
        "synthesize",
        *work,
        "--healthy",
        phantoms.healthy,
        "-n",
        3,
        "--method",
        "copypaste",
        "--out",
        pairs,
        "--device",
        "cpu",
    )

    report = json.loads(call("filter", pairs, *work, "--keep", 0, "--out", kept, "--device", "cpu", "--json").stdout)
    assert (report["kept"], report["rejected"]) == (3, 0)
    none = call("filter", pairs, *work, "--keep", 1, "--out", tmp_path / "none", "--device", "cpu")
    assert "next: tumorgen evaluate" in told(none) or "next: tumorgen filter" in told(none)
    assert "other" in told(call("filter", pairs, *work, "--keep", 0.5, "--out", kept, "--device", "cpu", code=1))

    assert "No such set" in told(call("filter", "pears", *work, code=1))
    assert "results folder" in told(
        call("evaluate", pairs, *work, "--judge", Path(__file__), "--device", "cpu", code=1)
    )
    result = call("evaluate", pairs, kept, *work, "--judge", "bundled", "--device", "cpu", "--json")
    assert "the bundled judge" in told(result)
    first, second = json.loads(result.stdout)
    rows = dict(first["rows"])
    assert rows["agreement DSC [95 % interval]"] == dict(second["rows"])["agreement DSC [95 % interval]"]
    assert rows["features of the distances"].startswith("lite0: EfficientNet-Lite0")
    assert "compare with kept" in Path(first["page"]).read_text()

    made = json.loads(call("reader-study", "make", pairs, *work, "-n", 2, "--out", tmp_path / "study", "--json").stdout)
    page, key = Path(made["page"]).read_text(), json.loads(Path(made["key"]).read_text())
    assert not any(case["case"] in page for case in key["cases"])
    (tmp_path / "answers.json").write_text("{}")
    assert "answers.json" in told(
        call("reader-study", "score", tmp_path / "answers.json", "--key", made["key"], code=1)
    )


def test_the_next_command_names_the_data_set(workspace, monkeypatch):
    """As it is printed it can be run: the data set is the plan's."""
    report = SimpleNamespace(name="s", page="s/report.html")
    monkeypatch.setattr("tumorgen_cli.api.evaluate", lambda *_, **__: [report])
    monkeypatch.setattr("tumorgen_cli.cli.scores.show_scores", lambda _: None)
    said = " ".join(told(call("evaluate", "s", "-w", workspace.root)).split())
    dataset = workspace.plan().dataset_path
    assert Path(dataset).is_dir()
    assert f"then: tumorgen merge {dataset} s --out Dataset601_Merged -w {workspace.root}" in said
