"""Names that users rely on stay: `tests/surface.json` holds what has been promised."""

import copy
import json

import pytest

from tests import surface


def test_what_was_promised_is_kept_and_what_is_new_is_written() -> None:
    promised = json.loads(surface.PATH.read_text())
    broken, new = surface.differences(promised, surface.surface())
    assert not broken, "\n".join(broken)
    assert not new, "\n".join(["make surface, and read the diff:", *new])
    assert surface.text(promised) == surface.PATH.read_text(), "written by hand"


@pytest.mark.parametrize("part", json.loads(surface.PATH.read_text()))
def test_a_change_is_seen(part: str) -> None:
    before = json.loads(surface.PATH.read_text())
    now = copy.deepcopy(before)
    (gone, changed, *_), added = before[part], "another"
    del now[part][gone]
    now[part][changed] = [now[part][changed]]
    now[part][added] = None
    broken, new = surface.differences(before, now)
    assert [each.split(" is gone")[0] for each in broken if "is gone" in each] == [f"{part}: {gone}"]
    assert [each.split(" was ")[0] for each in broken if " was " in each] == [f"{part}: {changed}"]
    assert new == [f"{part}: {added} is new: null"]
