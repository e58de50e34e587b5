"""Small sets of pairs, a method that paints a cube, and a judge that answers by count."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Method, Sampling, Synthetic
from tumorgen_cli.pipeline import synthesize as pipeline_synthesize
from tumorgen_cli.synthesis.jobs import make_jobs
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.synthesis.pair import PairInputs
from tumorgen_cli.synthesis.sources import healthy_sources
from tumorgen_cli.synthesis.synthesize import synthesize_set

PAIRS = 4


def paint(
    workspace, phantoms, out, method="copypaste", pairs=PAIRS, seed=None, shard=None, sampling=Sampling(), **where
):
    """Paint a set, with one tumor in a pair unless `tumors` is given."""
    made, hosts = SetOptions(pairs, out, seed, shard), HostOptions(phantoms.healthy, **({"tumors": 1} | where))
    return pipeline_synthesize.synthesize_pairs(workspace, method, made, hosts, sampling, device="cpu")


def provenance(folder):
    return [json.loads(line) for line in (folder / "provenance.jsonl").read_text().splitlines()]


def records(folder):
    """Provenance without what time it took."""

    def timeless(record):
        return {key: value for key, value in record.items() if key != "seconds"}

    return [
        timeless(record) | {"tumors": [timeless(tumor) for tumor in record["tumors"]]} for record in provenance(folder)
    ]


def first_tumors(folder):
    """The records of the pairs' first tumors."""
    return [record["tumors"][0] for record in records(folder)]


def box_of(plain):
    """A box from provenance.jsonl."""
    return Box(tuple(plain["start"]), tuple(plain["stop"]))


def beyond(shape, boxes):
    """The voxels of a scan outside boxes."""
    outside = np.ones(shape, bool)
    for box in boxes:
        outside[box.slices] = False
    return outside


class Fake(Method):
    """Paints a cube, or nothing for the first `empty` draws of every pair; a crumb where `crumbs`."""

    name = "fake"
    SOURCE = "a test"

    def __init__(self, plan, workspace, empty=0, crumbs=False):
        super().__init__(plan, workspace)
        self.empty, self.crumbs, self.seeds, self.requests = empty, crumbs, [], []

    @classmethod
    def plan_section(cls, d, fingerprint, window, budget):
        pass

    def load(self):
        return {}

    def synthesize(self, request, seed, sampling):
        self.seeds.append(seed)
        self.requests.append(request)
        mask = np.zeros(request.image.shape[1:], np.float32)
        if len(self.seeds) % (self.empty + 1) == 0:
            middle = Box(
                *(
                    tuple(int(c) for c in corner)
                    for corner in (np.array(request.box.center) - 2, np.array(request.box.center) + 2)
                )
            )
            mask[middle.slices] = 1
        elif self.crumbs:
            mask[tuple(int(c) for c in request.box.center)] = 1
        return Synthetic(request.image + 1, mask, {"number": len(self.seeds)})


class Sees:
    """Stands in for a judge: every `each`-th scan is tumor all over, the others are free of it."""

    usual_extent_mm, hash, folder = (1e6, 1e6, 1e6), "sees", Path("sees")

    def __init__(self, each):
        self.each, self.asked = each, 0

    def tumor(self, image, grid):
        self.asked += 1
        return np.full(grid.shape, self.asked % self.each == 0)


def run_fake(workspace, phantoms, out, method, quality=None, box=None, count=1):
    jobs = make_jobs(healthy_sources(workspace.plan(), phantoms.healthy, None), 2, 0)
    return run_jobs(workspace, out, method, jobs, quality=quality, box=box, count=count)


def run_jobs(workspace, out, method, jobs, part=None, seed=0, quality=None, box=None, count=1):
    inputs = PairInputs(method, workspace.fingerprint().cases, Sampling(), box, quality, count=count)
    return synthesize_set(inputs, jobs, out, {"seed": seed}, lambda *_: None, part)
