"""What several commands print: a set, scores, forecasts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tumorgen_cli.system import console
from tumorgen_cli.system.errors import describe_counts

if TYPE_CHECKING:
    from tumorgen_cli.pipeline.evaluate import ScoreReport
    from tumorgen_cli.pipeline.run_forecast import RunForecast
    from tumorgen_cli.pipeline.synthesize import SetReport
    from tumorgen_cli.pipeline.training_forecast import TrainingForecast

WITHOUT_DRY_RUN = "the same command without --dry-run"
OTHER_SHARDS = "the same command for the other shards; the last of them finishes the set"


def show_set(report: SetReport) -> None:
    """Print what a set has cost."""
    tally = report.tally
    rejected = describe_counts(tally.rejected) or "none"
    rows = [
        ("pairs", tally.pairs),
        ("tumors", f"{tally.tumors}" + (f"; {tally.left_out} more did not pass" if tally.left_out else "")),
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


def show_costs(
    found: RunForecast | TrainingForecast,
    needed: int,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    what: str,
    as_json: bool,
) -> None:
    """Print what several steps will cost, with a warning if it does not fit on the disk.

    Args:
        found: The costs.
        needed: The bytes that all steps need.
        columns: Titles of the table.
        rows: A row for each step.
        what: What needs the space, for the warning.
        as_json: Print JSON instead of the table.
    """
    if as_json:
        console.print_json(found)
    else:
        console.table(f"Forecast; nothing was written; {console.size(found.free_bytes)} are free", columns, rows)
    if needed > found.free_bytes:
        console.warn(f"the disk is too full for {what}: free some space first")


def show_scores(reports: Sequence[ScoreReport]) -> None:
    """Print the scores of sets, a table for each."""
    for report in reports:
        console.table(f"Scores of {report.name} ({report.page})", ("what", "value"), report.rows)
