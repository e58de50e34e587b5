"""What several commands print: a set, and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tumorgen_cli.system import console
from tumorgen_cli.system.errors import describe_counts

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.evaluate import ScoreReport
    from tumorgen_cli.pipeline.synthesize import SetReport

OTHER_SHARDS = "the same command for the other shards; the last of them finishes the set"


def show_set(report: SetReport) -> None:
    """Print what a set has cost."""
    tally = report.tally
    rejected = describe_counts(tally.rejected) or "none"
    rows = [
        ("pairs", tally.pairs),
        ("made now", tally.made),
        *([("left to other shards", tally.left)] if tally.left else []),
        ("given up", tally.given_up),
        ("draws rejected", f"{rejected} of {tally.draws}"),
        ("windows over a scan's edge", tally.padded),
        ("seconds per pair, file to file", tally.seconds_per_pair),
    ]
    console.table(f"Pairs in {report.folder}", ("what", "number"), rows)


def show_forecast(report: SetReport) -> None:
    """Print what a set will cost."""
    found = report.forecast
    rows = [
        ("pairs that are there", found.there),
        ("pairs to paint", found.missing),
        ("into hosts", found.hosts),
        ("on disk, about", console.size(found.disk_bytes)),
        ("free", console.size(found.free_bytes)),
        ("time, about", "unknown" if found.seconds is None else console.rough_time(found.seconds)),
    ]
    console.table(f"Forecast of {report.folder}; nothing was written", ("what", "number"), rows)


def show_scores(reports: Sequence[ScoreReport]) -> None:
    """Print the scores of sets, a table for each."""
    for report in reports:
        console.table(f"Scores of {report.name} ({report.page})", ("what", "value"), report.rows)
