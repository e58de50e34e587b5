"""Copy-paste: real masks of other cases, shrunk only if they do not fit."""

from dataclasses import replace

import numpy as np
import pytest
from support.requests import make_request, opened

from tumorgen_cli.geometry import Box, tight_box
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.system.errors import DataError


def test_a_pasted_tumor_is_a_real_one(trained):
    """The mask has a training tumor's shape, mirrored at most; it never comes from the redrawn case."""
    method, _ = opened("copypaste", trained)
    shapes = {}
    for case, component in method.donors:
        body = np.asarray(case.tumors[component.box.slices] == component.number)
        shapes.setdefault(case.record.case, set()).update(
            np.flip(body, [a for a in range(3) if flips >> a & 1]).tobytes() for flips in range(8)
        )
    whole = make_request(trained, Box((4, 4, 4), (28, 28, 28)))
    donors = set()
    for seed in range(12):
        made = method.synthesize(whole, seed, Sampling())
        donors.add(made.drawn["donor"])
        assert set(np.unique(made.mask)) == {0, 1}
        assert (made.mask[tight_box(made.mask > 0).slices] > 0).tobytes() in shapes[made.drawn["donor"]]
    assert len(donors) > 1
    own = next(iter(donors))
    redraw = replace(whole, case=own)
    assert all(method.synthesize(redraw, seed, Sampling()).drawn["donor"] != own for seed in range(12))


@pytest.mark.parametrize("body", ["thin", "solid"])
def test_a_tumor_larger_than_its_place_is_shrunk_and_never_lost(workspace, body):
    """Even to one voxel, wherever it lies in its scan, and also if it consists of two thin shells."""
    method, rng = opened("copypaste", workspace)[0], np.random.default_rng(0)
    for shape in ((1, 6, 6), (6, 1, 4), (1, 1, 1), (5, 4, 3)):
        for _ in range(20):
            size, start = rng.integers(6, 20, 3), rng.integers(0, 12, 3)
            mask = np.zeros(start + size + rng.integers(0, 12, 3), bool)
            mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
            if body == "thin":
                mask[start[0] + 1 : start[0] + size[0] - 1] = False
            request = make_request(workspace, Box((9, 9, 9), tuple(9 + n for n in shape)))
            image, share, others, sublabels = method._fit(
                np.where(mask, 5.0, 1.0)[None], mask, mask, mask * 2, replace(request, place=request.box)
            )
            assert (sublabels[share] == 2).all()
            assert image.shape[1:] == share.shape == others.shape
            assert all(n <= m for n, m in zip(tight_box(share).shape, shape, strict=True))
            assert image[0, share].mean() > 1.02  # mask and picture are at the same place
            if body == "solid":
                assert tight_box(share).shape == shape
                np.testing.assert_array_equal(share, others)


def test_a_tumor_is_not_its_own_donor(workspace):
    method, _ = opened("copypaste", workspace)
    case = method.donors[0][0].record.case
    method.donors = [donor for donor in method.donors if donor[0].record.case == case]
    with pytest.raises(DataError, match="no other training case with a tumor") as error:
        method.synthesize(make_request(workspace, case=case), 0, Sampling())
    said = "redraw held-out cases (--cases test), paint into tumor-free scans, or take another --method"
    assert error.value.faults[0].remedy == said
    for other in (workspace.splits().test[0], None):
        assert method.synthesize(make_request(workspace, case=other), 0, Sampling()).mask.any()


def test_a_tumor_of_the_same_patient_is_no_donor(workspace):
    method, _ = opened("copypaste", workspace)
    train = workspace.splits().train
    method.patients = dict.fromkeys(train, "p")
    with pytest.raises(DataError, match="no other training case with a tumor"):
        method.synthesize(make_request(workspace, case=train[0]), 0, Sampling())
    method.patients = {train[0]: "p", **dict.fromkeys(train[1:], "q")}
    assert method.synthesize(make_request(workspace, case=train[0]), 0, Sampling()).mask.any()
