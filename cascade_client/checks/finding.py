"""What a check finds, and how it asks other programs."""

import asyncio
from dataclasses import dataclass
from typing import Literal

DEADLINE_S = 3.0
Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One line."""

    name: str
    status: Status
    text: str
    advice: str = ""
    """What to do; empty where nothing is to be done."""


async def run(*command: str, deadline_s: float = 30.0) -> tuple[int, str]:
    """(exit status, standard output) of a command; status 1 where it takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), deadline_s)
    except TimeoutError:
        return 1, ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")
