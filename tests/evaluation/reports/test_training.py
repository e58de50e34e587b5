"""The page of a training: what it says at each moment, its curves and previews; in a browser, that it loads itself."""

import csv
import re
import time

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from support.browser import CHROMIUM, browser

from tumorgen_cli.evaluation.reports import training
from tumorgen_cli.evaluation.reports.training import PAGE, TrainingPage, draw_page
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training.checkpoints import read_log
from tumorgen_cli.training.stage import StageRun
from tumorgen_cli.training.watch import Moment

FACTS = {"data set": "Dataset001_<b>", "method": "tumorgen", "plan": "abc"}
COMMAND = "tumorgen train flow -w work"


@pytest.fixture
def folder(tmp_path):
    """A stage after 1000 steps: the loss falls from 10 to 0.1, one number is logged in the second half alone."""
    with (tmp_path / "log.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["step", "seconds", "rate", "flow", "flow_gradient", "late"])
        writer.writeheader()
        for step in range(10, 1001, 10):
            late = 3.0 if step > 500 else ""
            row = {"step": step, "seconds": step * 0.5, "rate": 1.0, "flow": 10 ** (1 - 2 * step / 1000)}
            writer.writerow(row | {"flow_gradient": 2.0, "late": late})
    (tmp_path / "previews").mkdir()
    for index, step in enumerate((250, 500, 750, 1000)):
        Image.fromarray(np.full((4, 5), 50 * index, np.uint8)).save(tmp_path / "previews" / f"step_{step:06d}.png")
    return tmp_path


def page(folder, step=1000, iterations=2000, state="running", seconds=500.0):
    return draw_page(Moment("flow", "flow field", folder, step, iterations, seconds, state), FACTS, COMMAND)


def verdict(text):
    found = re.search(r'<p class="verdict (\w+)" id=verdict><b>(.*?)</b> (.*?)</p>', text)
    return found.groups()


def test_a_running_training_tells_its_share_and_the_time_left_and_loads_itself(folder):
    text = page(folder)
    assert verdict(text) == ("unknown", "The training runs: 50%.", "1000 of 2000 steps; about 8 min left.")
    assert '<meta http-equiv="refresh" content="30">' in text
    assert "Dataset001_&lt;b&gt;" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text), "no other file is needed"


def test_a_stopped_training_tells_how_to_go_on(folder):
    text = page(folder, state="stopped")
    assert verdict(text) == (
        "care",
        "The training has stopped after 1000 of 2000 steps.",
        f"{COMMAND} goes on from there.",
    )
    assert "http-equiv" not in text
    assert "<script" not in text


def test_a_finished_training_says_so_and_what_was_measured(folder):
    run = StageRun("flow", "i", 1000, 1000, 500.0, "cpu", 1, 1.5, "w", {"psnr": 31.234})
    write_json(folder / "run.json", run)
    text = page(folder, iterations=1000, state="finished")
    assert verdict(text) == ("good", "The training is finished.", "1000 of 1000 steps in 8 min.")
    assert "http-equiv" not in text
    assert "psnr 31.2" in text
    assert "cpu, peak memory 1.5 GiB" in text
    (folder / "run.json").write_text("{")
    assert verdict(page(folder, iterations=1000, state="finished"))[0] == "good", "a damaged record is no error here"


def test_a_training_that_begins_has_a_page_without_curves(tmp_path):
    text = page(tmp_path, step=0, seconds=0.0)
    assert verdict(text) == ("unknown", "The training begins.", "Curves come with the first checkpoint.")
    assert "<svg" not in text
    assert "<h2>" not in text


def test_numbers_are_means_of_the_first_and_the_latest_tenth(folder):
    rows = read_log(folder)
    values = np.array([row["flow"] for row in rows])
    expected = (values[:10].mean(), values[-10:].mean(), 0.1)
    assert training._told(rows, "flow") == pytest.approx(expected)
    assert training._told(rows, "late") == (3.0, 3.0, 3.0)
    assert training._names(rows) == ["flow", "late", "flow_gradient"]
    tiles = training._tiles(rows, training._names(rows))
    assert [tile[:3] for tile in tiles] == [
        ("flow", f"{expected[1]:.3g}", f"{expected[0]:.3g}"),
        ("late", "3", "3"),
        ("seconds a step", "0.5", "0.5"),
    ]


def test_smoothed_curves_keep_a_line_and_thin_ones_keep_both_ends():
    line = np.arange(1000.0)
    smooth = training._smooth(line)
    np.testing.assert_allclose(smooth[60:-60], line[60:-60])
    thin = training._thin(line)
    assert (len(thin), thin[0], thin[-1]) == (training._MOST_POINTS, 0.0, 999.0)
    assert list(training._thin(line[:3])) == [0.0, 1.0, 2.0]


def test_curves_reach_to_the_end_of_the_training_and_falling_losses_are_logarithmic(folder, monkeypatch):
    drawn = []
    monkeypatch.setattr(training, "svg", lambda figure: drawn.append(figure) or "")
    page(folder, iterations=2000)
    (figure,) = drawn
    assert isinstance(figure, Figure)
    panels = [panel for panel in figure.axes if panel.axison]
    assert [(panel.get_title(), panel.get_yscale()) for panel in panels] == [
        ("flow", "log"),
        ("late", "linear"),
        ("flow_gradient", "linear"),
    ]
    assert {panel.get_xlim() for panel in panels} == {(0.0, 2000.0)}
    logged = panels[0].lines[0]
    np.testing.assert_allclose(logged.get_ydata(), 10 ** (1 - 2 * logged.get_xdata() / 1000))
    assert panels[1].lines[0].get_xdata()[0] == 510


def test_the_newest_preview_is_the_large_one(folder):
    text = page(folder)
    assert re.findall(r'alt="Preview after step (\d+)"', text) == ["1000", "750", "500", "250"]
    assert text.index("step 1000") < text.index("Earlier previews (3)") < text.index("step 750")
    assert text.count("data:image/png;base64,") == 4


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")
def test_in_a_browser_the_page_loads_itself_until_the_training_is_finished(folder, monkeypatch):
    monkeypatch.setattr(training, "_RELOAD_SECONDS", 1)
    write = TrainingPage(FACTS, COMMAND)
    says = "document.getElementById('verdict')?.innerText ?? ''"
    write(Moment("flow", "flow", folder, 1000, 2000, 500.0))
    with browser() as tab:
        tab.open(folder / PAGE, width=700)
        assert "The training runs: 50%" in tab.run(says)
        assert tab.run("document.documentElement.scrollWidth") == 700
        assert tab.run("[...document.images].every((each) => each.naturalWidth === 5)")
        assert "loads itself again" in tab.run("document.getElementById('age').innerText")
        now = time.time()
        monkeypatch.setattr(training.time, "time", lambda: now - 1260)  # the training was killed
        write(Moment("flow", "flow", folder, 1200, 2000, 600.0))
        monkeypatch.undo()
        tab.wait(f"({says}).includes('60%')")
        assert "21 minutes old: the training may have been killed" in tab.run(
            "document.getElementById('age').innerText"
        )
        write(Moment("flow", "flow", folder, 2000, 2000, 900.0, "finished"))
        tab.wait(f"({says}).includes('The training is finished.')")
        assert tab.run("document.querySelector('meta[http-equiv]')") is None
        assert tab.console == []
        assert {url.split(":")[0] for url in tab.requests} <= {"file", "data"}
