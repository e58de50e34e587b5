"""Models of the trained workspace, exported once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tumorgen_cli.planning.workspace import Workspace


@pytest.fixture(scope="session")
def shared_zip(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TumorGen of the trained workspace as a file. Read-only."""
    from tumorgen_cli.pipeline.export import export_model
    from tumorgen_cli.sharing.options import ExportOptions

    path = tmp_path_factory.mktemp("shared") / "phantoms.zip"
    export_model(trained, "tumorgen", path, ExportOptions(license="CC0-1.0"), "cpu")
    return path


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of installed models."""
    monkeypatch.setenv("TUMORGEN_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def copied_zip(shared_zip: Path, tmp_path: Path) -> Path:
    """A copy of the model's file, to spoil."""
    return Path(shutil.copy(shared_zip, tmp_path / "copied.zip"))
