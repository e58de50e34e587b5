"""One table of several methods that painted into the same places: their scores, beside real cases, and their cost.

Reads the sets' scores and provenance and the runs of the stages. Writes comparison.csv and comparison.json.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tumorgen_cli.evaluation.scores import ALL_PLANES, Scores, values_of
from tumorgen_cli.metrics.statistics import ks_distance
from tumorgen_cli.metrics.summary import Summary, summarize
from tumorgen_cli.synthesis.provenance import Provenance
from tumorgen_cli.synthesis.set_files import count_rejected
from tumorgen_cli.system.errors import say_count
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.json_records import none_for_nan, to_plain, write_json
from tumorgen_cli.training.checkpoints import read_run

_PLANES = {"axial": "axial", "sagittal": "sagittal", "coronal": "coronal", ALL_PLANES: "mean"}
_KS = {"volume_ml": "volume", "mean": "mean intensity", "contrast": "contrast"}
_NAN = math.nan


@dataclass(frozen=True)
class Value:
    """A number and its 95 % interval (nan: none).

    Attributes:
        value: The number.
        low: Lower end of its interval.
        high: Upper end of its interval.
        counts: Of a distance: the numbers of synthetic and real slices it is computed from.
        note: A remark, or why there is no number.
    """

    value: float
    low: float = _NAN
    high: float = _NAN
    counts: tuple[int, int] | None = None
    note: str = ""

    @property
    def defined(self) -> bool:
        """Whether there is a number."""
        return math.isfinite(self.value)


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        key: Key of its values.
        group: The heading above its title.
        title: Its title.
        best: Which values are best; empty: no value is marked.
        apart: What separates two values: their intervals, or the width of the real row's interval.
        unit: How values are printed.
    """

    key: str
    group: str
    title: str
    best: Literal["high", "low", "half", ""] = ""
    apart: Literal["intervals", "real"] = "intervals"
    unit: Literal["", "%", "count"] = ""


COLUMNS = (
    Column("dice", "agreement with the judge", "DSC", "high"),
    Column("surface_dice", "agreement with the judge", "NSD", "high"),
    Column("proportion", "agreement with the judge", "P", "high"),
    *(
        Column(f"kernel_{plane}", "kernel distance, tumor slices", title, "low", "real")
        for plane, title in _PLANES.items()
    ),
    *(
        Column(f"frechet_{plane}", "Fréchet distance, tumor slices", title, "low", "real")
        for plane, title in _PLANES.items()
    ),
    Column("auc", "reader test", "AUC", "half"),
    Column("near_copies", "novelty", "near-copies", unit="count"),
    Column("singled_out", "novelty", "singled out", unit="count"),
    *(Column(f"ks_{key}", "KS to training tumors", title) for key, title in _KS.items()),
    Column("low-contrast", "share of hard tumors", "low-contrast", unit="%"),
    Column("necrotic", "share of hard tumors", "necrotic", unit="%"),
    Column("heterogeneous", "share of hard tumors", "heterogeneous", unit="%"),
    Column("pairs", "painting", "pairs", unit="count"),
    Column("given_up", "painting", "given up", unit="count"),
    Column("rejected", "painting", "draws rejected", unit="%"),
    Column("seconds_total", "painting", "s a pair, file to file", "low"),
    Column("seconds_method", "painting", "s a pair, the method", "low"),
)
RULE = (
    "A value is marked as the best of its measure if it differs clearly from every other method's value on the "
    "same hosts. Two values differ clearly if their 95 % intervals do not overlap (intervals of the mean over "
    "pairs; for the AUC, of its distance from 0.5). Two distances differ clearly if their difference is larger "
    "than the width of the real-against-real interval. Distances are compared only between sets that use as many "
    "slices as the real cases, because few slices make a Fréchet distance larger. Measures without an interval are "
    "never marked."
)


@dataclass(frozen=True)
class Paper:
    """What TumorGen's paper reports of a method; a field is empty where the paper reports nothing."""

    name: str
    fid: str
    alignment: str = ""
    seconds: str = ""


PAPER_SOURCE = "Liu, Chen et al., TumorGen (2025), Tables 1 to 3"
#: FID, mean of three planes, on Hecktor / AutoPET; DSC / NSD with an nnU-Net on Hecktor; seconds a sample with its
#: sampler
PAPER = {
    "tumorgen": Paper("TumorGen", "52.0 / 72.4", "0.694 / 0.741", "0.218 (RFM-10), 1.061 (RFM-50)"),
    "difftumor": Paper("DiffTumor", "66.8 / 84.9", "", "1.226 (DDPM-50)"),
    "blended": Paper("BLD", "68.7 / 98.6"),
    "syntumor": Paper("SynTumor", "89.7 / 109.0"),
}
PAPER_NOTE = (
    f"Gray: {PAPER_SOURCE}; FID of middle slices on Hecktor / AutoPET, DSC / NSD on Hecktor. The paper used other "
    "data, features and hardware: compare the order of the methods with this table, not the values. The paper's "
    "two generators of whole volumes, HA-GAN (118.6 / 137.0) and MedFusion (119.3 / 134.8), are not included: "
    "they do not paint a tumor into a given scan."
)


@dataclass(frozen=True)
class StageCost:
    """The cost of a trained stage and the numbers it measured, from its run.json.

    `planned` is the plan's number of steps.
    """

    stage: str
    steps: int
    planned: int
    seconds: float
    device: str
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class MethodEntry:
    """A method on one set of hosts. `failure` says why there are no values; it is empty where there are."""

    method: str
    folder: str
    failure: str
    values: dict[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class PaintedSet:
    """A method's set: its scores, its pairs, and the log lines of the pairs that were given up, by case."""

    folder: Path
    scores: Scores
    lines: Sequence[Provenance]
    given_up: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Table:
    """Every method on one set of hosts.

    Attributes:
        hosts: Name of the hosts.
        pairs: Pairs that were requested of each method.
        alike: Number of pairs that lie in the same box in every set.
        real: Values of real cases.
        entries: The methods.
        best: By column, the method that is marked as best.
    """

    hosts: str
    pairs: int
    alike: int
    real: dict[str, Value]
    entries: tuple[MethodEntry, ...]
    best: dict[str, str]


@dataclass(frozen=True)
class Comparison:
    """A whole comparison.

    Attributes:
        name: Name of its folder.
        dataset: The data set that methods learn from.
        plan_hash: Hash of the plan.
        seed: Seed of the pairs.
        budget: The training length in words.
        channel: Name of the main channel.
        judge: Which judge scored, how long it was trained and its scores on real held-out cases; empty without one.
        features: Network of the distances.
        is_fid: Whether distances may be called FID.
        tolerance_mm: Tolerance of the surface Dice.
        training: The stages of every method; empty for a method that needs no training.
        tables: A table for each set of hosts.
    """

    name: str
    dataset: str
    plan_hash: str
    seed: int
    budget: str
    channel: str
    judge: str
    features: str
    is_fid: bool
    tolerance_mm: float
    training: dict[str, tuple[StageCost, ...]]
    tables: tuple[Table, ...]


def make_table(
    hosts: str, pairs: int, methods: Sequence[str], made: Mapping[str, PaintedSet], failures: Mapping[str, str]
) -> Table:
    """Make the table of one set of hosts, with a row for each method.

    Args:
        hosts: Name of the hosts.
        pairs: Pairs that were requested of each method.
        methods: The methods in the order of the rows.
        made: The sets by method.
        failures: By method, why it has no set.
    """
    entries = []
    for method in methods:
        if method in failures:
            entries.append(MethodEntry(method, "", failures[method]))
        else:
            entries.append(MethodEntry(method, str(made[method].folder), "", set_values(made[method])))
    real = real_values([each.scores for each in made.values()])
    entries = [
        replace(entry, values={key: _beside(value, real.get(key)) for key, value in entry.values.items()})
        for entry in entries
    ]
    best = {column.key: best_of(column, real, entries) for column in COLUMNS}
    alike = len(shared_places([each.lines for each in made.values()]))
    return Table(hosts, pairs, alike, real, tuple(entries), {key: method for key, method in best.items() if method})


def shared_places(sets: Sequence[Sequence[Provenance]]) -> list[str]:
    """List the cases whose boxes were drawn the same, in the same host, in every set.

    A rejected draw moves the box in its own set only.
    """
    places = [
        {line.case: (line.host_hash, [tumor.requested_box for tumor in line.tumors]) for line in lines}
        for lines in sets
    ]
    return (
        [case for case, place in places[0].items() if all(each.get(case) == place for each in places)] if places else []
    )


def set_values(made: PaintedSet) -> dict[str, Value]:
    """Collect the values of a set, by column."""
    scores, lines = made.scores, made.lines
    rejected = count_rejected(lines, made.given_up).total()
    found = {m.field: _mean(m.synthetic) for m in scores.agreement.measures}
    for p in scores.planes:
        if p.place == "tumor":
            unclear = "too few slices to differ from real" if p.unclear else ""
            found[f"{p.measure}_{p.plane}"] = Value(
                p.matched.value, p.matched.low, p.matched.high, p.matched.counts, unclear
            )
    found["auc"] = Value(scores.reader.auc, scores.reader.low, scores.reader.high, note=scores.reader.reason)
    copies = {"near_copies": scores.novelty.near_copies, "singled_out": scores.novelty.singled_out}
    found |= {key: Value(number, note=scores.novelty.reason) for key, number in copies.items()}
    found |= {f"ks_{c.field}": Value(c.ks) for c in scores.comparisons if c.field in _KS}
    found |= {share.kind: Value(share.synthetic) for share in scores.shares}
    found |= {"pairs": Value(len(lines)), "given_up": Value(len(made.given_up))}
    found["rejected"] = Value(rejected / (rejected + sum(len(line.tumors) for line in lines)))
    for part in ("total", "method"):
        found[f"seconds_{part}"] = _mean(
            summarize(np.array([line.seconds.get(part, _NAN) for line in lines]), f"seconds {part}")
        )
    return found


def real_values(sets: Sequence[Scores]) -> dict[str, Value]:
    """Collect the values of real cases.

    They are: agreement and KS of the held-out cases, distances of real from real cases, and shares of the training
    tumors. They are taken from the set whose distances use the most slices, because few slices make a distance larger.
    """
    if not sets:
        return {}
    scores = max(sets, key=lambda each: max((p.floor.counts for p in each.planes), default=(0, 0)))
    found = {m.field: _mean(m.real) for m in scores.agreement.measures}
    found |= {
        f"{p.measure}_{p.plane}": Value(p.floor.value, p.floor.low, p.floor.high, p.floor.counts)
        for p in scores.planes
        if p.place == "tumor"
    }
    found["auc"] = Value(0.5)
    found |= {
        f"ks_{key}": Value(ks_distance(*(values_of(scores.of(group), key) for group in ("test", "train"))))
        for key in _KS
    }
    return found | {share.kind: Value(share.training) for share in scores.shares}


def _mean(s: Summary) -> Value:
    return Value(s.mean, s.low, s.high)


def _beside(value: Value, real: Value | None) -> Value:
    """Add a note to a distance that uses fewer slices than the real row's and is larger for that reason alone."""
    if value.counts is None or real is None or value.counts == real.counts:
        return value
    return replace(value, note=f"of only {value.counts[0]} against {say_count(value.counts[1], 'slice')}")


def best_of(column: Column, real: Mapping[str, Value], entries: Iterable[MethodEntry]) -> str:
    """Return the method with the best value of a column if it differs clearly from every other method (see `RULE`).

    Without such a method the result is empty.
    """
    counts = real[column.key].counts if column.key in real else None
    known = {e.method: e.values[column.key] for e in entries if column.key in e.values}
    found = {method: value for method, value in known.items() if value.defined and value.counts == counts}
    if column.best == "half":
        found = {method: _from_half(value) for method, value in found.items()}
    if not column.best or len(found) < 2:
        return ""
    first, *others = sorted(found, key=lambda method: found[method].value, reverse=column.best == "high")
    best = found[first]
    if column.apart == "real":
        floor = real.get(column.key, Value(_NAN))
        apart = all(abs(found[other].value - best.value) > floor.high - floor.low for other in others)
    else:
        apart = all(best.high < found[other].low or found[other].high < best.low for other in others)
    return first if apart else ""


def _from_half(value: Value) -> Value:
    """Return the distance of a value from one half, with its interval."""
    low, high = value.low - 0.5, value.high - 0.5
    return Value(abs(value.value - 0.5), 0.0 if low < 0 < high else min(abs(low), abs(high)), max(abs(low), abs(high)))


def stage_runs(folders: Mapping[str, Path], planned: Mapping[str, int]) -> tuple[StageCost, ...]:
    """Read the finished stages of a method from the folders of its runs."""
    runs = {stage: read_run(folder) for stage, folder in folders.items() if (folder / "run.json").is_file()}
    return tuple(
        StageCost(stage, run.iterations, planned[stage], run.seconds, run.device, run.numbers)
        for stage, run in runs.items()
    )


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write comparison.csv and comparison.json."""
    write_text(folder / "comparison.csv", comparison_csv(comparison))
    write_json(folder / "comparison.json", none_for_nan(to_plain(comparison)))


def comparison_csv(comparison: Comparison) -> str:
    """Write the comparison as CSV: a row for real cases and each method on each set of hosts.

    The interval of a value is in two columns beside it.
    """
    text = io.StringIO()
    sheet = csv.writer(text, lineterminator="\n")
    keys = [f"{column.key.replace(' ', '_')}{part}" for column in COLUMNS for part in ("", "_low", "_high")]
    paper_keys = ("paper_fid_hecktor_autopet", "paper_dsc_nsd", "paper_seconds")
    sheet.writerow(["hosts", "method", *keys, "best", "training_steps", "training_minutes", *paper_keys, "failure"])
    for table in comparison.tables:
        for entry in (MethodEntry("real", "", "", table.real), *table.entries):
            values = [entry.values.get(column.key, Value(_NAN)) for column in COLUMNS]
            numbers = ["" if not math.isfinite(n) else f"{n:.6g}" for v in values for n in (v.value, v.low, v.high)]
            best = " ".join(key for key, method in table.best.items() if method == entry.method)
            runs, paper = comparison.training.get(entry.method, ()), PAPER.get(entry.method, Paper("", ""))
            steps, minutes = (
                " ".join(f"{run.stage}:{run.steps}" for run in runs),
                f"{sum(run.seconds for run in runs) / 60:.1f}",
            )
            cost = [steps, minutes] if entry.method in comparison.training else ["", ""]
            theirs = (paper.fid, paper.alignment, paper.seconds)
            sheet.writerow([table.hosts, entry.method, *numbers, best, *cost, *theirs, entry.failure])
    return text.getvalue()


def group_of(column: Column, is_fid: bool) -> str:
    """Return the heading of a column; distances are called FID and KID only in the features that define these."""
    return column.group.replace("Fréchet distance", "FID").replace("kernel distance", "KID") if is_fid else column.group


def format_value(column: Column, value: Value | None) -> tuple[str, str]:
    """Return a value as text, and its interval as text (empty: none)."""
    if value is None or not value.defined:
        return "–", ""
    if column.unit == "%":
        return f"{100 * value.value:.0f} %", ""
    if column.unit == "count":
        return f"{value.value:.0f}", ""
    digits = 0 if abs(value.value) >= 100 else 1 if abs(value.value) >= 10 else 3
    around = (
        f"{value.low:.{digits}f} to {value.high:.{digits}f}"
        if math.isfinite(value.low) and value.high > value.low
        else ""
    )
    return f"{value.value:.{digits}f}", around


def table_rows(table: Table, comparison: Comparison) -> list[tuple[str, ...]]:
    """Return the table of one set of hosts for the terminal.

    It has a row for each measure, and a column for real cases and for each method that did not fail.
    """
    entries = [MethodEntry("real", "", "", table.real), *(entry for entry in table.entries if not entry.failure)]
    rows = []
    for column in COLUMNS:
        cells = []
        for entry in entries:
            value = entry.values.get(column.key)
            text, around = format_value(column, value)
            mark = " *" if table.best.get(column.key) == entry.method else ""
            cells.append(
                text + (f" [{around}]" if around else "") + (f" ({value.note})" if value and value.note else "") + mark
            )
        rows.append((f"{group_of(column, comparison.is_fid)}: {column.title}", *cells))
    runs = [comparison.training.get(entry.method, ()) for entry in entries]
    rows.append(("training: steps", *(", ".join(f"{run.stage} {run.steps}" for run in each) or "–" for each in runs)))
    rows.append(
        ("training: minutes", *(f"{sum(run.seconds for run in each) / 60:.1f}" if each else "–" for each in runs))
    )
    papers = [PAPER.get(entry.method, Paper("", "")) for entry in entries]
    for title, name in (("FID, Hecktor / AutoPET", "fid"), ("DSC / NSD", "alignment"), ("s a sample", "seconds")):
        rows.append((f"the paper (other data): {title}", *(getattr(paper, name) or "–" for paper in papers)))
    return rows
