"""What is run, the most wanted first, and how long each takes on a GPU like an H100."""

import sys
from dataclasses import dataclass

SLOWER = 3
"""Times as long as on a GPU a CPU may take, which has others to serve: for importing and compiling."""
MODEL_1B, MODEL_LONG, MODEL_14B = "self-forcing-1.3b", "longlive-1.3b", "krea-14b"


@dataclass(frozen=True)
class Step:
    """One process."""

    name: str
    """Of its log, and of its tables where it writes any."""
    estimate_s: float
    """It starts only where so much is left, and is ended when it takes twice as long."""
    command: tuple[str, ...]
    """What Python runs."""


def make_steps(device: str, folder: str, python: str = sys.executable) -> list[Step]:
    """`device` cpu: the same plan on the demo card with tiny sizes, to try it."""

    def python_step(name: str, estimate_s: float, *words: str) -> Step:
        return Step(name, estimate_s * (SLOWER if device == "cpu" else 1), (python, *words))

    def measure(name: str, estimate_s: float, *words: str) -> Step:
        size = ("--tiny", "--passes", "1") if device == "cpu" else ("--passes", "10")
        command = ("-m", "benchmarks.gpu", "--out", folder, "--name", name, *size, *words)
        return python_step(name, estimate_s, *command)

    def models(name: str, estimate_s: float, model: str, *words: str) -> Step:
        return measure(f"gpu-{name}", estimate_s, "--only", "models", "--models", model, *words)

    weights = ("cuda:0", "5") if device == "cuda" else ("cpu", "0.1")
    return [
        python_step("tests", 90, "-m", "pytest", "tests/gpu", "--quiet", "-p", "no:cacheprovider"),
        models("1.3b", 50, MODEL_1B),
        models("1.3b-compiled", 90, MODEL_1B, "--compile"),
        measure("gpu-kernels", 30, "--only", "kernels", "ceilings"),
        models("longlive-compiled", 90, MODEL_LONG, "--compile", "--window", "own"),
        models("14b-compiled", 150, MODEL_14B, "--compile", "--window", "trained"),
        measure("gpu-engine", 120, "--only", "engine", "--models", MODEL_1B),
        measure("gpu-decoders", 40, "--only", "decoders", "worker", "--models", MODEL_1B),
        models("1.3b-fp8", 90, MODEL_1B, "--compile", "--quantize", "fp8"),
        models("longlive", 50, MODEL_LONG, "--window", "own"),
        models("14b", 110, MODEL_14B, "--window", "trained"),
        models("14b-fp8", 150, MODEL_14B, "--compile", "--quantize", "fp8", "--window", "trained"),
        python_step(
            "weights", 60, "-m", "benchmarks.weights", "--device", weights[0], "--gigabytes", weights[1],
            "--repeats", "1", "--out", folder,
        ),
    ]  # fmt: skip
