"""Requests to paint, cut from a preprocessed case; opened methods; checks of what a method made."""

from __future__ import annotations

import json

import numpy as np

from tumorgen_cli.geometry import Box, cut
from tumorgen_cli.methods.base import Request
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.preprocessing.cases import load_case

BOX = Box((8, 9, 10), (21, 22, 19))


def make_request(workspace, box=BOX, shape=(32, 32, 32), offset=(4, 2, 1), case=None):
    """A window of a held-out case, as the pipeline cuts it; read-only, so that writing to it fails."""
    plan, name = workspace.plan(), workspace.splits().test[0]
    scan = load_case(workspace.cases / name)
    image = cut(scan.image, offset, shape).astype(np.float32)
    image.setflags(write=False)
    limits = np.array(scan.record.limits, np.float32)
    fade = [n >= 8 for n in box.shape]
    place = Box(
        tuple(a + f for a, f in zip(box.start, fade, strict=True)),
        tuple(b - f for b, f in zip(box.stop, fade, strict=True)),
    )
    return Request(image, box, place, limits, plan.window.spacing_mm, case)


def opened(name, workspace):
    """A method of a workspace, loaded, and the hashes of what it loaded."""
    method = find_method(name)(workspace.plan(), workspace)
    return method, method.load()


def same_result(a, b):
    """Whether two results have the same image and mask, bit for bit."""
    return np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)


def check_synthetic(request, made):
    """Shapes, types and ranges; nothing outside the box is changed, and the tumor lies in its place."""
    outside = np.ones(request.image.shape[1:], bool)
    outside[request.box.slices] = False
    assert made.image.shape == request.image.shape
    assert made.mask.shape == request.image.shape[1:]
    assert made.image.dtype == np.float32
    assert made.mask.dtype.kind == "f"
    assert np.isfinite(made.image).all()
    np.testing.assert_array_equal(made.image[:, outside], request.image[:, outside])
    assert made.mask.min() >= 0
    assert made.mask.max() <= 1
    outside[request.box.slices] = True
    outside[request.place.slices] = False
    assert not made.mask[outside].any()
    low, high = request.limits[0]
    assert made.image.min() >= min(low, request.image.min()) - high  # in the scan's own units, not in [-1, 1]
    assert made.image.max() <= 3 * high
    json.dumps(dict(made.drawn))
