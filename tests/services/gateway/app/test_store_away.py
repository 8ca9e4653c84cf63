"""What clients hear while Redis does not answer: in every call one sentence, with nothing of Redis' own."""

import asyncio
from pathlib import Path

import grpc

from cascade.v1 import session_pb2 as pb
from services.common.resume_tokens import ResumeTokens
from tests.services.support.gateway_support import CONTROLLER, Tenant, fresh_id, reason_of, town
from tests.services.support.redis_support import RedisServer, needs_redis

pytestmark = needs_redis
NAME = "sessions/elsewhere"
SWITCH = pb.PromptSwitch(text="a blue square")


def calls(anybody: Tenant, token: str) -> dict[str, object]:
    """One of each that looks for a session."""
    named = {"name": NAME, "request_id": fresh_id()}
    return {
        "CreateSession": anybody.create(),
        "GetSession": anybody.get(NAME),
        "ListSessions": anybody.call("ListSessions", pb.ListSessionsRequest()),
        "DeleteSession": anybody.delete(NAME),
        "SwitchPrompt": anybody.call("SwitchPrompt", pb.SwitchPromptRequest(**named, prompt_switch=SWITCH)),
        "PauseSession": anybody.pause(NAME),
        "ResumeSession": anybody.resume(NAME),
        "IssueResumeToken": anybody.token(NAME),
        "Connect": anybody.stream().attach(name=NAME),
        "Connect with a token": anybody.stream(with_credential=False).attach(
            resume_token=token, role=CONTROLLER
        ),
    }


async def test_every_call_says_what_it_is(redis: RedisServer, tmp_path: Path) -> None:
    key = tmp_path / "token"
    key.write_bytes(bytes(range(32)))
    async with town(redis_url=redis.url, token_key_file=key, advertise="127.0.0.1:1") as place:
        name = await place.anybody.name()
        token = ResumeTokens(key, 60.0).issue("elsewhere", "default", "controller")[0]
        redis.freeze()
        asked = calls(place.anybody, token)
        answers = await asyncio.gather(*asked.values(), return_exceptions=True)
        told = {
            call: (reason_of(error), error.details())
            for call, error in zip(asked, answers, strict=True)
            if isinstance(error, grpc.aio.AioRpcError)
        }
        sentence = ("UNAVAILABLE JOURNAL_UNAVAILABLE", "the journal's store did not answer in time")
        assert told == dict.fromkeys(asked, sentence)
        assert (await place.anybody.get(name)).name == name, "those that are here go on"
        redis.thaw()
