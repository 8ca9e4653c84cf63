"""A record as two Redis hashes: `head`, of which lists read what is small, and `data` (latents and segments).

Two releases share one Redis while gateways are upgraded: fields may be added, which the former one passes
over, and any field that it does not write may be missing."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from pydantic import ConfigDict, TypeAdapter

from services.gateway.journal.record import (
    BRIEF_NOTES,
    KeptSegment,
    Limits,
    Loras,
    NewSession,
    Prompt,
    Record,
)

Fields = Mapping[bytes, bytes]
NEW_OF_ORIGIN = ("mixes", "transitions", "goes_on")
NEW_OF_PROMPT = ("mix", "transition", "last_block_mixed")
"""Fields that the former release does not know: its gateways can read a session that uses none of them, and
leave any other to the gateways of this one."""

_ORIGIN = TypeAdapter(NewSession)
_LIMITS = TypeAdapter(Limits)
_PROMPT = TypeAdapter(Prompt)
_LORAS: TypeAdapter[Loras] = TypeAdapter(Loras)
_ORDER = TypeAdapter(tuple[str, ...])
_REQUESTS: TypeAdapter[dict[str, bytes]] = TypeAdapter(
    dict[str, bytes], config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)
BRIEF_FIELDS = (
    *("brief", "cursors", "given", "created_ms", "limits", "end", "revision", "owner", "epoch", "lease_ms"),
    *(f"n/{name}" for name in BRIEF_NOTES),
)
"""What lists read of a head."""


@dataclass(frozen=True)
class Stored:
    """What Redis has of a record: enough to tell what it lacks, without the bytes of old data."""

    head: Record
    """Without latents and segments."""
    latents: frozenset[int]
    segments: range


@dataclass(frozen=True)
class Update:
    """What brings Redis from one revision to another."""

    expected: int | None
    """None: this is the whole, whatever Redis has."""
    revision: int
    num_data: int
    """Fields of `data` that there will be."""
    has_ended: bool
    head: dict[str, bytes] = field(default_factory=dict)
    data: dict[str, bytes] = field(default_factory=dict)
    old_head: list[str] = field(default_factory=list)
    old_data: list[str] = field(default_factory=list)


def outline(record: Record) -> Stored:
    """What Redis has once it has this record."""
    segments = range(record.oldest_segment_block, record.next_decoder_block)
    return Stored(replace(record, latents={}, segments=()), frozenset(record.latents), segments)


def no_difference(stored: Stored) -> Update:
    """Only asks whether Redis still has this."""
    num_data = len(stored.latents) + len(stored.segments)
    return Update(stored.head.revision, stored.head.revision, num_data, bool(stored.head.end))


def difference(stored: Stored | None, record: Record) -> Update:
    """From what is stored, or nothing, to this record."""
    latents = stored.latents if stored else frozenset()
    segments = stored.segments if stored else range(0)
    data = {f"l{block}": data for block, data in record.latents.items() if block not in latents}
    data |= {f"s{kept.block}": kept.data for kept in record.segments if kept.block not in segments}
    old_data = [f"l{block}" for block in latents if block not in record.latents]
    old_data += [f"s{block}" for block in segments if block < record.oldest_segment_block]
    before = stored.head if stored else None
    return Update(
        before.revision if before else None,
        record.revision,
        _num_data(record),
        bool(record.end),
        _head(before, record),
        data,
        _old_head(before, record),
        old_data,
    )


def decode(head: Fields, data: Fields) -> Record:
    """The record; without latents and segments where `data` is empty."""
    prompts = {name: _PROMPT.validate_json(value) for name, value in _named(head, "p/").items()}
    for name, value in _named(head, "w/").items():
        prompts[name] = replace(prompts[name], loras=_LORAS.validate_json(value))
    numbers = list(map(int, head[b"cursors"].split()))
    brief = _ORIGIN.validate_json(head[b"brief"]).specification if b"brief" in head else b""
    latents = {int(name[1:]): value for name, value in data.items() if name.startswith(b"l")}
    segments = {int(name[1:]): value for name, value in data.items() if name.startswith(b"s")}
    return Record(
        origin=replace(_ORIGIN.validate_json(head[b"origin"]), brief=brief),
        created_ms=int(head[b"created_ms"]),
        limits=_LIMITS.validate_json(head[b"limits"]),
        prompts=tuple(prompts[request_id] for request_id in _ORDER.validate_json(head[b"order"])),
        num_given_blocks=int(head.get(b"given", 0)),
        cuts=tuple(map(int, head.get(b"cuts", b"").split())),
        next_stage_block=numbers[0],
        next_decoder_block=numbers[1],
        num_acked=numbers[2],
        latents=dict(sorted(latents.items())),
        segments=tuple(KeptSegment(block, segments[block]) for block in sorted(segments)),
        notes=_named(head, "n/"),
        requests=_REQUESTS.validate_json(head[b"requests"]),
        end=head[b"end"],
        revision=int(head[b"revision"]),
        num_bytes=numbers[3],
    )


def decode_brief(head: Fields) -> Record:
    """`Record.brief`, from BRIEF_FIELDS; one that a former release wrote has no `brief`, but its `origin`."""
    origin = head.get(b"brief") or head[b"origin"]
    return decode({**head, b"origin": origin, b"order": b"[]", b"requests": b"{}"}, {}).brief()


def stored_data(head: Fields) -> tuple[int, int]:
    """(number of fields, bytes) that the `data` of this head has, or a little fewer bytes."""
    numbers = list(map(int, head[b"cursors"].split()))
    return numbers[4], numbers[3]


def _head(before: Record | None, record: Record) -> dict[str, bytes]:
    """The fields that differ. Parts that `apply` left alone are the very same objects."""
    numbers = (record.next_stage_block, record.next_decoder_block, record.num_acked)
    cursors = " ".join(map(str, (*numbers, record.num_bytes, _num_data(record))))
    fields = {"cursors": cursors.encode()}
    if before is None:
        fields["origin"] = _origin(record.origin)
        if record.origin.brief:
            fields["brief"] = _origin(record.origin.in_brief())
        if record.num_given_blocks:
            fields["given"] = str(record.num_given_blocks).encode()
        fields["created_ms"] = str(record.created_ms).encode()
        fields["digest"] = record.origin.digest().encode()
    if record.cuts and (before is None or before.cuts != record.cuts):
        fields["cuts"] = " ".join(map(str, record.cuts)).encode()
    if before is None or before.end != record.end:
        fields["end"] = record.end
    if before is None or before.limits is not record.limits:
        fields["limits"] = _LIMITS.dump_json(record.limits)
    if before is None or before.requests is not record.requests:
        fields["requests"] = _REQUESTS.dump_json(dict(record.requests))
    if before is None or before.prompts is not record.prompts:
        known = {entry.request_id: entry for entry in before.prompts} if before else {}
        changed = [entry for entry in record.prompts if known.get(entry.request_id) is not entry]
        fields |= {f"p/{entry.request_id}": _prompt(entry) for entry in changed}
        fields |= {
            f"w/{entry.request_id}": _LORAS.dump_json(entry.loras)
            for entry in changed
            if entry.loras is not None
        }
        fields["order"] = _ORDER.dump_json(tuple(entry.request_id for entry in record.prompts))
    notes = before.notes if before else {}
    if notes is not record.notes:
        fields |= {f"n/{name}": value for name, value in record.notes.items() if notes.get(name) != value}
    return fields


def _origin(origin: NewSession) -> bytes:
    """Without what a former release would refuse, where it says nothing, and what is kept elsewhere: LoRAs
    with the first prompt, the beginning as latents."""
    left_out = {"brief", "loras", "beginning", *_empty(origin, NEW_OF_ORIGIN)}
    return _ORIGIN.dump_json(origin, exclude=left_out)


def _prompt(entry: Prompt) -> bytes:
    """Without its LoRAs, which a former release would refuse, and what says nothing."""
    return _PROMPT.dump_json(entry, exclude={"loras", *_empty(entry, NEW_OF_PROMPT)})


def _empty(value: object, names: Iterable[str]) -> set[str]:
    return {name for name in names if not getattr(value, name)}


def _old_head(before: Record | None, record: Record) -> list[str]:
    if before is None:
        return []
    gone = [f"n/{name}" for name in before.notes if name not in record.notes]
    if before.prompts is not record.prompts:
        kept = {entry.request_id for entry in record.prompts}
        dropped = [entry for entry in before.prompts if entry.request_id not in kept]
        gone += [f"p/{entry.request_id}" for entry in dropped]
        gone += [f"w/{entry.request_id}" for entry in dropped if entry.loras is not None]
    return gone


def _num_data(record: Record) -> int:
    return len(record.latents) + len(record.segments)


def _named(fields: Fields, prefix: str) -> dict[str, bytes]:
    start = prefix.encode()
    return {name[len(start) :].decode(): value for name, value in fields.items() if name.startswith(start)}
