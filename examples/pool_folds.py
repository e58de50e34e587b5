"""The folds of a cross-validation with `downstream`, as one experiment. Nothing is trained.

    for k in 0 1 2 3 4; do
        tumorgen plan DATASET --fold $k -w work_$k && tumorgen preprocess -w work_$k
        tumorgen downstream --healthy healthy --fractions 0.25 -w work_$k
    done
    python examples/pool_folds.py work_0 work_1 work_2 work_3 work_4 -o OUT.csv

Each fold is a draw of the real cases with test patients of its own. Draws within a fold are averaged first, so that
the t interval is over folds. The bootstrap is over all patients.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from origin import origin_and_command

from tumorgen_cli.evaluation.scan_scores import pool_folds, read_rows
from tumorgen_cli.evaluation.trials import analyze
from tumorgen_cli.evaluation.verdicts import Primary
from tumorgen_cli.studies.downstream_tables import COLUMNS, arm_rows, gains_csv
from tumorgen_cli.system import console
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import read_record


def main(
    works: Annotated[list[Path], typer.Argument(help="A workspace for each fold, in which `downstream` has run.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Write all measures and gains to this CSV file.")
    ] = None,
) -> None:
    """Print the arms over all folds, and the comparison that was named before training in the first of them."""
    rows = pool_folds({str(work): read_rows(work / "downstream" / "scores.jsonl") for work in works})
    named = works[0] / "downstream" / "primary.json"
    primary = read_record(Primary, named, "run `tumorgen downstream` again") if named.is_file() else None
    found = analyze(rows, primary)
    title = f"{len({row.patient for row in rows})} patients in {len(works)} folds"
    console.table(title, ("real cases", "arm", "folds", *COLUMNS), arm_rows(found))
    for sentence in [*([found.primary.verdict] if found.primary else []), *found.silent]:
        console.note(sentence)
    if out is not None:
        write_text(out, gains_csv(found))
    print(origin_and_command())


if __name__ == "__main__":
    typer.run(main)
