"""Sub-labels of painted tumors, such as necrosis and edema: a rule that is learned from the training tumors.

Many methods draw one mask a tumor. If the data set's tumor has several labels, each voxel of the mask gets one of them
by its intensities, its depth in the tumor, and the tumor's size and mean, by a logistic regression. Where most training
tumors have one sub-label each (a cyst beside a tumor), the whole mask gets the most likely one. The rule is checked on
training cases that it has not seen: where it is not better than the commonest sub-label, that one is written.

`preprocess` writes the rule. Methods that paste real tumors carry theirs over. Those that draw sub-labels ask the rule
only whether a tumor has a single one.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from tumorgen_cli.data.labels import values_of
from tumorgen_cli.geometry import Triple
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, load_case
from tumorgen_cli.preprocessing.intensity import channel_units
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import derive_seed, file_version
from tumorgen_cli.system.json_records import hash_value, read_written, write_json

FORMAT = 1
_REMEDY = "run `tumorgen preprocess`"
_SAMPLES = 2000  # voxels of a tumor that the rule is learned from: more tell little, as neighbors are alike
_PURE = 0.95  # share of a tumor's voxels from which on it counts as of one sub-label
_FOLDS = 5
_NO_MODEL: tuple[Any, Any, Any, Any, Any] = ((), (), (), (), ())  # the commonest sub-label is written
_SMOOTH_VOXELS = 1.0  # noise of single voxels tells no sub-label


@dataclass(frozen=True)
class SublabelRule:
    """How sub-labels of a painted tumor are chosen; the content of sublabels.json.

    Attributes:
        format: version of the file.
        inputs_hash: hash of the training cases that it was learned from.
        values: the sub-labels that training tumors have.
        commonest: the sub-label of most voxels, each tumor counted alike.
        whole: whether a tumor has one sub-label.
        low: value of each feature below which it counts as this: the 1st percentile of the training tumors.
        high: the 99th percentile. A painted tumor beyond what was learned is not extrapolated to.
        mean: mean of each feature.
        scale: standard deviation of each feature.
        weights: for each of `values`, the weight of each feature and, last, of a constant; empty if the commonest
            sub-label is written everywhere.
        right: share of a tumor's voxels that the rule gets right in cases that it has not seen; mean over tumors. None
            with a single case.
        right_commonest: the same share for the commonest sub-label of the other cases.
        tumors: number of training tumors.
    """

    format: int
    inputs_hash: str
    values: tuple[int, ...]
    commonest: int
    whole: bool
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()
    weights: tuple[tuple[float, ...], ...] = ()
    right: float | None = None
    right_commonest: float | None = None
    tumors: int = 0

    def __str__(self) -> str:
        if len(self.values) == 1:
            return f"sub-labels, for methods that draw none: all {self.commonest}, the only one in training tumors"
        shares = (
            "too few cases to check a rule"
            if self.right is None or self.right_commonest is None
            else f"in cases not learned from, a learned rule gets {100 * self.right:.0f} % of a tumor right, the "
            f"commonest sub-label alone {100 * self.right_commonest:.0f} %"
        )
        what = "a learned rule" if self.weights else f"the commonest, {self.commonest}"
        return f"sub-labels, for methods that draw none: {what} ({shares})" + ("; one a tumor" if self.whole else "")


@dataclass(frozen=True)
class _Tumor:
    """A training tumor: its case, features (N, F) of sampled voxels, and their sub-labels (N,)."""

    case: str
    features: np.ndarray
    values: np.ndarray


def learn_sublabels(workspace: Workspace, plan: Plan, train: Sequence[str]) -> SublabelRule | None:
    """Learn the rule from the preprocessed training cases and write it, unless it is there already.

    Returns:
        The rule if it was learned now.
    """
    if isinstance(plan.tumor_label, int):
        return None
    cases = [load_case(workspace.cases / case) for case in train]
    content = _inputs_hash(plan, cases)
    path = workspace.sublabels_file
    with contextlib.suppress(StateError):  # there is none, or it is damaged
        if _read(path).inputs_hash == content:
            return None
    rule = _fit(plan, cases, content)
    write_json(path, rule)
    return rule


def _inputs_hash(plan: Plan, cases: Sequence[Case]) -> str:
    return hash_value([FORMAT, plan.tumor_label, [case.record.inputs_hash for case in cases]])


def _read(path: Path) -> SublabelRule:
    return read_written(SublabelRule, path, _REMEDY, "the rule of sub-labels", "Sub-labels cannot be written")


@functools.lru_cache(maxsize=8)
def _read_version(path: Path, _version: object) -> SublabelRule:
    return _read(path)


def read_sublabel_rule(workspace: Workspace) -> SublabelRule:
    """Read the rule of a workspace.

    Raises:
        StateError: there is none, or it is damaged or of another version.
    """
    path = workspace.sublabels_file
    rule = _read_version(path, file_version(path))
    if rule.format != FORMAT:
        fault = Fault(str(path), f"format {rule.format}", f"format {FORMAT}", _REMEDY)
        raise StateError("Sub-labels cannot be written", [fault])
    return rule


def _fit(plan: Plan, cases: Sequence[Case], content: str) -> SublabelRule:
    tumors = [tumor for case in cases for tumor in _tumors_of(plan, case)]
    shares = np.mean([[np.mean(tumor.values == value) for value in values_of(plan.tumor_label)] for tumor in tumors], 0)
    present = tuple(value for value, share in zip(values_of(plan.tumor_label), shares, strict=True) if share)
    commonest = values_of(plan.tumor_label)[int(np.argmax(shares))]
    largest = np.array([max(float(np.mean(each.values == value)) for value in present) for each in tumors])
    whole = float(np.mean(largest >= _PURE)) > 0.5
    plain = SublabelRule(FORMAT, content, present, commonest, whole, tumors=len(tumors))
    if len(present) == 1:
        return plain
    scores = np.array(_hold_out(tumors, whole))
    right, right_commonest = (None, None) if not len(scores) else (float(value) for value in scores.mean(0))
    better = right is not None and right_commonest is not None and right > right_commonest
    model = _fit_model(tumors) if better else _NO_MODEL
    return SublabelRule(FORMAT, content, present, commonest, whole, *model, right, right_commonest, len(tumors))


def _tumors_of(plan: Plan, case: Case) -> list[_Tumor]:
    assert case.sublabels is not None  # the tumor has several labels
    found = []
    for component in case.record.components:
        box = component.box.grown((2, 2, 2), case.record.shape).slices
        mask = case.tumors[box] == component.number
        limits = np.array(case.record.limits)
        features = describe_voxels(
            np.asarray(case.image[(slice(None), *box)]), mask, limits, case.record.spacing_mm, plan
        )
        values = np.asarray(case.sublabels[box][mask])
        rng = np.random.default_rng(derive_seed("sublabels", case.record.case, component.number))
        picked = np.arange(len(values)) if len(values) <= _SAMPLES else rng.integers(len(values), size=_SAMPLES)
        found.append(_Tumor(case.record.case, features[picked], values[picked]))
    return found


def describe_voxels(
    image: np.ndarray, mask: np.ndarray, limits: np.ndarray, spacing_mm: Triple, plan: Plan
) -> np.ndarray:
    """Describe the voxels of a tumor, in the order of `image[:, mask]`.

    Args:
        image: (C, X, Y, Z) in the scan's units.
        mask: the tumor, (X, Y, Z) bool.
        limits: (C, 2), the scan's clip limits.
        spacing_mm: voxel edges.
        plan: the plan.

    Returns:
        Features (N, F): of each channel the intensity in the unit that scans share, smoothed within the tumor, its
        distance from the tumor's mean in standard deviations, and the square of it; the depth as a share of the
        deepest, and its square; the logarithm of the volume.
    """
    columns = []
    weight = ndimage.gaussian_filter(mask.astype(np.float32), _SMOOTH_VOXELS)[mask]
    for channel, (zero, width) in zip(image, channel_units(plan.channels, limits), strict=True):
        own = np.where(mask, (channel.astype(np.float32) - zero) / width, 0)
        values = ndimage.gaussian_filter(own, _SMOOTH_VOXELS)[mask] / weight
        within = (values - values.mean()) / (values.std() or 1)
        columns += [values, within, within**2]
    depth = ndimage.distance_transform_edt(np.pad(mask, 1), spacing_mm)[1:-1, 1:-1, 1:-1][mask]
    depth = depth / depth.max()
    volume = np.full(len(depth), np.log(len(depth) * np.prod(spacing_mm)))
    return np.stack([*columns, depth, depth**2, volume], axis=1)


def _hold_out(tumors: Sequence[_Tumor], whole: bool) -> list[tuple[float, float]]:
    """The shares of each tumor that the rule and the commonest sub-label get right, without its own case."""
    cases = sorted({tumor.case for tumor in tumors})
    scores = []
    for fold in range(min(_FOLDS, len(cases)) if len(cases) > 1 else 0):
        aside = {*cases[fold::_FOLDS]}
        others = [tumor for tumor in tumors if tumor.case not in aside]
        values = sorted({int(value) for tumor in others for value in np.unique(tumor.values)})
        common = max(values, key=lambda value: np.mean([np.mean(tumor.values == value) for tumor in others]))
        model = _fit_model(others) if len(values) > 1 else _NO_MODEL
        rule = SublabelRule(FORMAT, "", tuple(values), common, whole, *model)
        for tumor in tumors:
            if tumor.case in aside:
                logits = _logits(rule, tumor.features)
                found = np.array(values)[(logits.mean(0, keepdims=True) if whole else logits).argmax(1)]
                scores.append((float(np.mean(found == tumor.values)), float(np.mean(common == tumor.values))))
    return scores


def _fit_model(tumors: Sequence[_Tumor]) -> tuple[Any, Any, Any, Any, Any]:
    """Fit the ranges, means, scales and weights of a `SublabelRule`.

    A tumor of N voxels counts as the square root of N observations, because neighbors are alike: with few tumors, the
    weights are small.
    """
    from sklearn.linear_model import LogisticRegression

    features = np.concatenate([tumor.features for tumor in tumors])
    values = np.concatenate([tumor.values for tumor in tumors])
    counts = np.concatenate([np.full(len(tumor.values), len(tumor.values) ** -0.5) for tumor in tumors])
    low, high = np.percentile(features, (1, 99), axis=0)
    features = np.clip(features, low, high)
    mean, scale = features.mean(0), features.std(0)
    scale[scale == 0] = 1
    model = LogisticRegression(max_iter=500).fit((features - mean) / scale, values, counts)
    weights = np.column_stack([model.coef_, model.intercept_])
    if len(weights) == 1:  # of two values, the weights of the second
        weights = np.concatenate([-weights / 2, weights / 2])
    lowest, highest, means, scales = (tuple(each.tolist()) for each in (low, high, mean, scale))
    return lowest, highest, means, scales, tuple(tuple(row) for row in weights.tolist())


def _logits(rule: SublabelRule, features: np.ndarray) -> np.ndarray:
    """The logarithms (N, V) of how likely each of the rule's values is, up to a constant of the voxel."""
    if not rule.weights:
        return np.tile([float(value == rule.commonest) for value in rule.values], (len(features), 1))
    weights = np.array(rule.weights)
    scaled = (np.clip(features, rule.low, rule.high) - np.array(rule.mean)) / np.array(rule.scale)
    logits = scaled @ weights[:, :-1].T + weights[:, -1]
    top = logits.max(1, keepdims=True)
    likely: np.ndarray = logits - top - np.log(np.exp(logits - top).sum(1, keepdims=True))
    return likely


def choose_sublabels(
    rule: SublabelRule, image: np.ndarray, mask: np.ndarray, limits: np.ndarray, spacing_mm: Triple, plan: Plan
) -> np.ndarray:
    """Choose the sub-label of each voxel of a painted tumor; arguments as of `describe_voxels`.

    Returns:
        Voxel values (X, Y, Z), 0 outside the mask.
    """
    made = np.zeros(mask.shape, np.min_scalar_type(max(values_of(plan.tumor_label))))
    if not mask.any():
        return made
    logits = _logits(rule, describe_voxels(image, mask, limits, spacing_mm, plan))
    if rule.whole:
        logits = logits.mean(0, keepdims=True)
    made[mask] = np.array(rule.values)[logits.argmax(1)]
    return made
