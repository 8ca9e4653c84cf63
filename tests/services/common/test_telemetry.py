"""Logs are JSON without secrets; traces only with a collector, and one that is away keeps nobody."""

import asyncio
import io
import json
import logging
import sys
from typing import Any
from urllib.request import urlopen

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider

from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.common.metrics_server import MAX_AT_ONCE, Handler
from services.common.settings import TelemetrySettings
from services.common.telemetry import configure_logging, start_telemetry
from tests.services.support.echo import WAIT_S
from tests.services.support.idle_lines import idle_lines, num_open


def logged(monkeypatch: pytest.MonkeyPatch, log_format: str) -> str:
    """What structlog, the standard library and a failure write."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    configure_logging(make(TelemetrySettings, {"log_format": log_format}), "stage")
    with structlog.contextvars.bound_contextvars(session="s-1"):
        structlog.get_logger("a").info("tick", block=3)
        logging.getLogger("grpc").warning("from %s", "grpc")
        structlog.get_logger("a").debug("not told")
        try:
            token = "".join(["hun", "ter2"])
            raise RuntimeError(f"{len(token)} characters")
        except RuntimeError:
            structlog.get_logger("a").exception("failed")
    return stream.getvalue()


def test_every_line_is_json_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    text = logged(monkeypatch, "json")
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    assert [line["event"] for line in lines] == ["tick", "from grpc", "failed"]
    assert all(line["session"] == "s-1" and line["service"] == "stage" for line in lines)
    assert (lines[0]["block"], lines[0]["level"], lines[0]["logger"]) == (3, "info", "a")
    assert "RuntimeError: 7 characters" in lines[2]["exception"]


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_a_traceback_shows_no_variables(monkeypatch: pytest.MonkeyPatch, log_format: str) -> None:
    text = logged(monkeypatch, log_format)
    assert "7 characters" in text
    assert "hunter2" not in text


async def test_traces_need_a_collector_and_do_not_wait_for_it() -> None:
    assert start_telemetry(TelemetrySettings(), "echo").tracer_provider is None
    telemetry = start_telemetry(TelemetrySettings(otlp_endpoint="http://127.0.0.1:1"), "echo")
    assert isinstance(telemetry.tracer_provider, TracerProvider)
    with telemetry.tracer_provider.get_tracer("t").start_as_current_span("x"):
        pass
    await asyncio.wait_for(telemetry.stop(), WAIT_S)


async def test_a_taken_metrics_port_is_told_by_the_setting() -> None:
    first = start_telemetry(TelemetrySettings(metrics_port=0), "echo")
    with pytest.raises(InvalidConfig, match=r"telemetry\.metrics_port"):
        start_telemetry(TelemetrySettings(metrics_port=first.metrics_port), "echo")
    await first.stop()


async def test_connections_to_the_metrics_port_that_ask_for_nothing_are_few_and_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each takes a descriptor and a thread of the service."""
    monkeypatch.setattr(Handler, "timeout", 1.0)
    telemetry = start_telemetry(TelemetrySettings(metrics_port=0), "echo")
    assert telemetry.metrics_port
    async with asyncio.timeout(WAIT_S):
        async with idle_lines("silent", 3 * MAX_AT_ONCE, telemetry.metrics_port) as lines:
            while await num_open(lines) > MAX_AT_ONCE:
                pass
            while await num_open(lines):
                pass
        url = f"http://127.0.0.1:{telemetry.metrics_port}/metrics"
        assert b"process_open_fds" in await asyncio.to_thread(lambda: urlopen(url, timeout=WAIT_S).read())
        await telemetry.stop()
