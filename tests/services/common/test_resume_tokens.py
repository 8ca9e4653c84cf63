"""Resume tokens: what was signed is what is read, and nothing else is."""

import json
import os
import secrets
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.utils import base64url_encode

from cascade_core.errors import InvalidConfig
from services.common.durations import LEEWAY_S
from services.common.errors import ExpiredCredential, Unauthenticated
from services.common.resume_tokens import NUM_KEYS, PURPOSE, ResumeToken, ResumeTokens, Role, derived

BASE64URL = string.ascii_letters + string.digits + "-_"
TENANTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=128)
SESSIONS = st.text(string.ascii_lowercase + string.digits + "-", min_size=1, max_size=63)
ROLES: st.SearchStrategy[Role] = st.sampled_from(["controller", "viewer"])


class Clock:
    now = 1_800_000_000.25

    def __call__(self) -> float:
        return self.now


TOKENS = ResumeTokens(None, 600.0, Clock())
TOKEN = TOKENS.issue("s-1", "acme", "controller")[0]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(secrets.token_bytes(32))
    return path


@given(SESSIONS, TENANTS, ROLES, st.floats(1, 1e6))
def test_what_was_issued_is_read(session: str, tenant: str, role: Role, ttl_s: float) -> None:
    token, expires_s = TOKENS.issue(session, tenant, role, ttl_s)
    assert expires_s == Clock.now + ttl_s
    assert len(token) <= 2048
    assert TOKENS.read(token) == ResumeToken(session, tenant, role, expires_s)


@pytest.mark.parametrize("letter", ["\U0001f600", "\x01", '"', "x"])
def test_the_longest_names_fit(letter: str) -> None:
    token, _ = TOKENS.issue("s" * 63, letter * 128, "controller")
    assert len(token) <= 2048
    assert TOKENS.read(token).tenant == letter * 128


def test_every_other_character_at_every_place_is_refused() -> None:
    for place, was in enumerate(TOKEN):
        for letter in {*"Aa0-_.=+/ é\x00", BASE64URL[(BASE64URL.find(was) + 1) % 64]} - {was}:
            with pytest.raises(Unauthenticated):
                TOKENS.read(TOKEN[:place] + letter + TOKEN[place + 1 :])
    for letter in set(BASE64URL) - {TOKEN[-1]}:
        with pytest.raises(Unauthenticated):
            TOKENS.read(TOKEN[:-1] + letter)


@pytest.mark.parametrize("end", ["=", "==", ".", " ", "\n"])
def test_nothing_may_follow_a_token(end: str) -> None:
    with pytest.raises(Unauthenticated):
        TOKENS.read(TOKEN + end)


@given(st.data())
@settings(max_examples=300)
def test_cut_doubled_and_lengthened_tokens_are_refused(data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(TOKEN)))
    end = data.draw(st.integers(start, len(TOKEN)))
    between = data.draw(st.text(BASE64URL + ".=\n ", max_size=4))
    changed = TOKEN[:start] + between + TOKEN[end:]
    if changed != TOKEN:
        with pytest.raises(Unauthenticated):
            TOKENS.read(changed)


@given(st.text(max_size=3000))
def test_no_text_is_a_token(text: str) -> None:
    with pytest.raises(Unauthenticated):
        TOKENS.read(text)


def test_a_token_expires() -> None:
    clock = Clock()
    tokens = ResumeTokens(None, 600.0, clock)
    usual, expires_s = tokens.issue("s-1", "acme", "viewer")
    short, _ = tokens.issue("s-1", "acme", "viewer", ttl_s=10)
    clock.now += 10
    with pytest.raises(ExpiredCredential):
        tokens.read(short)
    clock.now = expires_s - 0.001
    assert tokens.read(usual).role == "viewer"
    clock.now = expires_s
    with pytest.raises(ExpiredCredential):
        tokens.read(usual)


def test_a_reader_with_another_clock_allows_for_the_difference() -> None:
    clock = Clock()
    reader = ResumeTokens(None, 0.0, clock, leeway_s=LEEWAY_S)
    token, _ = reader.issue("s-1", "acme", "viewer", 60.0)
    clock.now += 60.0 + LEEWAY_S - 1
    assert reader.read(token).session == "s-1"
    clock.now += 1
    with pytest.raises(ExpiredCredential):
        reader.read(token)


def test_each_process_without_a_file_has_a_key_of_its_own() -> None:
    with pytest.raises(Unauthenticated):
        ResumeTokens(None, 600.0, Clock()).read(TOKEN)


def test_gateways_with_one_file_read_each_others_tokens(key_file: Path) -> None:
    one, other = ResumeTokens(key_file, 600.0), ResumeTokens(key_file, 600.0)
    assert other.read(one.issue("s-1", "acme", "viewer")[0]).session == "s-1"


def test_a_changed_key_signs_and_the_one_before_still_verifies(key_file: Path) -> None:
    tokens = ResumeTokens(key_file, 600.0)
    before, _ = tokens.issue("s-1", "acme", "viewer")
    replace(key_file, secrets.token_bytes(32))
    after, _ = tokens.issue("s-1", "acme", "viewer")
    assert tokens.read(before).session == tokens.read(after).session == "s-1"
    fresh = ResumeTokens(key_file, 600.0)
    assert fresh.read(after).session == "s-1"
    with pytest.raises(Unauthenticated):
        fresh.read(before)
    replace(key_file, b"too short")
    assert fresh.read(tokens.issue("s-1", "acme", "viewer")[0]), "a damaged file changes nothing"


def test_a_key_that_comes_back_is_not_forgotten(key_file: Path) -> None:
    first, second = key_file.read_bytes(), secrets.token_bytes(32)
    tokens = ResumeTokens(key_file, 600.0)
    issued = [tokens.issue("s-1", "acme", "viewer")[0]]
    for content in [second, first] * NUM_KEYS:
        replace(key_file, content)
        issued.append(tokens.issue("s-1", "acme", "viewer")[0])
    assert all(tokens.read(token) for token in issued)


def replace(path: Path, content: bytes) -> None:
    """As a Secret volume does: never half a file, and always another inode."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    os.replace(beside, path)


@pytest.mark.parametrize(
    "spoil",
    [Path.unlink, lambda path: path.write_bytes(b"x" * 31), lambda path: path.write_bytes(b"x" * 70_000)],
    ids=["absent", "short", "large"],
)
def test_a_useless_key_file_is_fatal_and_named(key_file: Path, spoil: Callable[[Path], Any]) -> None:
    spoil(key_file)
    with pytest.raises(InvalidConfig, match=r"gateway\.token_key_file: .*key: "):
        ResumeTokens(key_file, 600.0)


def test_a_key_file_in_pem_works_too(key_file: Path) -> None:
    key_file.write_bytes(b"-----BEGIN PUBLIC KEY-----\n" + b"x" * 64)
    tokens = ResumeTokens(key_file, 600.0)
    assert tokens.read(tokens.issue("s-1", "acme", "viewer")[0])


GOOD = {"aud": PURPOSE, "sub": "s-1", "tenant": "acme", "role": "viewer", "exp": 4e9}


@pytest.mark.parametrize(
    "claims",
    [
        {**GOOD, "aud": "cascade-page"},
        {**GOOD, "role": "owner"},
        {**GOOD, "role": ["viewer"]},
        {**GOOD, "exp": "never"},
        {name: value for name, value in GOOD.items() if name != "tenant"},
        [GOOD],
        7,
    ],
)
def test_what_is_signed_for_another_purpose_is_refused(key_file: Path, claims: Any) -> None:
    tokens, key = ResumeTokens(key_file, 600.0), derived(key_file.read_bytes())

    def signed(what: Any) -> str:
        return jwt.PyJWS().encode(json.dumps(what).encode(), key, "HS256")

    assert tokens.read(signed(GOOD)).tenant == "acme"
    with pytest.raises(Unauthenticated):
        tokens.read(signed(claims))


@pytest.mark.parametrize("algorithm", ["none", "HS384", "HS512"])
def test_other_algorithms_are_refused(key_file: Path, algorithm: str) -> None:
    key = None if algorithm == "none" else derived(key_file.read_bytes()) * 2
    token = jwt.PyJWS().encode(json.dumps(GOOD).encode(), key, algorithm)  # type: ignore[arg-type]
    with pytest.raises(Unauthenticated):
        ResumeTokens(key_file, 600.0).read(token)


def test_a_refusal_does_not_repeat_the_token() -> None:
    damaged = TOKEN[:-4] + base64url_encode(b"xyz").decode()
    with pytest.raises(Unauthenticated) as caught:
        TOKENS.read(damaged)
    assert damaged.split(".")[1] not in str(caught.value)
    assert caught.value.__suppress_context__
