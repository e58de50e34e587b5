"""Folds of a cross-validation, pooled by the script."""

import json

import pytest
from support.scan_rows import row

from tumorgen_cli.system.json_records import to_plain, write_json


def test_folds_are_pooled(example, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tumorgen_cli.metrics.inference.RESAMPLES", 100)
    works = []
    for fold in range(3):
        work = tmp_path / f"work_{fold}"
        rows = [
            row(f"f{fold}_{i}", arm, dsc=0.4 + (0.1 + 0.01 * fold) * (arm == "tumorgen"))
            for arm in ("real", "tumorgen")
            for i in range(5)
        ]
        path = work / "downstream" / "scores.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps(to_plain(each)) + "\n" for each in rows))
        works.append(work)
    primary = {"arm": "tumorgen", "against": "real", "measure": "dsc", "cases": 8, "hosts": None}
    write_json(works[0] / "downstream" / "primary.json", primary)
    example("pool_folds").main(works, tmp_path / "out.csv")
    told = " ".join("".join(capsys.readouterr()).split())
    assert "tumorgen against real, 8 real cases, DSC: better by 0.110" in told
    (line,) = [
        line for line in (tmp_path / "out.csv").read_text().splitlines() if line.startswith("tumorgen,,8,real,dsc")
    ]
    assert float(line.split(",")[6]) == pytest.approx(0.11)
