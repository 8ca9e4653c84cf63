"""Runs a decoder: `python -m services.decoder`, set up by `CASCADE_*` variables; see `settings.py`."""

from services.common.entry import before_imports, run

before_imports()  # which take seconds

from services.decoder.service import serve  # noqa: E402
from services.decoder.settings import Settings  # noqa: E402

if __name__ == "__main__":
    run("decoder", Settings, serve)
