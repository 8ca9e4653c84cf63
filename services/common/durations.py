"""Seconds and the contracts' Duration."""

from fractions import Fraction

from google.protobuf.duration_pb2 import Duration

NANOS = 10**9
LEEWAY_S = 30.0
"""By which the clocks of two machines that share none may differ: the identity provider's and ours, a
gateway's and that of an HTTP side of its own. Gateways of one Redis go by its clock."""


def to_duration(time_s: float | Fraction) -> Duration:
    """Rounded to a nanosecond, a Fraction exactly so; what is negative is 0."""
    whole, nanos = divmod(round(max(time_s, 0) * NANOS), NANOS)
    return Duration(seconds=whole, nanos=nanos)


def to_seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / NANOS
