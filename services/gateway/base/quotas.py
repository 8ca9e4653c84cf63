"""What each tenant may have: the settings' defaults, and exceptions from a TOML file.

[[tenants]]
name = "acme"
max_sessions = 20
max_calls_per_s = 50.0
max_priority = "normal"
max_session_s = 3600.0
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from cascade.v1.session_pb2 import PRIORITY_NORMAL, Priority
from cascade_core.config import STRICT, make
from cascade_core.errors import InvalidConfig
from services.common.errors import PermissionDenied, QuotaExceeded
from services.common.settings import Seconds
from services.common.watched import WatchedFiles
from services.gateway.base.settings import GatewaySettings


@dataclass(frozen=True, config=STRICT)
class TenantEntry:
    """One `[[tenants]]`; what it leaves out is as for everybody."""

    name: Annotated[str, Field(min_length=1)]
    """The tenant of the credential."""
    max_sessions: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Sessions that have not ended, queued ones included. None: `gateway.max_sessions_per_tenant`."""
    max_calls_per_s: Annotated[float, Field(gt=0, le=100_000)] | None = None
    """Calls with one answer, ten times as many in a burst. None: `gateway.max_calls_per_s`."""
    max_priority: Literal["low", "normal", "high"] = "high"
    """The highest that it may ask for; a session that asks for none is normal."""
    max_session_s: Seconds | None = None
    """Life of a session from its start. None: endless."""


@dataclass(frozen=True, config=STRICT)
class QuotasFile:
    tenants: tuple[TenantEntry, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "QuotasFile":
        names = [tenant.name for tenant in self.tenants]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"tenants: more than one entry of {', '.join(twice)}")
        return self


ANYBODY = TenantEntry("*")
"""Whoever is not in the file."""


@plain_dataclass(frozen=True)
class Quota:
    """One tenant's."""

    name: str
    max_sessions: int
    max_calls_per_s: float
    max_priority: int
    """Priority value."""
    max_session_s: float | None
    """None: endless."""


class Quotas:
    """Everybody's; the file is read again when it changes. Creating it raises InvalidConfig."""

    def __init__(self, settings: GatewaySettings) -> None:
        path = settings.quotas_file
        self._settings = settings
        self._file = WatchedFiles([path], lambda: load_quotas(path)) if path else None

    def of(self, tenant: str) -> Quota:
        """As of now."""
        entry = (self._file.get() if self._file else {}).get(tenant, ANYBODY)
        sessions, calls = entry.max_sessions, entry.max_calls_per_s
        return Quota(
            name=tenant,
            max_sessions=self._settings.max_sessions_per_tenant if sessions is None else sessions,
            max_calls_per_s=self._settings.max_calls_per_s if calls is None else calls,
            max_priority=priority_of(entry.max_priority),
            max_session_s=entry.max_session_s,
        )

    def check_sessions(self, tenant: str, num_open: int) -> None:
        """Raise QuotaExceeded unless the tenant may have one more."""
        limit = self.of(tenant).max_sessions
        if num_open >= limit:
            raise QuotaExceeded(f"{num_open} of {limit} sessions are open", subject=f"tenant:{tenant}")

    def check_priority(self, tenant: str, priority: int) -> None:
        """Raise PermissionDenied where it is too high. `priority`: Priority value; UNSPECIFIED is NORMAL."""
        limit = self.of(tenant).max_priority
        if (priority or PRIORITY_NORMAL) > limit:
            raise PermissionDenied(f"priority: at most {Priority.Name(Priority.ValueType(limit))}")


def priority_of(word: str) -> int:
    """`high` -> PRIORITY_HIGH."""
    return Priority.Value(f"PRIORITY_{word.upper()}")


def load_quotas(path: Path) -> Mapping[str, TenantEntry]:
    """Entries by tenant. Raises InvalidConfig with the path."""
    try:
        file = make(QuotasFile, tomllib.loads(path.read_text()))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, InvalidConfig) as error:
        raise InvalidConfig(f"gateway.quotas_file: {path}: {error}") from None
    return {tenant.name: tenant for tenant in file.tenants}
