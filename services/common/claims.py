"""What a token says, by the name that a setting gives."""

from collections.abc import Mapping, Sequence
from typing import Any


def find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """The claim of this very name, dots and all (`https://example.com/tenant`); else a nested one, with dots
    between the names (`realm_access.tenant`). None: there is none."""
    if name in claims:
        return claims[name]
    for end in (at for at, letter in enumerate(name) if letter == "."):
        inner = claims.get(name[:end])
        if isinstance(inner, dict) and (found := find_claim(inner, name[end + 1 :])) is not None:
            return found
    return None


def one_text(value: Any) -> Any:
    """A list of one is what it holds, and a whole number is its digits; the rest stays as it is."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return str(value) if type(value) is int else value


def is_meant_for(claims: Mapping[str, Any], names: Sequence[str], audience: Sequence[str]) -> bool:
    """Whether the first claim of these names that a token has, a text or a list, has one of the audience."""
    value = next((found for name in names if (found := find_claim(claims, name)) is not None), None)
    return any(each in audience for each in (value if isinstance(value, list) else [value]))
