"""The page of settings says what the services read."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.common.environment import load_settings
from services.common.reference import describe
from services.decoder.settings import Settings as DecoderSettings
from services.gateway.base.settings import Settings as GatewaySettings
from services.stage.settings import Settings as StageSettings
from services.web.settings import Settings as WebSettings
from tests.paths import ROOT

KINDS = {"gateway": GatewaySettings, "stage": StageSettings, "decoder": DecoderSettings, "web": WebSettings}


def test_the_page_is_up_to_date() -> None:
    found = importlib.util.spec_from_file_location("settings_page", ROOT / "docs/settings.py")
    assert found
    assert found.loader
    page = importlib.util.module_from_spec(found)
    found.loader.exec_module(page)
    assert (ROOT / "docs/settings.md").read_text() == page.text(), "run `make settings`"


@pytest.mark.parametrize("service", KINDS)
def test_every_setting_says_what_it_means_and_its_default_is_taken(service: str) -> None:
    kind = KINDS[service]
    entries = [entry for _, entries in describe(kind) for entry in entries]
    assert [entry.variable for entry in entries if not entry.meaning] == []
    given = {entry.variable: entry.default for entry in entries if entry.default != "(none)"}
    assert load_settings(kind, given) == kind()


@pytest.mark.parametrize("service", KINDS)
def test_help_prints_them(service: str) -> None:
    command = [sys.executable, "-m", f"services.{service}", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "CASCADE_TELEMETRY_METRICS_PORT" in result.stdout
    assert f"CASCADE_{service.upper()}_" in result.stdout


def test_other_arguments_are_refused() -> None:
    command = [sys.executable, "-m", "services.gateway", "--port", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert result.returncode == 2
    assert "takes no arguments" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_gateway_that_others_cannot_reach_is_refused(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(32))
    environment = {
        "CASCADE_GRPC_HOST": "0.0.0.0",
        "CASCADE_GATEWAY_REDIS_URL": "redis://127.0.0.1:1",
        "CASCADE_GATEWAY_TOKEN_KEY_FILE": str(tmp_path / "key"),
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-m", "services.gateway"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, env=environment)
    assert result.returncode == 1
    assert "gateway.advertise" in result.stderr.splitlines()[-1]
