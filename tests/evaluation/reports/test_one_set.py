"""The page: whole without other files, says what is undefined, escapes names, and shows the right pairs."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from support.report_pages import NOTHING, drawn_tumor, write_page
from support.scores import make_scores, statistics

from tumorgen_cli.evaluation.reports import one_set
from tumorgen_cli.evaluation.reports.one_set import Losses
from tumorgen_cli.evaluation.scores import (
    UNDEFINED_STATISTICS,
    CaseScores,
    Scores,
    compare_statistics,
    hard_shares,
    plane_distances,
    summarize_agreement,
    unusual_places,
)
from tumorgen_cli.metrics.overlap import UNJUDGED, Verdict
from tumorgen_cli.metrics.statistics import describe_tumor
from tumorgen_cli.metrics.summary import summarize

VOID = {"meta", "img", "br", "source", "input"}


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


def test_low_contrast_is_weak_contrast_of_dark_tumors_too():
    def cases(sign, *contrasts):
        return [
            CaseScores("train", str(c), "", str(c), replace(statistics(0), contrast=sign * c), UNJUDGED)
            for c in contrasts
        ]

    for sign in (1, -1):
        low, *_ = hard_shares(cases(sign, 1, 5, 6, 7), cases(sign, 2, 4, 6, 8, 10, 12))
        assert low.synthetic == 0.25
        assert low.training == pytest.approx(2 / 6)  # the bound itself included


def page(tmp_path, scores, drawn=None, others=(), losses=NOTHING):
    verdict = write_page(tmp_path / "report.html", scores, drawn, others, losses)
    checker = Checker()
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    checker.feed(html)
    assert checker.open == []
    assert all(link.startswith(("data:image/", "../")) for link in checker.links)
    assert verdict.text in " ".join(" ".join(checker.text).split()).replace(" .", ".")
    return html, " ".join(checker.text)


def test_page_is_whole_and_begins_with_verdict_and_pictures(tmp_path):
    html, text = page(tmp_path, make_scores([0.5, 0.9, 0.1, 0.7, math.nan]))
    order = ["id=verdict", "id=pairs", "class=facts", "class=big", "<h2>In short"]
    assert sorted(order, key=html.index) == order
    assert re.findall(r'<figure class="pair[^>]*data-case="(\w+)"', html) == [
        "pair1",
        "pair3",
        "pair0",
        "pair2",
        "pair4",
    ]
    assert html.count("real tumors: <strong>") == 4
    assert "Dataset001_Phantom" in text
    assert "tumorgen flow: 9 of 9 planned steps, 3 min on cpu" in text
    assert "prefers-color-scheme:dark" in html
    assert "#01020" not in html  # every placeholder ink became a color of the page
    assert "<host>" in text
    assert "a <set>" in text
    assert "1 undefined" in text
    assert len(html) < 3_000_000


def test_numbers_are_plain(tmp_path):
    scores = make_scores([0.5, math.nan, 0.1])
    many = replace(scores, comparisons=tuple(replace(c, ks=1234567.0) for c in scores.comparisons))
    html, _ = page(tmp_path, many)
    seen = re.sub(r"<(script|style|pre)\b.*?</\1>", "", html, flags=re.DOTALL)
    words = re.sub(r"<[^>]*>", " ", seen)
    assert not re.search(r"\bnan\b|\binf\b|\d[eE][+-]?\d", words)
    assert "1234567" in words


def test_pairs_that_have_no_picture_are_linked(tmp_path):
    drawn = {"pair1": drawn_tumor(1)[0]}
    html, text = page(tmp_path, make_scores([0.5, 0.9, 0.1]), drawn)
    assert "2 more pairs" in text
    assert 'pair2: 12 ml · DSC 0.1 · <a href="../previews/pair2.png">' in html


def test_crops_fill_the_page_and_no_more(tmp_path, monkeypatch):
    scores = make_scores([0.5, 0.9, 0.1])
    html, _ = page(tmp_path, scores)
    assert len(re.findall('data-part="after"', html)) == 3
    monkeypatch.setattr(one_set, "PAGE_BYTES", len(html) - 10)
    less, _ = page(tmp_path, scores)
    assert len(re.findall('data-part="after"', less)) == 2
    assert len(less.encode()) < one_set.PAGE_BYTES
    assert less.count("in 3D</span>") == 2


def test_what_went_wrong_is_told(tmp_path):
    scores = make_scores([0.5, 0.9, 0.0, 0.7])
    html, _ = page(tmp_path, scores)
    assert "selected by a judge" not in html
    given_up = {"x": "no place <here>", "y": "3 empty", "z": "3 empty"}
    losses = Losses(given_up, {"w": "P 0.41, below 0.7"}, {"empty": 6, "too small": 1}, ("results/judge",))
    html, text = page(tmp_path, scores, losses=losses)
    rows = {row.split("</td>")[0]: row for row in html.split("<tr><td>")}
    for title, told in {
        "draws rejected": "7</td><td>6 empty, 1 too small",
        "pairs given up": "3</td><td>3 empty: y, z; no place &lt;here&gt;: x",
        "pairs left out by a filter": "1</td><td>P 0.41, below 0.7: w",
        "painted boxes without a tumor": "0</td>",
        "tumors that the judge does not find": "1</td><td>pair2",
    }.items():
        assert told in re.sub(r"<td[^>]*>", "<td>", rows[title])
    assert "selected by a judge (results/judge)" in text
    assert "weights that painted this set were weak" not in text
    losses = replace(losses, shortfalls=("vae has PSNR 18.26 dB <here>", "flow was trained for 1 of 9 planned steps"))
    html, text = page(tmp_path, scores, losses=losses)
    assert "weights that painted this set were weak" in text
    assert "vae has PSNR 18.26 dB &lt;here&gt;. flow was trained for 1 of 9 planned steps." in html


def test_other_sets_stand_beside(tmp_path):
    html, text = page(tmp_path, make_scores([0.5, 0.9]), others=[make_scores([0.25, 0.25, 0.25], name="rival")])
    assert "compare with rival" in text
    row = next(row for row in html.split("<tr>") if row.startswith("<td>Dice with the judge"))
    assert list(re.findall(r"<td[^>]*>([\d.]+)", row)) == ["0.7", "0.6", "0.25"]


def test_without_judge_says_so(tmp_path):
    _, text = page(tmp_path, make_scores([math.nan] * 3, judge=""))
    assert "was not measured: no judge: it does not know such scans" in text
    assert "DSC from" not in text
    assert "Surface Dice" not in text


def test_undefined_tumors(tmp_path):
    scores = make_scores([0.5])
    empty = CaseScores("synthetic", "pair0", "x", "pair0", UNDEFINED_STATISTICS, UNJUDGED)
    train = scores.of("train")
    nothing = Scores(
        **{
            **vars(scores),
            "cases": (empty, *train),
            "comparisons": compare_statistics([empty], train, []),
            "shares": hard_shares([empty], train),
        }
    )
    _, text = page(tmp_path, nothing)
    assert "undefined" in text
    assert "1 painted boxes hold no tumor" in text


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


def test_an_interval_over_scans_does_not_shrink_with_tumors_of_one_scan():
    rng = np.random.default_rng(1)
    scans = rng.normal(5, 1, 8)
    alone, many = (
        summarize(scans, "x"),
        summarize(np.repeat(scans, 10), "x", [str(i) for i in range(8) for _ in range(10)]),
    )
    assert (many.count, many.low, many.high) == (80, pytest.approx(alone.low), pytest.approx(alone.high))
    uneven = summarize(np.array([0.0] * 9 + [1.0, math.nan]), "x", ["a"] * 9 + ["b", "c"])
    assert (uneven.low, uneven.high, uneven.undefined) == (0, 1, 1)
    assert math.isnan(summarize(np.ones(5), "x", ["a"] * 5).low)


def test_several_tumors_of_a_scan_do_not_set_perfect_pairs_apart():
    rng = np.random.default_rng(2)

    def drawn(scans, tumors, each):
        """Features (N, place, plane, D) of alike tumors in different scans, and the scans' names."""
        of_scan = np.repeat(rng.normal(size=(scans, 2, 3, 6)), tumors, axis=0)
        of_tumor = rng.normal(size=(scans * tumors, 2, 3, 6)) * [
            [[0]],
            [[0.1]],
        ]  # through its middle a scan is the same
        return of_scan + of_tumor, [f"{each}{i // tumors}" for i in range(scans * tumors)]

    (pairs, hosts), (train, learnt), (test, held_out) = drawn(6, 6, "p"), drawn(20, 4, "t"), drawn(6, 4, "h")
    rows = plane_distances(pairs, train, test, hosts, learnt, held_out)
    assert {row.floor.counts for row in rows} == {(6, 20)}
    assert all(row.unclear for row in rows if row.plane == "all")
    few = plane_distances(pairs[:12], train, test, hosts[:12], learnt, held_out)  # twelve pairs in two hosts
    assert {(row.place, row.matched.counts) for row in few} == {("middle", (2, 20)), ("tumor", (6, 20))}


def test_hard_shares_are_a_fifth_of_the_training_tumors():
    train = [CaseScores("train", str(i), "", str(i), statistics(i), UNJUDGED) for i in range(100)]
    easy = [CaseScores("synthetic", str(i), "", str(i), statistics(i + 50), UNJUDGED) for i in range(50)]
    low = hard_shares(easy, train)[0]
    assert (low.synthetic, low.training) == (0, 0.2)


def test_tumors_in_another_tissue_are_in_unusual_places(tmp_path):
    """Training tumors lie in tissue of 1.0 to 1.9; three of four painted ones lie in such tissue, one in air."""
    index = np.indices((12, 12, 12)) - 5.5
    tumor = np.sqrt((index**2).sum(axis=0)) <= 3

    def lying_in(group, *tissues):
        found = [describe_tumor(np.where(tumor, 5.0, tissue), tumor, (2.0,) * 3, 0.0) for tissue in tissues]
        return tuple(
            CaseScores(group, f"{group}{i}", "", f"{group}{i}", each, UNJUDGED) for i, each in enumerate(found)
        )

    train = lying_in("train", *(1 + np.arange(40) / 40).tolist())
    test, pairs = lying_in("test", 1.5, 1.05, 2.5, 1.3), lying_in("synthetic", 1.2, 1.5, 1.7, -800.0)
    found = unusual_places(pairs, train, test)
    assert (found.low, found.high) == (pytest.approx(1.04875), pytest.approx(1.92625))
    assert (found.synthetic, found.training, found.held_out) == (0.25, 0.1, 0.25)
    alike = unusual_places(train, train, ())
    assert alike.synthetic == 0.1
    assert math.isnan(alike.held_out)
    assert math.isnan(unusual_places(pairs, (), test).synthetic)

    scores = replace(
        make_scores([0.5] * 4),
        cases=(*pairs, *train, *test),
        places=found,
        comparisons=compare_statistics(pairs, train, test),
    )
    html, text = page(tmp_path, scores)
    row = re.search(r"surroundings outside the training tumors&#39; 5th to 95th percentile.*?</tr>", html, re.DOTALL)[0]
    assert [" ".join(cell.split()) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)][:3] == [
        "25 %",
        "10 %",
        "25 %",
    ]
    assert "tumors in unusual places" in text
    assert "median of the surroundings" in text


def test_intervals_of_agreement_are_over_pairs_and_not_over_their_tumors():
    """All tumors of a pair share host and noise: four pairs of twenty equal tumors tell no more than four pairs."""
    dices = (0.4, 0.6, 0.8, 0.9)
    few, many = (
        [
            CaseScores("synthetic", f"pair{i}_tumor{k}", "x", f"pair{i}", statistics(i), Verdict(d, d, d, 1, 0, 0))
            for i, d in enumerate(dices)
            for k in range(count)
        ]
        for count in (1, 20)
    )
    one, several = (summarize_agreement(cases, [], []).of("dice").synthetic for cases in (few, many))
    assert (several.count, several.low, several.high) == (80, pytest.approx(one.low), pytest.approx(one.high))
    assert several.high - several.low > 0.3
