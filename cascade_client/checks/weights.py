"""Which models can be run with their weights."""

import json
import sys
from collections.abc import Sequence

from cascade_client.checks.finding import Finding, Status, run
from cascade_client.console import Options
from cascade_client.local.plan import is_there

LISTING_DEADLINE_S = 120.0
LISTING = "import sys; from cascade_core.commands.cli import main; sys.exit(main(['models', '--json']))"


async def check_weights(options: Options) -> Sequence[Finding]:
    """Asks the engine, in a process of its own: it may bring torch with it."""
    if not is_there("cascade_core.commands.listing") or not is_there("pydantic"):
        return [Finding("weights", "warn", "the engine is not installed", "pip install cascade-video")]
    status, output = await run(sys.executable, "-c", LISTING, deadline_s=LISTING_DEADLINE_S)
    if status != 0:
        return [Finding("weights", "warn", "the models cannot be listed", "run: cascade-engine models")]
    return [weights(model) for model in json.loads(output)]


def weights(model: dict[str, object]) -> Finding:
    name = f"weights of {model['name']}"
    if model["random_only"]:
        return Finding(name, "ok", "none: it runs on random ones")
    if not model["missing_files"]:
        return Finding(name, "ok", "found")
    status: Status = "fail" if model["name"] == "demo" else "warn"
    return Finding(name, status, "not here", f"for this model get them from {model['source']}")
