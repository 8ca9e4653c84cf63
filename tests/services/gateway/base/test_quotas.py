"""What tenants may have, and how often they may call."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.v1.session_pb2 import PRIORITY_HIGH, PRIORITY_LOW, PRIORITY_NORMAL, PRIORITY_UNSPECIFIED
from cascade_core.config import make
from cascade_core.errors import InvalidConfig
from services.common.errors import PermissionDenied, QuotaExceeded, RateLimited
from services.gateway.api.rates import Rates
from services.gateway.base.quotas import Quota, Quotas
from services.gateway.base.settings import GatewaySettings

ACME = """
[[tenants]]
name = "acme"
max_sessions = 2
max_calls_per_s = 50.0
max_priority = "normal"
max_session_s = 3600.0

[[tenants]]
name = "small"
max_priority = "low"
"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def quotas(**settings: Any) -> Quotas:
    return Quotas(make(GatewaySettings, settings))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "quotas.toml"
    path.write_text(ACME)
    return path


def test_without_a_file_everybody_has_the_same() -> None:
    assert quotas(max_sessions_per_tenant=7, max_calls_per_s=3).of("x") == Quota(
        "x", 7, 3.0, PRIORITY_HIGH, None
    )


def test_the_file_says_more_of_some(file: Path) -> None:
    known = quotas(quotas_file=file, max_sessions_per_tenant=7, max_calls_per_s=3)
    assert known.of("acme") == Quota("acme", 2, 50.0, PRIORITY_NORMAL, 3600.0)
    assert known.of("small") == Quota("small", 7, 3.0, PRIORITY_LOW, None)
    assert known.of("x") == Quota("x", 7, 3.0, PRIORITY_HIGH, None)


def test_sessions_are_bounded(file: Path) -> None:
    known = quotas(quotas_file=file)
    known.check_sessions("acme", 1)
    with pytest.raises(QuotaExceeded, match="2 of 2 sessions") as caught:
        known.check_sessions("acme", 2)
    assert caught.value.subject == "tenant:acme"
    known.check_sessions("x", 2)


@pytest.mark.parametrize(
    ("tenant", "priority", "is_allowed"),
    [
        ("acme", PRIORITY_LOW, True),
        ("acme", PRIORITY_UNSPECIFIED, True),
        ("acme", PRIORITY_HIGH, False),
        ("small", PRIORITY_LOW, True),
        ("small", PRIORITY_UNSPECIFIED, False),
        ("x", PRIORITY_HIGH, True),
    ],
)
def test_priorities_are_bounded(file: Path, tenant: str, priority: int, is_allowed: bool) -> None:
    known = quotas(quotas_file=file)
    if is_allowed:
        known.check_priority(tenant, priority)
    else:
        with pytest.raises(PermissionDenied, match="at most PRIORITY_"):
            known.check_priority(tenant, priority)


def test_a_changed_file_counts_and_a_broken_one_does_not(file: Path) -> None:
    known = quotas(quotas_file=file)
    write(file, ACME.replace("max_sessions = 2", "max_sessions = 5"))
    assert known.of("acme").max_sessions == 5
    write(file, "tenants = 3")
    assert known.of("acme").max_sessions == 5


def write(path: Path, text: str) -> None:
    """As a Secret volume does: another file in its place."""
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (ACME + '[[tenants]]\nname = "acme"\n', "more than one entry of acme"),
        ('[[tenants]]\nname = ""\n', "name"),
        ('[[tenants]]\nname = "a"\nmax_sesions = 3\n', "max_sesions"),
        ('[[tenants]]\nname = "a"\nmax_sessions = -1\n', "max_sessions"),
        ('[[tenants]]\nname = "a"\nmax_priority = "urgent"\n', "max_priority"),
        ('[[tenants]]\nname = "a"\nmax_calls_per_s = 0\n', "max_calls_per_s"),
        ("[[tenants\n", "quotas.toml"),
    ],
)
def test_a_wrong_file_is_fatal_and_named(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(InvalidConfig, match=complaint) as caught:
        quotas(quotas_file=file)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_fatal(tmp_path: Path) -> None:
    with pytest.raises(InvalidConfig, match="absent"):
        quotas(quotas_file=tmp_path / "absent.toml")


def num_calls(rates: Rates, tenant: str) -> int:
    """Calls that pass now."""
    for number in range(10_000):
        try:
            rates.check(tenant)
        except RateLimited:
            return number
    raise AssertionError("no bound")


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    rates = Rates(quotas(max_calls_per_s=2), clock)
    assert num_calls(rates, "x") == 20
    clock.now += 3
    assert num_calls(rates, "x") == 6
    clock.now += 1e6
    assert num_calls(rates, "x") == 20
    assert num_calls(rates, "y") == 20, "each tenant has its own"


def test_the_wait_told_is_the_wait_it_takes() -> None:
    clock = Clock()
    rates = Rates(quotas(max_calls_per_s=0.01), clock)
    rates.check("x")
    with pytest.raises(RateLimited) as caught:
        rates.check("x")
    clock.now += caught.value.retry_after_s - 0.5
    with pytest.raises(RateLimited):
        rates.check("x")
    clock.now += 0.6
    rates.check("x")


def test_another_rate_in_the_file_counts_at_once(file: Path) -> None:
    clock = Clock()
    rates = Rates(quotas(quotas_file=file), clock)
    assert num_calls(rates, "acme") == 500
    write(file, ACME.replace("max_calls_per_s = 50.0", "max_calls_per_s = 1.0"))
    clock.now += 1e6
    assert num_calls(rates, "acme") == 10


def test_only_so_many_tenants_are_remembered() -> None:
    rates = Rates(quotas(max_calls_per_s=1), Clock(), max_tenants=2)
    for tenant in ("a", "b"):
        num_calls(rates, tenant)
    assert num_calls(rates, "a") == 0
    assert num_calls(rates, "c") == 10
    assert num_calls(rates, "a") == 0, "used more recently than b"
    assert num_calls(rates, "b") == 10
    assert len(rates._buckets) == 2


@given(st.lists(st.floats(0, 30), max_size=30), st.floats(0.05, 50))
def test_never_more_than_burst_and_rate(pauses: list[float], rate: float) -> None:
    clock = Clock()
    rates = Rates(quotas(max_calls_per_s=rate), clock)
    passed = 0
    for pause in pauses:
        clock.now += pause
        passed += num_calls(rates, "x")
        assert passed <= max(1.0, 10 * rate) + clock.now * rate + 1e-6
