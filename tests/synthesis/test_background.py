"""The next host is read and the last pair written beside the painting, in order and within memory."""

import threading

import pytest

from tumorgen_cli.synthesis.background import Background

SECONDS = 20.0  # until a thread that waits in vain gives up


def test_the_next_host_is_read_and_the_last_pair_is_written_meanwhile():
    reading, writing = threading.Event(), threading.Event()

    def read_second():
        reading.set()
        return 2

    def write():
        writing.set()
        assert painted.wait(SECONDS)
        return "written"

    painted = threading.Event()
    with Background([lambda: 1, read_second]) as background:
        assert background.next_host() == 1
        assert reading.wait(SECONDS)  # the first host is painted into now
        background.write(write)
        assert background.next_host() == 2
        assert writing.wait(SECONDS)
        painted.set()
        assert background.finish() == "written"
        assert background.finish() is None


def test_a_host_is_read_when_the_one_before_the_last_is_written():
    """Memory holds two hosts, also if writing is slow."""
    read, may_end = [], threading.Event()
    with Background([lambda number=number: read.append(number) or number for number in range(4)]) as background:
        background.next_host()
        background.write(lambda: may_end.wait(SECONDS))
        assert background.next_host() == 1
        assert not threading.Event().wait(0.2)
        assert read == [0, 1]
        may_end.set()
        assert background.next_host() == 2
        assert read[:3] == [0, 1, 2]


def test_errors_of_the_threads_are_raised_where_their_result_is_asked_for():
    def broken():
        raise OSError("broken")

    with Background([broken, lambda: 2, broken]) as background:
        with pytest.raises(OSError, match="broken"):
            background.next_host()
        assert background.next_host() == 2
        background.write(broken)
        with pytest.raises(OSError, match="broken"):
            background.finish()


def test_after_an_error_the_pair_is_written_whole_and_nothing_more_is_read():
    read, written, may_end = [], [], threading.Event()

    def paint():
        with Background([lambda number=number: read.append(number) for number in range(3)]) as background:
            background.next_host()
            background.write(lambda: may_end.wait(SECONDS) and written.append(0))
            background.next_host()
            threading.Timer(0.1, may_end.set).start()
            raise ValueError("while painting")

    with pytest.raises(ValueError, match="while painting"):
        paint()
    assert (read, written) == ([0, 1], [0])


def test_without_threads_hosts_are_read_and_pairs_are_written_when_they_are_asked_for():
    done = []
    with Background([lambda number=number: done.append(number) or number for number in range(2)], False) as background:
        assert done == []
        assert background.next_host() == 0
        assert done == [0]
        background.write(lambda: done.append("written") or "a pair")
        assert done == [0, "written"]
        assert background.finish() == "a pair"
        assert background.next_host() == 1
