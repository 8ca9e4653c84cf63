"""Runs a gateway: `python -m services.gateway`, set up by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import end_at_sigterm, run

end_at_sigterm()  # imports take seconds

from services.gateway.app.assembly import serve  # noqa: E402
from services.gateway.base.settings import Settings  # noqa: E402

if __name__ == "__main__":
    run("gateway", Settings, serve)
