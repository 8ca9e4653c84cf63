"""Runs the HTTP side on its own: `python -m services.web --gateway HOST:PORT [--http-port 8080]`, set up
by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import before_imports, run

before_imports()  # which take seconds

from services.web.settings import Settings  # noqa: E402
from services.web.standalone import ARGUMENTS, serve  # noqa: E402

if __name__ == "__main__":
    run("web", Settings, serve, ARGUMENTS)
