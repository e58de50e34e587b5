"""Processes that are stopped: exit codes, temporary files, workers that are left."""

import signal

import pytest
from support.stops import members, start, stop, wait_until

from tumorgen_cli.system import processes
from tumorgen_cli.system.processes import Terminated, exit_code, stop_cleanly, stop_later, worker_pool

POOL = """
import sys
from support.case_tasks import hold_file
from tumorgen_cli.system.processes import exit_code, stop_cleanly, worker_pool
try:
    with stop_cleanly(), worker_pool(2) as pool:
        for task in [pool.submit(hold_file, f"{sys.argv[1]}/{number}.txt") for number in range(5)]:
            task.result()
except KeyboardInterrupt as stop:
    sys.exit(exit_code(stop))
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_workers_end_with_their_parent_and_remove_their_files(tmp_path, number, code):
    process = start(["-c", POOL, str(tmp_path)])
    wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
    returned, said = stop(process, number)
    assert returned == code
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_workers_start_prints_nothing(tmp_path):
    process = start(["-c", POOL, str(tmp_path)])
    wait_until(lambda: len(members(process.pid)) >= 3)  # the parent, torch's or Python's tracker, a worker
    assert stop(process, signal.SIGINT) == (130, "")
    assert list(tmp_path.iterdir()) == []


def test_a_worker_that_is_asked_to_end_stops_the_work():
    with pytest.raises(Terminated), worker_pool(1) as pool:
        raise SystemExit(143)  # what the result of a stopped task raises
    assert pool._shutdown_thread


def test_sigterm_raises_in_the_block_alone():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as caught, stop_cleanly():
        signal.raise_signal(signal.SIGTERM)
    assert exit_code(caught.value) == 143
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_stop_is_noted(number, kind):
    before = signal.getsignal(number)
    with stop_later() as noted:
        assert noted == []
        for _ in range(2):  # torchrun sends it once more
            signal.raise_signal(number)
        assert [type(stop) for stop in noted] == [kind]
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_acts_at_once(monkeypatch):
    monkeypatch.setattr(processes, "_SAME_STOP_SECONDS", -1.0)
    with stop_later():
        for number in (signal.SIGTERM, signal.SIGTERM):
            signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
