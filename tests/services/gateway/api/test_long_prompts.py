"""Prompts that no tokenizer could make short enough are refused where they are asked for."""

from typing import Any

import grpc
import pytest

from cascade.v1 import session_pb2 as pb
from tests.services.support.fake_stage import FakeStage
from tests.services.support.gateway_support import fails, town

LIMIT = 8
LONG, FITS = ("word " * count for count in (LIMIT + 1, LIMIT))


def violation(details: list[Any]) -> tuple[str, str]:
    (only,) = details[0]["BadRequest"].field_violations
    return only.field, only.description


async def test_at_create_for_each_prompt_of_the_timeline() -> None:
    async with town(stages=[FakeStage(max_prompt_tokens=LIMIT)]) as place:
        models = (await place.anybody.call("ListModels", pb.ListModelsRequest())).models
        assert [model.max_prompt_tokens for model in models] == [LIMIT]
        with fails("INVALID_ARGUMENT INVALID_PROMPT") as details:
            await place.anybody.create(prompts={0: FITS, 4: LONG})
        told = "the prompt has 9 words; the model takes at most 8 tokens"
        assert violation(details) == ("spec.prompts[4]", told)
        assert not (await place.anybody.call("ListSessions", pb.ListSessionsRequest())).sessions
        assert await place.anybody.name(prompts={0: FITS})


async def test_in_a_switch_by_call_and_by_stream() -> None:
    """The session goes on, and a journal has nothing of it."""
    async with town(stages=[FakeStage(max_prompt_tokens=LIMIT)]) as place:
        name = await place.anybody.name()
        async with place.anybody.attached(name) as stream:
            await stream.until_segments(2)
            with fails("INVALID_ARGUMENT INVALID_PROMPT") as details:
                await place.anybody.switch(name, LONG)
            assert violation(details)[0] == "prompt_switch.text"
            await stream.send(switch_prompt={"request_id": "w1", "prompt_switch": {"text": LONG}})
            failed = await stream.first("request_failed")
            assert failed.request_id == "w1"
            assert failed.status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
            await stream.until_segments(4)
        assert "w1" not in [receipt.request_id for receipt in stream.all("prompt_receipt")]


@pytest.mark.parametrize("stages", [[FakeStage()], []])
async def test_what_is_not_known_is_not_refused(stages: list[FakeStage]) -> None:
    """A stage of a former version, and none at all."""
    async with town(stages=stages) as place:
        assert await place.anybody.name(prompts={0: LONG})
