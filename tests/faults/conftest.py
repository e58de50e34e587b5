"""One site for all tests of kills and full disks: the chain of commands is run once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.faults import Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("faults"))
    yield site.build()
    site.close()
