"""A real server on loopback, and the files of a small PACS that it may serve."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.archives import downloads
from tests.support.file_server import FileServer


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer().running() as running:
        yield running


@pytest.fixture(scope="session")
def pacs_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of every route to a small PACS, by name."""
    return downloads("PACS", tmp_path_factory.mktemp("pacs"))
