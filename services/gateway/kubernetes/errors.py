"""What can go wrong between this gateway and the API server."""

import json
from collections.abc import Mapping
from typing import Any

GONE = 410
RETRIED = {401, 403, 408, 409, 425, 429}
"""Client errors that pass: a token is renewed, a Role is mended, others have written, a crowd disperses."""


class ApiError(Exception):
    """A call failed; nothing is known of its effect."""

    def __init__(self, reason: str, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.status = status
        """Of HTTP; None: no answer, or none that can be read."""
        self.retry_after_s = retry_after_s
        """What the server asked for."""

    @property
    def is_gone(self) -> bool:
        """The version asked for is too old: list again."""
        return self.status == GONE

    @property
    def is_final(self) -> bool:
        """The same call would fail again."""
        return self.status is not None and 400 <= self.status < 500 and self.status not in RETRIED

    @property
    def result(self) -> str:
        """For metrics: the status, or `no_answer`."""
        return "no_answer" if self.status is None else str(self.status)


class MalformedAnswer(ApiError):
    """An answer that cannot be read."""

    @property
    def result(self) -> str:
        return "malformed"


def refusal(what: str, status: int, header: str | None, body: bytes) -> ApiError:
    """The error that an HTTP answer is. `header`: its Retry-After, if it has one."""
    answer = parse(body)
    details = answer.get("details")
    seconds = header or (details.get("retryAfterSeconds") if isinstance(details, Mapping) else None)
    reason = f"{what}: {status} {str(answer.get('message', ''))[:200]}".rstrip()
    return ApiError(reason, status, seconds_of(seconds))


def seconds_of(value: Any) -> float | None:
    """From a Retry-After in seconds, which is what API servers send; None for anything else."""
    try:
        return max(0.0, float(int(value)))
    except (TypeError, ValueError):
        return None


def parse(body: bytes) -> Mapping[str, Any]:
    """From a Status; empty where a proxy answered instead of the API server."""
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, Mapping) else {}
