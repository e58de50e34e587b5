"""Facts of training cases without values of single patients: each number is the mean of at least three patients.

Painting needs the sizes, the characters and the surroundings of tumors, and what scans are like. Tumors of similar
sizes, tumors of similar surroundings, and similar scans are put into groups; each gets the mean of its group. This is
microaggregation (Domingo-Ferrer and Mateo-Sanz, IEEE TKDE 2002), as statistical offices do it: the distribution stays,
its ends move inwards. Sizes, characters and surroundings have groups of their own, so that a mean is of alike values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tumorgen_cli.data.patients import patient_of
from tumorgen_cli.data.surroundings import Surroundings
from tumorgen_cli.geometry import Box, Grid, as_triple
from tumorgen_cli.methods.latent.condition import PATIENT_BUFFERS
from tumorgen_cli.planning.fingerprint import CaseFacts, Fingerprint, TumorFacts
from tumorgen_cli.system.errors import DataError, Fault, say_count

#: the least number of patients in a group: a mean of two tells either of them to whoever knows the other
LEAST_PATIENTS = 3


def check_poolable(dataset: str, patients: int) -> None:
    """Check that there are enough patients with tumors.

    Raises:
        DataError: there are not.
    """
    if patients < LEAST_PATIENTS:
        found = f"{say_count(patients, 'training patient')} with a tumor"
        expected = f"{LEAST_PATIENTS} or more: their values are given pooled"
        remedy = "train on more cases; what is learned from one or two patients is theirs"
        raise DataError("A model would tell of single patients", [Fault(dataset, found, expected, remedy)])


def group_similar(features: np.ndarray, patients: Sequence[str], least: int = LEAST_PATIENTS) -> list[np.ndarray]:
    """Group rows that are alike, so that each group is of `least` patients or more.

    Each group begins with the row that is farthest from the mean of what is left, as in the method MDAV. What is left
    at the end joins the nearest groups.

    Args:
        features: what rows are compared by (N, F); columns are scaled to equal spread, undefined values count as
            their mean.
        patients: the patient of each row.
        least: the least number of different patients in a group.

    Returns:
        The indices of each group.
    """
    points = _scaled(features)
    left, groups = [*range(len(points))], list[list[int]]()
    while len({patients[k] for k in left}) >= least:
        far = left[int(np.square(points[left] - points[left].mean(0)).sum(1).argmax())]
        group = list[int]()
        for at in np.argsort(np.square(points[left] - points[far]).sum(1), kind="stable"):
            group.append(left[int(at)])
            if len({patients[k] for k in group}) >= least:
                break
        groups.append(group)
        left = [k for k in left if k not in group]
    if not groups:
        return [np.array(left, int)]
    centers = np.array([points[group].mean(0) for group in groups])
    for k in left:
        groups[int(np.square(centers - points[k]).sum(1).argmin())].append(k)
    return [np.array(sorted(group)) for group in groups]


def _scaled(features: np.ndarray) -> np.ndarray:
    """Columns of mean 0 and standard deviation 1; 0 where a value is undefined or all are alike."""
    values = np.array(features, np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(0), 1)
    values = np.where(known, values - np.where(known, values, 0).sum(0) / count, 0)
    spread = np.sqrt(np.square(values).sum(0) / count)
    return np.asarray(values / np.where(spread > 0, spread, 1))


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


def pool_buffers(held: Mapping[str, np.ndarray], patients: Sequence[str]) -> dict[str, np.ndarray]:
    """Pool what conditions store of training tumors (`condition.Condition`).

    Args:
        held: the buffers of one stage's weights, by name.
        patients: the patient of each stored tumor, in their order.

    Returns:
        The same buffers with the mean of a group in each used row, the smallest tumors first.
    """
    characters, extents, volumes = PATIENT_BUFFERS
    out, count = dict(held), len(patients)
    for prefix in (name.removesuffix(extents) for name in held if name.endswith(extents)):
        if np.count_nonzero(held[prefix + extents].any(1)) != count:
            raise AssertionError(f"{prefix}: other tumors are stored than the {count} of the training cases")
        edges, sizes = held[prefix + extents][:count], held[prefix + volumes][:count]
        alike = group_similar(np.log(np.column_stack([edges, sizes])), patients)
        order = np.argsort(pool_values(sizes, alike), kind="stable")
        groups = {
            extents: alike,
            volumes: alike,
            characters: group_similar(held[prefix + characters][:count], patients),
        }
        for name, own in groups.items():
            out[prefix + name] = held[prefix + name].copy()
            out[prefix + name][:count] = pool_values(held[prefix + name][:count], own)[order]
    return out


def pool_fingerprint(fingerprint: Fingerprint, train: Sequence[str], patients: Mapping[str, str]) -> Fingerprint:
    """The facts of the training cases without names, places and values of single patients.

    Counts of tumors stay together with pooled body volumes; the tumors of a case are drawn from all.

    Args:
        fingerprint: the fingerprint of the data set.
        train: the training cases.
        patients: the patients of the cases, as far as they are known; else a case is a patient.

    Raises:
        DataError: there are fewer than three training patients with tumors.
    """
    cases = fingerprint.of(train).cases
    having = {patient_of(case.case, patients) for case in cases if case.tumors}
    check_poolable(fingerprint.dataset, len(having))
    whole = _pool_cases(cases, [patient_of(case.case, patients) for case in cases])
    named = [(patient_of(case.case, patients), tumor) for case in cases for tumor in case.tumors]
    tumors = _pool_tumors([tumor for _, tumor in named], [patient for patient, _ in named])
    dealt = iter(np.random.default_rng(0).permutation(len(tumors)))
    order = sorted(range(len(cases)), key=lambda k: (whole[k].body_ml, len(cases[k].tumors)))
    pooled = [
        replace(whole[k], case=unnamed(number), tumors=tuple(tumors[next(dealt)] for _ in cases[k].tumors))
        for number, k in enumerate(order)
    ]
    return replace(fingerprint, path="", cases=tuple(pooled))


def unnamed(number: int) -> str:
    """The name of a training case that is not told."""
    return f"unnamed-training-case-{number + 1:04d}"


def _pool_cases(cases: Sequence[CaseFacts], patients: Sequence[str]) -> list[CaseFacts]:
    """The scans, each with the means of its group and without a position; axes are in the order of the files."""
    spacing = np.array([case.grid.spacing_mm for case in cases])
    extent = np.array([case.grid.extent_mm for case in cases])
    body_ml = np.array([case.body_ml for case in cases])
    width = max(np.size(case.body) for case in cases)
    body = np.array([np.ravel(case.body) if case.body else [np.nan] * width for case in cases])
    groups = group_similar(np.column_stack([np.log(spacing), np.log(extent), body_ml]), patients)
    spacing, extent, body_ml, body = (pool_values(values, groups) for values in (spacing, extent, body_ml, body))
    pooled = []
    for k, case in enumerate(cases):
        shape = as_triple(int(n) for n in np.maximum(1, np.round(extent[k] / spacing[k])))
        grid = Grid(shape, as_triple(map(float, spacing[k])))
        rows = body[k].reshape(len(case.body), -1) if case.body and np.isfinite(body[k]).all() else []
        pooled.append(CaseFacts("", grid, (), tuple(tuple(map(float, row)) for row in rows), float(body_ml[k])))
    return pooled


def _pool_tumors(tumors: Sequence[TumorFacts], patients: Sequence[str]) -> list[TumorFacts]:
    """The tumors without places: their sizes, and their intensities and surroundings, each as the mean of a group."""
    sizes = np.array([[*tumor.extent_mm, tumor.volume_ml] for tumor in tumors])
    sizes = pool_values(sizes, group_similar(np.log(sizes), patients))
    width = max(len(tumor.surroundings.features) if tumor.surroundings else 0 for tumor in tumors)
    around = np.array([t.surroundings.features if t.surroundings else np.full(width, np.nan) for t in tumors])
    inside = np.array([[*tumor.mean, *tumor.contrast] for tumor in tumors])
    groups = group_similar(np.column_stack([around, inside]), patients)
    inside = pool_values(inside, groups)
    shells: dict[int, Surroundings | None] = {}
    for group in groups:
        known = [shell for k in group if (shell := tumors[k].surroundings) is not None]
        enough = len({patients[k] for k in group if tumors[k].surroundings is not None}) >= LEAST_PATIENTS
        shells.update(dict.fromkeys(map(int, group), _pool_surroundings(known) if enough else None))
    return [
        TumorFacts(
            box=Box((0, 0, 0), as_triple(max(1, round(edge)) for edge in sizes[k, :3])),
            volume_ml=float(sizes[k, 3]),
            extent_mm=as_triple(map(float, sizes[k, :3])),
            mean=tuple(map(float, inside[k, : len(tumor.mean)])),
            contrast=tuple(map(float, inside[k, len(tumor.mean) :])),
            center=(0.5, 0.5, 0.5),
            surroundings=shells[k],
        )
        for k, tumor in enumerate(tumors)
    ]


def _pool_surroundings(known: Sequence[Surroundings]) -> Surroundings:
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
