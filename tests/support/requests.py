"""Requests to paint, cut from a preprocessed case, and opened methods."""

from __future__ import annotations

import numpy as np

from tumorgen_cli.geometry import Box, cut
from tumorgen_cli.methods.base import Request
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.preprocessing.cases import load_case

BOX = Box((8, 9, 10), (21, 22, 19))


def make_request(workspace, box=BOX, shape=(32, 32, 32), offset=(4, 2, 1), case=None):
    """A window of a held-out case, as the harness would cut it; read-only, so that writing to it fails."""
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
    method = find_method(name)(workspace.plan(), workspace)
    return method, method.load()
