"""The folder that a reader has after `tumorgen demo`: a trained workspace, its phantoms beside it, one set."""

import pytest
from support.command_line import call
from support.workspaces import lay_out_demo


@pytest.fixture(scope="session")
def demo_folder(trained, phantoms, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    work = lay_out_demo(trained, phantoms, folder)
    hosts, out = work / "phantoms" / "healthy", work / "synthetic" / "tumorgen_healthy"
    # ellipsoids are never empty, which what a few training steps draw may be
    call("synthesize", "--method", "syntumor", "--healthy", hosts, "-n", 5, "--out", out, "-w", work, "--device", "cpu")
    call("evaluate", "tumorgen_healthy", "-w", work, "--device", "cpu")
    return folder
