"""Runs a decoder: `python -m services.decoder`, set up by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import run
from services.decoder.service import serve
from services.decoder.settings import Settings

if __name__ == "__main__":
    run("decoder", Settings, serve)
