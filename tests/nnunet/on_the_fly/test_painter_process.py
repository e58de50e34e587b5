"""The trainer's side: the painter's process, its log, and its pool."""

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.painting import Cases, entry, plans, trainer

from tumorgen_cli.nnunet.on_the_fly import painter_process, settings
from tumorgen_cli.nnunet.on_the_fly.painter_process import PainterProcess
from tumorgen_cli.nnunet.on_the_fly.pool import PaintedPatch
from tumorgen_cli.nnunet.on_the_fly.settings import PainterJob, Progress
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import write_json

WATCHED = """
import os, sys, time
from tumorgen_cli.system.processes import exit_with_parent
exit_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(60)
"""


PARENT = """
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())], start_new_session=True)
time.sleep(60)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals and process groups")
def test_a_child_ends_with_its_parent():
    with subprocess.Popen([sys.executable, "-c", PARENT, WATCHED], stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.send_signal(signal.SIGKILL)
    assert until(lambda: not alive(child), 120)


def until(condition, seconds):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process}/stat")
    return not (stat.exists() and stat.read_text().split(")")[-1].split()[0] == "Z")  # no one may have waited for it


class FakeChild:
    """A painter that does nothing, until it is told to have ended."""

    pid, code = -1, None

    def __init__(self, command, **_):
        self.command = command

    def poll(self):
        return self.code


def impatient(_):
    raise TimeoutError


@pytest.fixture
def painter_side(painting, tmp_path, monkeypatch):
    """A trainer's side of painting, its log and its painters."""
    log, children = [], []
    monkeypatch.setattr(
        painter_process.subprocess, "Popen", lambda *a, **k: children.append(FakeChild(*a, **k)) or children[-1]
    )
    monkeypatch.setattr(painter_process.time, "sleep", impatient)
    parts = {
        "output_folder": str(tmp_path),
        "print_to_log_file": log.append,
        "oversample_foreground_percent": 0.33,
        "configuration_manager": SimpleNamespace(patch_size=[16, 16, 16]),
        "configure_rotation_dummyDA_mirroring_and_inital_patch_size": lambda: (
            None,
            False,
            np.array([24, 22, 20]),
            (0, 1, 2),
        ),
        "plans_manager": SimpleNamespace(plans=plans()),
    }
    return PainterProcess(trainer(**parts), painting, Cases()), log, children


def test_the_log_says_what_is_painted_and_what_it_costs(painter_side, painting):
    made, log, children = painter_side
    made.start()
    assert made.job.shape == (40, 38, 36)  # half a patch beyond what the loader cuts, on each side
    assert children[0].command[1:] == ["-m", "tumorgen_cli.synthesis.painter", str(made.folder)]
    assert painter_process.read_record(PainterJob, made.folder / settings.JOB, "") == made.job
    assert painting.plan_hash in log[0]
    assert "Healthy_000, Healthy_001" in log[0]
    most = int(re.search(r"at most (\d+) MiB", log[1])[1])
    shape = made.job.shape
    full = PaintedPatch(
        2, np.zeros((1, *shape), np.float32), np.zeros((1, *shape), np.int8), {1: np.zeros((10_000, 4), np.int64)}
    )
    for number in range(2):
        made.pool.put(replace(full, number=number + 2), full)
    taken = (
        sum(path.stat().st_size for path in made.pool.folder.rglob("*") if path.is_file()) / 2 * 3
    )  # a third is written meanwhile
    assert taken / 2**20 <= most + 0.5 <= 1.2 * taken / 2**20 + 1
    with pytest.raises(TimeoutError):  # entries of an earlier painter are not enough
        made.wait_until_ready()
    assert "waiting for the painter to be ready" in log.pop()
    write_json(made.folder / settings.PROGRESS, Progress(0, 0, "", 0.0, 0.0, 0.5))
    made.wait_until_ready()
    assert len(log) == 2
    write_json(made.folder / settings.PROGRESS, Progress(7, 1, "No tumor came", 3.0, 20.0, 0.625))
    made.data.counts[:] = [30, 12, 0.3, 6, 6, 0.06, 4, 0, 0]
    made.report_epoch()
    cost = "busy 15% of the time and held at most 0.62 GiB; 25% of 40 patches were painted, of these 60% show a tumor "
    cost += "(in the mean 0.60% of the voxels), of the real ones 40% show a tumor (in the mean 1.00% of the voxels); "
    for part in ("2 entries in the pool, 7 painted", "1 given up (the last: No tumor came)", cost):
        assert part in log[-1], part
    write_json(made.folder / settings.PROGRESS, Progress(9, 1, "No tumor came", 4.0, 30.0, 0.75))
    made.report_epoch()
    assert "2 painted since the last epoch; the painter was busy 10% of the time and held at most 0.75 GiB; " in log[-1]
    assert "; 0% of 0 patches" in log[-1]


def test_a_painter_that_stops_is_told_and_started_again(painter_side):
    made, log, children = painter_side
    made.start()
    (made.folder / settings.LOG).write_text("Traceback\nKeyError: 'x'\n\n")
    children[0].code = 1
    with pytest.raises(StateError, match="KeyError: 'x'") as error:
        made.wait_until_ready()
    (fault,) = error.value.faults
    assert fault.remedy == "see this log for the cause; then start nnU-Net again, with --c"
    made.report_epoch()
    assert "stopped (KeyError: 'x') and is started again" in log[-1]
    assert len(children) == 2


def test_a_pool_of_something_else_is_emptied_and_its_own_kept(painter_side):
    made, log, _ = painter_side
    made.start()
    made.pool.put(entry(0), entry(0))
    made.start()
    assert len(made.pool.entries()) == 1
    records = [made.folder / name for name in ("provenance.jsonl", "given_up.jsonl", settings.LOG)]
    for path in records:
        path.write_text("of an epoch that was trained\n")
    made.job = replace(made.job, pool_hash="another")
    made.start()
    assert made.pool.entries() == []
    assert any("emptied" in line for line in log)
    assert {path.read_text() for path in records} == {"of an epoch that was trained\n"}


def test_how_often_and_how_much_changes_no_entry(painting):
    assert replace(painting, probability=0.9, pool=3, share=0.5).content_hash == painting.content_hash
    assert replace(painting, seed=99).content_hash != painting.content_hash
