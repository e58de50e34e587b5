"""Tables of downstream's page: what stands in which cell."""

import math

import pytest
from support.scan_rows import lesion, row

from tumorgen_cli.evaluation.recovery import Recovered
from tumorgen_cli.evaluation.reports.gain_tables import (
    arm_tables,
    comparison_table,
    components_table,
    recovered_table,
)
from tumorgen_cli.evaluation.trials import analyze
from tumorgen_cli.evaluation.verdicts import Primary
from tumorgen_cli.metrics.inference import UNKNOWN, Estimate


@pytest.fixture
def analysis(few_resamples):
    rows = [
        row(
            f"s{i}",
            arm,
            draw,
            seed,
            0.4 + gain + 0.02 * draw + 0.01 * seed + 0.05 * i,
            [lesion(8, 0.9)],
            [0.95] * fp,
            hosts=hosts,
        )
        for arm, hosts, gain, fp in (("real", None, 0.0, 0), ("empty", 10, 0.02, 0), ("tumorgen", 10, 0.1, 2))
        for draw in range(3)
        for seed in range(2)
        for i in range(6)
    ]
    return analyze(rows, Primary("tumorgen", "empty", "dsc", 8, 10))


def test_arms_have_a_column_with_both_intervals(analysis):
    measures, sizes = arm_tables(analysis, 8)
    assert measures.header == ["", "real", "empty, 10 hosts", "tumorgen, 10 hosts"]
    assert measures.rows[:2] == [["draws of the real cases", "3", "3", "3"], ["trainings", "6", "6", "6"]]
    cells = {line[0]: [str(cell) for cell in line[1:]] for line in measures.rows}
    half = 4.302653 * 0.02 / math.sqrt(3)
    ends = f"{0.55 - half:.3f} to {0.55 + half:.3f}"
    assert cells["DSC"][0].startswith(f"0.550<br><small>over draws {ends}<br>over patients 0.4")
    found = [text.split("<")[0] for text in cells["lesions found at one false positive a scan"]]
    assert found == ["100.0 %", "100.0 %", "0.0 %"]
    assert [line[0] for line in sizes.rows] == ["lesions under 10 mm found"]  # there are no others
    assert arm_tables(analysis, 32) == []


def test_comparisons_name_the_primary_one(analysis):
    table = comparison_table([analysis.primary, *analysis.exploratory])
    first = table.rows[0]
    assert first[:4] == ["tumorgen, 10 hosts", "empty", "8", "DSC"]
    assert str(first[4]) == "0.080<br><small>no interval</small>"  # the same in every draw
    assert first[7:] == ["named before", "better with these draws"]
    assert all(len(line) == len(table.header) for line in table.rows)


def test_components_and_what_is_made_up_for(analysis):
    table = components_table(analysis.arms)
    assert table.rows[0][:3] == ["real", "8", "lesions found at one false positive a scan"]
    dsc = next(line for line in table.rows if line[2] == "DSC")
    assert float(dsc[3]) == pytest.approx(0.02, abs=0.002)
    assert dsc[4] == "–"  # one painting
    assert float(dsc[5]) == pytest.approx(0.01 / math.sqrt(2), abs=1e-3)
    share = Recovered(
        "tumorgen", 8, None, Estimate(0.25, 0.1, 0.4), Estimate(0.25, 0.05, 0.45), Estimate(16.2, 9.4, math.inf), ""
    )
    none = Recovered(
        "copypaste", 8, 10, UNKNOWN, UNKNOWN, Estimate(0, math.nan, math.nan), "no real arm with all cases"
    )
    assert [[str(cell) for cell in line] for line in recovered_table([share, none]).rows] == [
        [
            "tumorgen",
            "8",
            "25 %<br><small>over patients 10 to 40 %</small>",
            "5 to 45 %",
            "16<br><small>over patients 9 to more than tried</small>",
            "",
        ],
        ["copypaste, 10 hosts", "8", "–", "–", "fewer than tried", "no real arm with all cases"],
    ]
