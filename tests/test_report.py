"""The page: whole without other files, says what is undefined, escapes names, and shows the right pairs."""

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from tumorgen_cli.metrics.scores import (
    Agreement,
    CaseScores,
    PlaneDistance,
    Scores,
    compare,
    hard_shares,
    summarize,
    undefined_statistics,
    values_of,
)
from tumorgen_cli.metrics.tumors import TumorStatistics
from tumorgen_cli.records import Box, Provenance
from tumorgen_cli.report import write_report

VOID = {"meta", "img", "br", "source"}


class Checker(HTMLParser):
    """Collects text and links; fails on tags that do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.links = [], [], []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def statistics(i):
    return TumorStatistics(10.0 + i, 4.0, 8.0, 3.0 + i, 2.0, 0.3, 0.9, 0.8, (4.0,), (8.0,), (3.0 + i,))


def make_scores(dices, judge="results/judge"):
    pairs = tuple(CaseScores("synthetic", f"pair{i}", "<host>", statistics(i), d, d) for i, d in enumerate(dices))
    train = tuple(CaseScores("train", f"t{i}", "", statistics(i + 2), math.nan, math.nan) for i in range(5))
    test = (CaseScores("test", "h", "", statistics(0), 0.6, 0.7),)
    parts = [summarize(values_of(cases, f), f) for cases in (pairs, test) for f in ("dice", "surface_dice")]
    planes = tuple(PlaneDistance(p, w, 1.0, 2.0, 3.0) for w in ("middle", "tumor") for p in ("axial", "coronal", "sagittal"))
    return Scores(
        "a <set>", "s", "p", "PET", judge, "j", "filters", 5.5, Agreement(*parts), compare(pairs, train),
        hard_shares(pairs, train), planes, (*pairs, *train, *test),
    )  # fmt: skip


def lines(count):
    return [
        Provenance(f"pair{i}", "toy", "<host>", ("f",), "h", i, 0, Box((0, 0, 0), (2, 2, 2)), "p", {"flow": "w"}, 1.0, i == 0,
                   {"method": 0.1, "total": 0.4}, {"empty": 2}, {})
        for i in range(count)
    ]  # fmt: skip


def page(tmp_path, scores, count):
    previews = tmp_path / "previews"
    previews.mkdir(exist_ok=True)
    for i in range(count):
        noise = np.random.default_rng(i).integers(0, 255, (1100, 900), dtype=np.uint8)
        Image.fromarray(noise).save(previews / f"pair{i}.png")
    write_report(tmp_path / "report.html", scores, lines(count), previews)
    checker = Checker()
    html = (tmp_path / "report.html").read_text()
    checker.feed(html)
    assert checker.open == []
    assert all(link.startswith("data:image/") for link in checker.links)
    return html, " ".join(checker.text)


def test_page_is_whole_and_shows_best_median_worst(tmp_path):
    html, text = page(tmp_path, make_scores([0.5, 0.9, 0.1, 0.7, math.nan]), 5)
    assert [re.search(rf"<b>{name} Dice</b>: (\w+)", html)[1] for name in ("best", "median", "worst")] == [
        "pair1",
        "pair0",
        "pair2",
    ]
    assert html.count('<img src="data:image/jpeg') == 3
    assert "prefers-color-scheme:dark" in html
    assert "#01020" not in html  # every placeholder ink became a colour of the page
    assert "<host>" in text
    assert "a <set>" in text
    assert "1 undefined" in text
    assert "10 (10 empty)" in text
    assert len(html) < 3_000_000


def test_without_judge_says_so(tmp_path):
    _, text = page(tmp_path, make_scores([math.nan] * 3, judge=""), 3)
    assert "No judge was given" in text
    assert "Pairs by contrast" in text
    assert "Surface Dice" not in text


def test_missing_previews_and_undefined_tumors(tmp_path):
    scores = make_scores([0.5])
    page(tmp_path, scores, 0)
    empty = CaseScores("synthetic", "pair0", "x", undefined_statistics(1), math.nan, math.nan)
    train = scores.of("train")
    nothing = Scores(
        **{
            **vars(scores),
            "cases": (empty, *train),
            "comparisons": compare([empty], train),
            "shares": hard_shares([empty], train),
        }
    )
    _, text = page(tmp_path, nothing, 0)
    assert "undefined" in text


def test_summary():
    found = summarize(np.array([1.0, 2.0, 3.0, 4.0, math.nan]), "x")
    assert (found.count, found.undefined, found.mean, found.median, found.quartile_1, found.quartile_3) == (
        4,
        1,
        2.5,
        2.5,
        1.75,
        3.25,
    )
    assert 1.5 <= found.low < 2.5 < found.high <= 3.5
    assert found == summarize(np.array([1.0, 2.0, 3.0, 4.0, math.nan]), "x")
    many = summarize(np.random.default_rng(0).normal(5, 1, 400), "x")
    assert many.high - many.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert summarize(np.array([math.nan]), "x").count == 0


def test_hard_shares_are_a_fifth_of_the_training_tumors():
    train = [CaseScores("train", str(i), "", statistics(i), math.nan, math.nan) for i in range(100)]
    easy = [CaseScores("synthetic", str(i), "", statistics(i + 50), math.nan, math.nan) for i in range(50)]
    low = hard_shares(easy, train)[0]
    assert (low.synthetic, low.training) == (0, 0.2)
