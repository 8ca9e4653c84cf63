"""The system as a fixture; a pytest plugin, so that all modules that name it share one.

pytest_plugins = ("tests.services.support.system_fixtures",)
"""

from collections.abc import Generator, Iterator

import pytest

from tests.services.support.system import System, running_system


@pytest.fixture(scope="session")
def processes() -> Iterator[System]:
    """One system for all tests of a run: models take seconds to load."""
    with running_system() as system:
        yield system


@pytest.fixture
def system(processes: System) -> System:
    """Mended, and idle."""
    processes.ready()
    return processes


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The ends of all logs, beside a test that failed."""
    report = yield
    system = getattr(item, "funcargs", {}).get("processes")
    if report.failed and isinstance(system, System):
        report.sections.append(("logs of the processes", system.tails()))
    return report
