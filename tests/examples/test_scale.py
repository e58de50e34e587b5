"""The estimate: its steps add up to what was measured, and grow with the scans, their size and fewer shards."""

import numpy as np
import pytest
from support.sets import Threshold

from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.pipeline import synthesize
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.synthesis.set_files import read_provenance


@pytest.fixture(scope="module")
def scale(example):
    return example("scale")


@pytest.fixture(scope="module")
def pairs(workspace, phantoms, tmp_path_factory):
    out = tmp_path_factory.mktemp("scale") / "pairs"
    synthesize.synthesize_pairs(workspace, "syntumor", SetOptions(2, out), HostOptions(phantoms.healthy), device="cpu")
    return out


def test_steps_add_up_to_what_was_measured(scale, workspace, pairs):
    plan, judge = workspace.plan(), Threshold()
    before = sorted(path for path in pairs.rglob("*"))
    steps, size = scale.measured_steps(plan, pairs, synthetic_cases(plan, pairs), judge)
    totals = [record.seconds["compute"] + record.seconds["write"] for record in read_provenance(pairs)]
    assert sum(s.seconds for s in steps if s.command == "synthesize" and s.name != "read the scan") == pytest.approx(
        np.mean(totals), abs=1e-3
    )
    assert all(step.seconds >= 0 for step in steps)
    assert judge.asked == 2
    assert size == 40 * 36 * 32 * 4
    assert sorted(path for path in pairs.rglob("*")) == before
    images = sum(path.stat().st_size for path in (pairs / "imagesTr").iterdir())
    assert scale.sizes(pairs)["imagesTr"] == images / 2


def test_hours(scale):
    assert scale.hours(3.6, 11_000, 8) == ("11.0", "1.4")


def test_efficiency_of_shards(scale):
    """By hand: 10 s of start and 0.01 s a header for 1,000 scans are 20 s, which every process spends."""
    start = scale.Start(10.0, 0.01)
    assert scale.efficiency(2.0, 1000, 8, start) == pytest.approx(2020 / (8 * (20 + 250)))
    assert scale.efficiency(2.0, 1000, 1, start) == 1.0


def test_a_start_and_headers_are_measured(scale, pairs, monkeypatch):
    ran = []
    monkeypatch.setattr(scale.subprocess, "run", lambda words, check: ran.append(words))
    start = scale.measured_start(pairs)
    assert len(ran) == 1
    assert 0 < start.header < 1
    assert start.total(100) == pytest.approx(start.seconds + 100 * start.header)


def test_table_names_the_slowest_step(scale, workspace, pairs, monkeypatch, capsys):
    monkeypatch.setattr(scale, "needed_judge", lambda *_: Threshold())
    monkeypatch.setattr(
        scale,
        "measured_steps",
        lambda *_: (
            [
                scale.Step("synthesize", "method", 2.0, False),
                scale.Step("synthesize", "write", 1.0, True),
                scale.Step("filter", "read", 1.0, True),
                scale.Step("filter", "judge", 5.0, False),
            ],
            100.0,
        ),
    )
    monkeypatch.setattr(scale, "measured_start", lambda _: scale.Start(360.0, 0.1))  # 0.2 hours of each process
    scale.main(pairs, workspace.root, scans=[3600], shards=10, shape="10,10,2", voxel_bytes=2)  # four times the bytes
    said = " ".join(capsys.readouterr().out.split())
    assert "limited by: write │ 6.00 │ 6.2 │ 0.8 │ efficiency 77.5%" in said
    assert "limited by: judge │ 9.00 │ 9.2 │ 1.1 │ efficiency 83.6%" in said
