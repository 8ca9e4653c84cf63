"""All services on this machine for as long as a `with` lasts, by the command `cascade up`."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from cascade_client.processes.child import dying_with_us
from cascade_core.errors import CascadeError

READY_S = 300.0
"""For all of them to serve, the loading of the model included."""
STOP_S = 20.0


@asynccontextmanager
async def running_system(logs: Path, environment: Mapping[str, str], *options: str) -> AsyncIterator[str]:
    """The gateway's address. `environment`: settings on top of ours; `options`: of `cascade up`.

    Raises CascadeError where not all services come to serve.
    """
    command = (sys.executable, "-m", "cascade_client", "up", "--json", "--port", "0", "--http-port", "off")
    process = await asyncio.create_subprocess_exec(
        *dying_with_us(), *command, "--log-dir", str(logs), "--ready-within", str(READY_S), *options,
        env={**os.environ, **environment}, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(READY_S + STOP_S):
            address = await address_of(process, logs)
        yield address
    finally:
        await stop(process)


async def address_of(process: asyncio.subprocess.Process, logs: Path) -> str:
    """Of the gateway, once all is ready."""
    assert process.stdout
    async for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            return str(event["gateway"][0])
    raise CascadeError(f"the services did not start; look at {logs}")


async def stop(process: asyncio.subprocess.Process) -> None:
    """Ask, wait, kill."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(STOP_S):
            await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
