"""Runs a gateway: `python -m services.gateway`, set up by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import run
from services.gateway.app import serve
from services.gateway.settings import Settings

if __name__ == "__main__":
    run("gateway", Settings, serve)
