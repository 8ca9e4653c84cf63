"""Runs a stage: `python -m services.stage`, set up by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import run
from services.stage.service import serve
from services.stage.settings import Settings

if __name__ == "__main__":
    run("stage", Settings, serve)
