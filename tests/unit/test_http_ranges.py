"""Ranges of bytes in requests."""

import pytest

from services.web.ranges import Unsatisfiable, parse_range


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes=0-", range(0, 10)),
        ("bytes=0-0", range(0, 1)),
        ("bytes=3-5", range(3, 6)),
        ("Bytes = 3 - 5", range(3, 6)),
        ("bytes=3-99", range(3, 10)),
        ("bytes=-3", range(7, 10)),
        ("bytes=-99", range(0, 10)),
        ("bytes=9-", range(9, 10)),
        ("bytes=-", None),
        ("bytes=5-3", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("items=0-1", None),
        ("", None),
    ],
)
def test_ranges(header: str, found: range | None) -> None:
    assert parse_range(header, 10) == found


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=999999999999-"])
def test_ranges_of_nothing(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        parse_range(header, 10)
