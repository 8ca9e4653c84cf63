"""Runs a stage: `python -m services.stage`, set up by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import end_at_sigterm, run

end_at_sigterm()  # imports take seconds

from services.stage.service import serve  # noqa: E402
from services.stage.settings import Settings  # noqa: E402

if __name__ == "__main__":
    run("stage", Settings, serve)
