"""The echo service as a process of its own: `python -m tests.services.support.echo_process`."""

import asyncio
import sys

from cascade_core.errors import InvalidConfig
from services.common.environment import load_settings
from services.common.server import serve
from services.common.settings import ServerSettings
from tests.services.support.echo import Echo


def main() -> None:
    try:
        settings = load_settings(ServerSettings)
    except InvalidConfig as error:
        sys.exit(f"echo: {error}")
    assert not {"torch", "numpy"} & sys.modules.keys(), "services.common must not reach torch"
    asyncio.run(serve(settings, "echo", Echo().build()))


if __name__ == "__main__":
    main()
