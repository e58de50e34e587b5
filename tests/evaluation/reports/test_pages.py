"""Numbers and times as people read them."""

import math

import pytest

from tumorgen_cli.evaluation.reports.pages import duration, number, percent, viewer_file


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.00042, "0.000"),
        (0.1234, "0.123"),
        (99.96, "100"),
        (999.4, "999"),
        (999.6, "1000"),
        (1160.0, "1160"),
        (-1234567.8, "-1234568"),
        (math.nan, "undefined"),
        (math.inf, "undefined"),
    ],
)
def test_numbers_have_no_exponent(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (229, "4 min"), (9000, "2.5 h"), (math.nan, "an unknown time")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_percent():
    assert [percent(0.255), percent(math.nan)] == ["26 %", "undefined"]


def test_the_viewer_comes_with_its_licenses():
    notices = viewer_file("LICENSES.txt")
    assert "Copyright (c) 2021, Niivue" in notices
    assert "BSD 2-Clause License" in notices
    for package in ("gl-matrix", "nifti-reader-js", "fflate", "@lukeed/uuid", "@ungap/structured-clone", "array-equal"):
        assert f"\n{package} " in notices
    assert len(viewer_file("niivue.js.gz")) < 500_000
