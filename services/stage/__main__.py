"""Runs a stage: `python -m services.stage`, set up by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import before_imports, run

before_imports()  # which take seconds

from services.stage.service import serve  # noqa: E402
from services.stage.settings import Settings  # noqa: E402

if __name__ == "__main__":
    run("stage", Settings, serve)
