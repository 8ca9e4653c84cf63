"""Runs a gateway: `python -m services.gateway`, set up by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import before_imports, run

before_imports()  # which take seconds

from services.gateway.app.assembly import serve  # noqa: E402
from services.gateway.base.settings import Settings  # noqa: E402

if __name__ == "__main__":
    run("gateway", Settings, serve)
