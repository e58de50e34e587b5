"""A set's page says how long its networks were trained, and what it does not know."""

from dataclasses import replace

from support.sets import provenance

from tumorgen_cli.evaluation.reports.facts import describe_networks
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training.stage import StageRun


def test_networks_are_known_by_their_weights(tmp_path):
    run = StageRun("flow", "", 150, 200, 229.0, "cpu", 1, 0.5, "ww", {})
    write_json(tmp_path / "toy" / "flow" / "run.json", run)
    (tmp_path / "toy" / "vae").mkdir()
    (tmp_path / "toy" / "vae" / "run.json").write_text("{")
    pairs = [
        provenance("a", "x"),
        provenance("b", "x"),
        replace(provenance("c", "x"), method="copypaste", weights={"donors": "d"}),
    ]
    assert describe_networks(tmp_path, pairs) == [
        "toy flow: 150 of 200 planned steps, 4 min on cpu",
        "copypaste: nothing to train",
    ]
    other = [replace(pairs[0], weights={"flow": "xx"})]
    assert describe_networks(tmp_path, other) == ["toy flow: unknown, trained elsewhere or since then again"]
