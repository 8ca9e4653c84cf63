"""What all tests of services have."""

import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.services.support.redis_support import RedisServer


@pytest.fixture(autouse=True)
def _logging() -> Iterator[None]:
    """As it was: a server process configures it for good."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """Of this test alone."""
    server = RedisServer(persistent=False)
    yield server
    server.close()
