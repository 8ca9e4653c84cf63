"""A process that is asked to end while it still imports, and what it says of settings that it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.common import entry
from services.gateway.app.assembly import running
from services.gateway.base.settings import Settings
from tests.services.support.system import ROOT, clean_environment

MAINS = {
    "gateway": "services.gateway.app.assembly",
    "stage": "services.stage.service",
    "decoder": "services.decoder.service",
    "web": "services.web.standalone",
}
PEM = "-----BEGIN PRIVATE KEY-----\n" + "MII" * 30 + "\n" + ("SECRET" * 8 + "\n") * 300
AT_THE_IMPORT = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGTERM)

sys.meta_path.insert(0, Finder())
runpy.run_module("services.{name}", run_name="__main__")
"""


@pytest.mark.parametrize("name", MAINS)
def test_sigterm_while_it_imports_ends_it(name: str) -> None:
    """The first process of a container has no default for signals: a handler must have been there."""
    code = AT_THE_IMPORT.format(name=name, module=MAINS[name])
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), timeout=120)
    assert ended.returncode == 0


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CASCADE_GATEWAY_REDIS_URL", "redis://:SECRET@" + "a" * 40_000),
        ("CASCADE_GATEWAY_REDIS_URL", "SECRET" * 7_000),
        ("CASCADE_GATEWAY_QUOTAS_FILE", "/" + "a" * 40_000),
        ("CASCADE_TLS_CERTIFICATE", PEM),
        ("CASCADE_AUTH_JWKS", PEM),
        ("CASCADE_CONFIG_FILE", PEM),
        ("CASCADE_GRPC_HOST", "a" * 40_000),
        ("CASCADE_" + "A" * 40_000, "1"),
    ],
)
def test_what_is_refused_is_not_told_whole(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_bytes(bytes(32))
    for name in [name for name in os.environ if name.startswith("CASCADE_")]:
        monkeypatch.delenv(name)
    others = {
        "CASCADE_GRPC_PORT": "0",
        "CASCADE_GATEWAY_TOKEN_KEY_FILE": str(tmp_path / "token"),
        "CASCADE_GATEWAY_ADVERTISE": "127.0.0.1:1",
    }
    if variable == "CASCADE_TLS_CERTIFICATE":
        others["CASCADE_TLS_KEY"] = str(tmp_path / "token")
    if variable == "CASCADE_AUTH_JWKS":
        others |= {"CASCADE_AUTH_MODES": "jwt", "CASCADE_AUTH_ISSUER": "i", "CASCADE_AUTH_AUDIENCE": "a"}
    for name, given in {**others, variable: value}.items():
        monkeypatch.setenv(name, given)
    monkeypatch.setattr(sys, "argv", ["gateway"])

    async def serve(settings: Settings) -> None:
        async with running(settings):
            pass

    with pytest.raises(SystemExit) as ended:
        entry.run("gateway", Settings, serve)
    told = str(ended.value.code)
    assert told.startswith("gateway: ")
    assert len(told) < 1000
    assert "SECRET" not in told


def test_a_log_line_has_no_word_without_end() -> None:
    code = (
        "import logging, structlog\n"
        "from services.common.settings import TelemetrySettings\n"
        "from services.common.telemetry import configure_logging\n"
        "configure_logging(TelemetrySettings(), 'gateway')\n"
        "logging.getLogger('x').warning('cannot reach %s', 'a' * 40_000)\n"
        "structlog.get_logger('y').warning('lost', where='b' * 40_000)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    lines = done.stderr.splitlines()
    assert ["(40000 characters)" in line for line in lines] == [True, True]
    assert max(map(len, lines)) < 500
