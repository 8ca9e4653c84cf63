"""What every test with real rank processes is held to: it leaves no noise, no processes, no folders."""

import gc
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine_support import rank_processes, write_card


class _Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(autouse=True)
def quiet_asyncio() -> Iterator[None]:
    """Fails on what asyncio only logs: exceptions never retrieved, tasks destroyed while pending."""
    kept, logger = _Kept(), logging.getLogger("asyncio")
    logger.addHandler(kept)
    yield
    gc.collect()
    logger.removeHandler(kept)
    assert not kept.messages


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails when the engines started inside the test leave a rank process or a temporary folder."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    before = rank_processes()
    yield
    assert rank_processes() == before
    assert list(folder.iterdir()) == []


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_card(tmp_path_factory.mktemp("card"))
