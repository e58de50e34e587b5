"""Facts of training cases without values of single patients: each number is the mean of at least three cases.

Painting needs the sizes, the characters and the surroundings of tumors, and what scans are like. Tumors that are next
to each other in volume, and scans that are next to each other in body volume, are put into groups; each gets the mean
of its group. This is microaggregation (Domingo-Ferrer and Mateo-Sanz, IEEE TKDE 2002), as statistical offices do it:
the distribution stays, its ends move inwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tumorgen_cli.data.surroundings import Surroundings
from tumorgen_cli.geometry import Box, Grid, as_triple
from tumorgen_cli.methods.latent.condition import PATIENT_BUFFERS
from tumorgen_cli.planning.fingerprint import CaseFacts, Fingerprint, TumorFacts
from tumorgen_cli.system.errors import DataError, Fault

#: the least number of cases in a group: a mean of two tells either of them to whoever knows the other
LEAST_CASES = 3
_UNTURNED = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def check_poolable(dataset: str, cases: int) -> None:
    """Check that there are enough cases with tumors.

    Raises:
        DataError: there are not.
    """
    if cases < LEAST_CASES:
        found, expected = (
            f"{cases} training cases with a tumor",
            f"{LEAST_CASES} or more: their values are given pooled",
        )
        remedy = "train on more cases; what is learned from one or two patients is theirs"
        raise DataError("A model would tell of single patients", [Fault(dataset, found, expected, remedy)])


def group_neighbors(order: np.ndarray, cases: Sequence[str], least: int = LEAST_CASES) -> list[np.ndarray]:
    """Group values that are next to each other, so that each group is of `least` cases or more.

    Args:
        order: what the values are ordered by (N,).
        cases: the case of each value.
        least: the least number of different cases in a group.

    Returns:
        The indices of each group. What is left at the end joins the last group.
    """
    groups, group, known = list[list[int]](), list[int](), set[str]()
    for index in np.argsort(order, kind="stable"):
        group.append(int(index))
        known.add(cases[index])
        if len(known) >= least:
            groups.append(group)
            group, known = [], set()
    if group:
        groups = [*groups[:-1], [*(groups[-1] if groups else []), *group]]
    return [np.array(sorted(each)) for each in groups]


def pool_values(values: np.ndarray, groups: Sequence[np.ndarray]) -> np.ndarray:
    """Replace each row (N, ...) by the mean of its group; undefined values (NaN) do not count."""
    out = np.array(values, copy=True)
    for group in groups:
        part = np.asarray(values[group], np.float64)
        known = np.isfinite(part)
        count = known.sum(0)
        total = np.where(known, part, 0).sum(0)
        out[group] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    return out


def pool_buffers(held: Mapping[str, np.ndarray], cases: Sequence[str]) -> dict[str, np.ndarray]:
    """Pool what conditions store of training tumors (`condition.Condition`).

    Args:
        held: the buffers of one stage's weights, by name.
        cases: the case of each stored tumor, in their order.

    Returns:
        The same buffers with the mean of a group in each used row, the smallest tumors first.
    """
    _, extents, volumes = PATIENT_BUFFERS
    out = dict(held)
    for prefix in (name.removesuffix(extents) for name in held if name.endswith(extents)):
        count = len(cases)
        if np.count_nonzero(held[prefix + extents].any(1)) != count:
            raise AssertionError(f"{prefix}: other tumors are stored than the {count} of the training cases")
        order = np.argsort(held[prefix + volumes][:count], kind="stable")
        groups = group_neighbors(held[prefix + volumes][:count], cases)
        for name in (prefix + each for each in PATIENT_BUFFERS):
            out[name] = held[name].copy()
            out[name][:count] = pool_values(held[name][:count], groups)[order]
    return out


def pool_fingerprint(fingerprint: Fingerprint, train: Sequence[str]) -> Fingerprint:
    """The facts of the training cases without names, places and values of single patients.

    Counts of tumors stay together with pooled body volumes; the tumors of a case are drawn from all.

    Args:
        fingerprint: the fingerprint of the data set.
        train: the training cases.

    Raises:
        DataError: there are fewer than three training cases with tumors.
    """
    cases = fingerprint.of(train).cases
    check_poolable(fingerprint.dataset, sum(bool(case.tumors) for case in cases))
    ordered = sorted(cases, key=lambda case: case.body_ml)
    groups = group_neighbors(np.array([case.body_ml for case in ordered]), [case.case for case in ordered])
    whole = [_pool_cases([ordered[k] for k in group]) for group in groups]
    place = {int(k): number for number, group in enumerate(groups) for k in group}
    tumors = _pool_tumors([(case.case, tumor) for case in cases for tumor in case.tumors])
    dealt = iter(np.random.default_rng(0).permutation(len(tumors)))
    pooled = []
    for number, case in enumerate(ordered):
        own = tuple(tumors[next(dealt)] for _ in case.tumors)
        pooled.append(replace(whole[place[number]], case=unnamed(number), tumors=own))
    return replace(fingerprint, path="", cases=tuple(pooled))


def unnamed(number: int) -> str:
    """The name of a training case that is not told."""
    return f"unnamed-training-case-{number + 1:04d}"


def _pool_cases(cases: Sequence[CaseFacts]) -> CaseFacts:
    """What a group of cases has in common; axes are in the order of the files."""
    spacing = np.mean([case.grid.spacing_mm for case in cases], axis=0)
    extent = np.mean([case.grid.extent_mm for case in cases], axis=0)
    shape = as_triple(int(n) for n in np.maximum(1, np.round(extent / spacing)))
    body = [np.array(case.body) for case in cases if case.body]
    levels = np.mean(body, axis=0).tolist() if body else []
    grid = Grid(shape, as_triple(map(float, spacing)), (0.0, 0.0, 0.0), _UNTURNED)
    return CaseFacts("", grid, (), tuple(map(tuple, levels)), float(np.mean([case.body_ml for case in cases])))


def _pool_tumors(named: Sequence[tuple[str, TumorFacts]]) -> list[TumorFacts]:
    """The tumors, each with the means of its group and without a place; a group is of three cases or more."""
    groups = group_neighbors(np.array([tumor.volume_ml for _, tumor in named]), [case for case, _ in named])
    pooled = []
    for group in groups:
        tumors = [named[k][1] for k in group]
        extent = as_triple(map(float, _mean([tumor.extent_mm for tumor in tumors])))
        facts = TumorFacts(
            box=Box((0, 0, 0), as_triple(max(1, round(edge)) for edge in extent)),
            volume_ml=float(_mean([tumor.volume_ml for tumor in tumors])),
            extent_mm=extent,
            mean=tuple(map(float, _mean([tumor.mean for tumor in tumors]))),
            contrast=tuple(map(float, _mean([tumor.contrast for tumor in tumors]))),
            center=(0.5, 0.5, 0.5),
            surroundings=_pool_surroundings([tumor.surroundings for tumor in tumors if tumor.surroundings]),
        )
        pooled += [facts] * len(group)
    return pooled


def _pool_surroundings(known: Sequence[Surroundings]) -> Surroundings | None:
    if not known:
        return None
    return Surroundings(
        reach_mm=float(_mean([each.reach_mm for each in known])),
        levels=tuple(tuple(map(float, levels)) for levels in _mean([each.levels for each in known])),
        texture=tuple(map(float, _mean([each.texture for each in known]))),
        in_body=float(_mean([each.in_body for each in known])),
        tumor_in_body=float(_mean([each.tumor_in_body for each in known])),
    )


def _mean(rows: Sequence[object]) -> np.ndarray:
    """The mean of each column over the rows in which it is defined; NaN where it is in none."""
    values = np.array(rows, float)
    return pool_values(values, [np.arange(len(values))])[0]
