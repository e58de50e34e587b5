"""Painted tumors beside the real ones that they replace."""

import math

import numpy as np
import pytest

from tumorgen_cli.evaluation.redrawn import Redraw, summarize_redrawn
from tumorgen_cli.metrics.overlap import UNJUDGED, Verdict

VOLUMES, CONTRASTS = np.array([1.0, 2.0, 3.0, 4.0]), np.array([-4.0, 3.0, math.nan, 2.0, -1.0])  # tertiles 2, 3; 2, 3


def verdict(dice, surface_dice):
    return Verdict(dice, surface_dice, dice, 1, 0, 0)


def redraw(host, volume, contrast, gain, judged=True):
    ours, theirs = (verdict(0.5 + gain, 0.4 + 2 * gain), verdict(0.5, 0.4)) if judged else (UNJUDGED, UNJUDGED)
    return Redraw(host, 2 * volume, volume, contrast, ours, theirs)


def test_differences_to_the_same_tumor_in_all_and_by_size_and_contrast():
    """A dark tumor of high contrast is no low-contrast one; a value on a bound belongs above it."""
    redraws = [
        redraw("a", 1.9, -3.5, 0.2),
        redraw("b", 1.0, 5.0, 0.0),
        redraw("c", 2.0, 1.9, -0.1),
        redraw("d", 9.0, 1.0, 0.3, judged=False),
    ]
    found = summarize_redrawn(redraws, VOLUMES, CONTRASTS)
    assert (found.volume.count, found.volume.median) == (4, 2)
    names = [(each.size, each.contrast) for each in found.strata]
    assert names == [("", ""), ("small", "high"), ("medium", "low")]
    means = [(each.dice.mean, each.surface_dice.mean, each.dice.count) for each in found.strata]
    np.testing.assert_allclose(means, [(0.1 / 3, 0.2 / 3, 3), (0.1, 0.2, 2), (-0.1, -0.2, 1)], atol=1e-12)
    low, high = found.strata[0].dice.low, found.strata[0].dice.high
    assert -0.1 <= low < 0.1 / 3 < high <= 0.2


@pytest.mark.parametrize(("pairs", "hosts", "few"), [(5, 3, False), (4, 3, True), (5, 2, True)])
def test_strata_of_few_pairs_or_hosts_are_marked(pairs, hosts, few):
    redraws = [redraw(f"h{i % hosts}", 1.0, 1.0, 0.0) for i in range(pairs)]
    assert [each.few for each in summarize_redrawn(redraws, VOLUMES, CONTRASTS).strata] == [few, few]


def test_without_a_judge_there_are_volumes_alone():
    found = summarize_redrawn([redraw("a", 1.0, 1.0, 0.0, judged=False)], VOLUMES, CONTRASTS)
    assert found.strata == ()
    assert found.volume.count == 1
