"""The system as a fixture; a pytest plugin, so that all modules that name it share one.

pytest_plugins = ("tests.services.support.system_fixtures",)
"""

import json
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from cascade_core.config import find_card
from tests.services.support.system import System, running_system


@pytest.fixture(scope="session")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One system for all tests of a run: models take seconds to load. Its stages list LoRAs `ink` and `clay`,
    of noise: what is made with them is another video."""
    folder = tmp_path_factory.mktemp("loras")
    listed = [
        {"name": name, "path": str(write_lora(folder / f"{name}.safetensors", seed))}
        for seed, name in enumerate(("ink", "clay"))
    ]
    with running_system({"CASCADE_STAGE_LORAS": json.dumps(listed)}) as system:
        yield system


def write_lora(path: Path, seed: int, rank: int = 2) -> Path:
    """Of the demo model's layers; their values are what stays in the KV cache."""
    width, noise = find_card("demo").transformer.dim, np.random.default_rng(seed)
    tensors = {
        f"blocks.{layer}.self_attn.v.lora_{side}.weight": noise.normal(0, 3 * shape[1] ** -0.5, shape)
        for layer in range(find_card("demo").transformer.num_layers)
        for side, shape in (("A", (rank, width)), ("B", (width, rank)))
    }
    save_file({key: values.astype(np.float32) for key, values in tensors.items()}, path)
    return path


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
