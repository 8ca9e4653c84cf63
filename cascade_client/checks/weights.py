"""Whether a model can be run with its weights."""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from typing import Any

from cascade_client.checks.finding import DEADLINE_S, Finding, Status, run
from cascade_client.console import Options
from cascade_client.local.plan import is_there

LISTING_DEADLINE_S = 120.0
LISTING = "from cascade_core.commands.listing import list_models; print(list_models(None, True))"
HUB = "https://huggingface.co"
FOLDERS = "CASCADE_STAGE_WEIGHTS=FOLDER CASCADE_DECODER_WEIGHTS=FOLDER"


async def check_weights(options: Options) -> Sequence[Finding]:
    """Of the model that was asked for."""
    if not is_there("cascade_core.commands.listing") or not is_there("pydantic"):
        return [Finding("weights", "warn", "the engine is not installed", "pip install cascade-video")]
    models = await list_models()
    if models is None:
        return [Finding("weights", "warn", "the models cannot be listed", "run: cascade-engine models")]
    asked = [weights(model) for model in models if model["name"] == options.model]
    none = Finding("weights", "fail", f"there is no model {options.model}", "run: cascade-engine models")
    return asked or [none]


async def list_models() -> list[dict[str, Any]] | None:
    """Asks the engine, in a process of its own. None: it cannot tell."""
    status, output = await run(sys.executable, "-c", LISTING, deadline_s=LISTING_DEADLINE_S)
    return json.loads(output) if status == 0 else None


def weights(model: dict[str, Any]) -> Finding:
    name = f"weights of {model['name']}"
    if model["random_only"]:
        return Finding(name, "ok", "none: it runs on random ones")
    if not model["missing_files"]:
        return Finding(name, "ok", "found")
    status: Status = "fail" if model["name"] == "demo" else "warn"
    return Finding(name, status, "not here", how_to_fetch(model["name"]))


def how_to_fetch(model: str) -> str:
    return f"cascade-engine download --model {model} --to FOLDER, and then {FOLDERS} cascade up"


async def what_hinders(model: str) -> str:
    """One sentence where its weights are neither here nor to be had; else empty."""
    if "CASCADE_STAGE_WEIGHTS" in os.environ:
        return ""
    found = [each for each in await list_models() or () if each["name"] == model and each["missing_files"]]
    if not found or found[0]["random_only"] or not (why := await asyncio.to_thread(hub_is_away)):
        return ""
    return f"the weights of {model} are not here, and {why}; where there is a network: {how_to_fetch(model)}"


def hub_is_away() -> str:
    """Why nothing can be fetched from it; empty where it answers."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE forbids to fetch them"
    url = os.environ.get("HF_ENDPOINT", HUB)
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=DEADLINE_S):
            return ""
    except urllib.error.HTTPError:
        return ""  # it answers
    except (OSError, ValueError) as error:
        return f"{url} does not answer ({getattr(error, 'reason', error)})"
