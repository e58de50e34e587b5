"""Every test of the command line runs in an empty folder."""

import pytest


@pytest.fixture(autouse=True)
def quiet_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a default workspace would land here
    monkeypatch.delenv("nnUNet_raw", raising=False)
