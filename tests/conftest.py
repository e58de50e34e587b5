"""Phantoms and grids that tests share. What is session-scoped is read-only: copy it to change it."""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # the tests of a GPU run where most libraries are missing
    from tumorgen_cli.data.phantom import Phantoms
    from tumorgen_cli.geometry import Grid
    from tumorgen_cli.nnunet.on_the_fly.settings import Painting
    from tumorgen_cli.planning.workspace import Workspace

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell ignores Ctrl-C for what it runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def own_models(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed models lie in a folder of the test session, never in the user's."""
    monkeypatch.setenv("TUMORGEN_MODELS", str(tmp_path_factory.getbasetemp() / "models"))


@pytest.fixture(scope="session")
def trained(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of `workspace` in which every stage of every method has been trained for a few steps."""
    from tumorgen_cli.methods.registry import METHODS, find_method
    from tumorgen_cli.pipeline.train import train_stages
    from tumorgen_cli.planning.workspace import Workspace

    found = Workspace(tmp_path_factory.mktemp("trained") / "work")
    shutil.copytree(workspace.root, found.root)
    for method in METHODS:
        if find_method(method).stages:
            train_stages(found, method, "all", device="cpu")
    return found


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    """Six small phantoms with tumors (`.dataset`, an nnU-Net raw dataset) and two without (`.healthy`)."""
    from tumorgen_cli.data.phantom import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("phantoms"), cases=6, healthy=2, seed=7, small=True)


@pytest.fixture
def grid() -> Grid:
    """Anisotropic spacing, origin off zero, turned about two axes."""
    from tumorgen_cli.geometry import Grid

    a, b = math.radians(20), math.radians(-35)
    about_z = ((math.cos(a), -math.sin(a), 0.0), (math.sin(a), math.cos(a), 0.0), (0.0, 0.0, 1.0))
    about_x = ((1.0, 0.0, 0.0), (0.0, math.cos(b), -math.sin(b)), (0.0, math.sin(b), math.cos(b)))
    direction = tuple(sum(row[k] * about_x[k][j] for k in range(3)) for row in about_z for j in range(3))
    return Grid((12, 10, 8), (2.0, 3.0, 5.0), (-31.5, 12.25, 400.0), direction)


@pytest.fixture(scope="session")
def workspace(phantoms: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The phantoms planned with `TOY` settings and preprocessed."""
    from support.workspaces import plan_toy

    from tumorgen_cli.pipeline import preprocess
    from tumorgen_cli.planning.workspace import Workspace

    found = Workspace(tmp_path_factory.mktemp("workspace"))
    plan_toy(found, str(phantoms.dataset))
    preprocess.preprocess_dataset(found, workers=0)
    return found


@pytest.fixture
def unpainted(workspace: Workspace) -> Iterator[Workspace]:
    """The shared workspace, in which no set-up is left."""
    yield workspace
    shutil.rmtree(workspace.root / "nnunet", ignore_errors=True)


@pytest.fixture
def painting(unpainted: Workspace, phantoms: Phantoms) -> Painting:
    """What copypaste paints into the healthy phantoms: a pool of two patches, without rests."""
    from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet
    from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions

    patches = OnTheFlyOptions(probability=0.5, pool=2, share=1.0)
    return set_up_nnunet(unpainted, "copypaste", HostOptions(phantoms.healthy), patches, device="cpu").painting
