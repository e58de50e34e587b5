"""One site for all tests of kills and full disks: the chain of commands is run once."""

from __future__ import annotations

import pytest
from support.faults import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("faults")).build()
