"""A killed command leaves nothing broken, and the same command then ends as if nothing had been."""

from __future__ import annotations

import signal
from dataclasses import dataclass

import numpy as np
import pytest
from support.faults import CHAIN, Site, broken_volumes, contents, differences, orphans

pytestmark = pytest.mark.slow
KILLS = 33
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True)
class Kill:
    """A signal to a command after a share of its usual time."""

    command: str
    by: signal.Signals
    share: float

    def __str__(self) -> str:
        return f"{self.command}-{self.by.name}-{self.share:.2f}"


def draw_kills(number: int) -> list[Kill]:
    """Kill each command in turn, in each round by another signal."""
    rng = np.random.default_rng(20261130)
    names, kills = list(CHAIN), []
    for i in range(number):
        turn, at = divmod(i, len(names))
        kills.append(Kill(names[at], SIGNALS[(turn + at) % len(SIGNALS)], float(rng.uniform(0.02, 0.98))))
    return kills


@pytest.mark.parametrize("kill", draw_kills(KILLS), ids=str)
def test_a_killed_command_goes_on_where_it_was(site: Site, kill: Kill) -> None:
    site.back_to(kill.command)
    ended = site.run(kill.command, kill_after=kill.share * site.seconds[kill.command], kill_by=kill.by)
    assert "Traceback" not in ended.text, ended.text
    if kill.by != signal.SIGKILL:
        assert ended.code in (0, 128 + kill.by, -kill.by), ended.text
    assert orphans(site.place) == []
    assert broken_volumes(site.place) == []
    again = site.run(kill.command)
    assert again.ok, again.text
    assert differences(site.left[kill.command], contents(site.place)) == []
