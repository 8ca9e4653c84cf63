"""What a session goes on from is in its record from the first moment on, in every store."""

import json
from dataclasses import replace

import pytest

from services.gateway.journal import Beginning, Limits, LimitsSet, connect
from services.gateway.journal.errors import Unreadable
from services.gateway.journal.rules import apply
from services.gateway.journal.ruling import ruling_prompts
from tests.services.support.journal_support import (
    LEASE_S,
    LIMITS,
    Site,
    applied,
    blocks,
    caught_up,
    latents,
    opened,
    replicated,
    segment,
    switch,
)
from tests.services.support.redis_support import RedisServer, needs_redis

CLIP = Beginning({block: bytes([1, 2, 3, block % 256]) for block in range(-3, 0)}, 3)


async def test_another_gateway_finds_it_whoever_wrote_nothing_yet(site: Site) -> None:
    lease = await opened(site.journal(0), request_id="r1", beginning=CLIP)
    theirs = await site.journal(1).load("s1")
    assert (theirs.latents, theirs.num_given_blocks) == (CLIP.latents, 3)
    assert (theirs.next_stage_block, theirs.next_decoder_block) == (0, 0)
    assert theirs.num_bytes == 12 + len(theirs.origin.specification) + len("a red circle")
    assert (await site.journal(1).summary("s1")).record.num_given_blocks == 3
    await site.journal(0).release(lease)
    theirs_now = await site.journal(1).claim("s1", "b", LEASE_S)
    written = await site.journal(1).write(theirs_now, *blocks(0, 5))
    assert sorted(written.latents) == [-3, 2, 3, 4], "the sink is the clip's first block"
    assert written == await site.journal(1).load("s1")


async def test_blocks_that_are_to_be_seen_wait_for_a_decoder(site: Site) -> None:
    shown = Beginning({block: latents(block).data for block in range(4)})
    lease = await opened(site.journal(0), beginning=shown)
    record = await site.journal(1).load("s1")
    assert (record.next_stage_block, record.next_decoder_block, record.num_given_blocks) == (4, 0, 0)
    record = await site.journal(0).write(lease, latents(4))
    assert sorted(record.latents) == [0, 1, 2, 3, 4]


async def test_a_first_frame_stays_until_its_block_is_made(site: Site) -> None:
    lease = await opened(site.journal(0), beginning=Beginning({-1: b"picture"}))
    record = await site.journal(1).load("s1")
    assert (record.first_frame, record.next_stage_block) == (b"picture", 0)
    only_it = replace(LIMITS, num_recent_blocks=1)
    record = await site.journal(0).write(lease, LimitsSet(only_it))
    assert record.first_frame == b"picture"
    record = await site.journal(0).write(lease, latents(0))
    assert record.first_frame is None
    record = await site.journal(0).write(lease, segment(0), latents(1))
    assert -1 not in record.latents


async def test_the_prompt_of_the_clip_stays_while_its_latents_do(site: Site) -> None:
    """The stage is told under which prompt each block of its context was made."""
    limits = replace(LIMITS, num_prompts=6)
    lease = await opened(site.journal(0), beginning=CLIP, limits=limits)
    for number in range(8):
        name = f"r{number}"
        await site.journal(0).write(lease, *blocks(number, number + 1), switch(name))
        record = await site.journal(0).write(lease, applied(name, number + 1, number + 1))
    assert len(record.prompts) == limits.num_prompts
    assert "create/0" in ruling_prompts(record)
    assert apply(record, LimitsSet(Limits())).num_given_blocks == 3


@needs_redis
async def test_who_does_not_know_of_it_leaves_it_alone(server: RedisServer) -> None:
    """A gateway of another release, which would go on without what it began from, does not claim it."""
    journal, other, client = replicated(server), replicated(server), connect(server.url)
    for session, beginning in (("clip", CLIP), ("picture", Beginning({-1: b"picture"})), ("none", None)):
        given = {"beginning": beginning} if beginning else {}
        lease = await opened(journal, session=session, **given)
        await caught_up(journal)
        await journal.release(lease)
        key = f"test:{{{session}}}:head"
        origin = json.loads(await client.hget(key, "origin"))
        assert ("goes_on" in origin) == (beginning is not None), "which a former release refuses"
        assert "goes_on" not in json.loads(await client.hget(key, "brief") or b"{}"), "lists show it"
        await client.hset(key, "origin", json.dumps(origin | {"of_tomorrow": 1}))
        with pytest.raises(Unreadable):
            await other.claim(session, "b", LEASE_S)
        await client.hset(key, "origin", json.dumps(origin))
        assert (await other.claim(session, "b", LEASE_S)).owner == "b", "nobody had claimed it"
    for each in (journal, other):
        await each.close()
    await client.aclose()
