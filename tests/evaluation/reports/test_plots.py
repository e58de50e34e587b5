"""Curves in reports: no text touches another or leaves the picture."""

import math
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from support.report_pages import touching_texts
from support.scores import make_scores

from tumorgen_cli.evaluation.reports import downstream, one_set
from tumorgen_cli.evaluation.reports.pages import round_ticks, space_ticks
from tumorgen_cli.metrics.inference import Estimate


@pytest.fixture
def drawn(monkeypatch):
    """The figures that pages turn into SVG."""
    figures = []
    for page in (one_set, downstream):
        monkeypatch.setattr(page, "svg", figures.append)
    return figures


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.8, 30, [1, 2, 5, 10, 20]),
        (0.011, 0.3, [0.02, 0.05, 0.1, 0.2]),
        (0.5, 2e4, [1, 10, 100, 1000, 10000]),
        (9, 42, [10, 15, 20, 30, 40]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_round(low, high, ticks):
    assert round_ticks(low, high) == pytest.approx(ticks)


def test_ticks_that_stand_too_near_have_no_label():
    panel = Figure().subplots()
    panel.set(xscale="log", xlim=(8, 100))
    space_ticks(panel.xaxis, [10, 11, 20, 21, 22, 40])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["10", "", "20", "", "", "40"]


@pytest.mark.parametrize("unit", ["SUV", "", "arbitrary units"])
def test_titles_of_distributions_do_not_touch(drawn, unit):
    one_set._distributions(make_scores([0.5, 0.7, 0.9]), unit)
    assert touching_texts(drawn[0]) == []
    assert {panel.get_title().replace("\n", " ").split(" [")[0] for panel in drawn[0].axes} >= {"volume", "sphericity"}


@pytest.mark.parametrize("counts", [(8, 16, 32), (30, 31, 32), (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 200)])
@pytest.mark.parametrize("names", [("real", "empty"), ("real", *(f"tumorgen-from{n}-x16-live" for n in range(19)))])
def test_curves_of_many_arms_and_near_counts_do_not_touch(drawn, monkeypatch, counts, names):
    found = [(count, Estimate(0.5, math.nan, math.nan)) for count in counts]
    monkeypatch.setattr(downstream, "_levels", lambda *_: found)
    monkeypatch.setattr(downstream, "_gains", lambda *_: found)
    arms = [SimpleNamespace(arm=name, hosts=None, cases=count) for name in names for count in counts]
    downstream._curves(SimpleNamespace(arms=arms))
    assert touching_texts(drawn[0]) == []
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == list(names)
