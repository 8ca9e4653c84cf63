"""Pictures and clips in JSON: large bodies of one kind, from callers who may call, a few at a time."""

import asyncio
import base64
import json
from typing import Any

import httpx2
import pytest

from tests.services.support.fake_decoder import ENCODE
from tests.services.support.gateway_support import fresh_id, until
from tests.services.support.http_support import HttpTown, create, fields, http_town, problem, spec

MIB = 2**20
PICTURE = bytes(range(256)) * (3 * MIB // 256)
FORMS = {
    "standard": base64.b64encode(PICTURE).decode(),
    "url": base64.urlsafe_b64encode(PICTURE).decode(),
    "no_padding": base64.b64encode(PICTURE).decode().rstrip("="),
    "lines": base64.encodebytes(PICTURE).decode().replace("\n", "\\r\\n"),
    "escaped": base64.b64encode(PICTURE).decode().replace("/", "\\/"),
}


def body(text: str, **more: Any) -> str:
    """`text`: as it stands in the JSON."""
    values = {"requestId": fresh_id(), "spec": spec(start={"image": "PICTURE"}, **more)}
    return json.dumps(values).replace("PICTURE", text)


async def post(place: HttpTown, content: str, visitor: httpx2.AsyncClient | None = None) -> httpx2.Response:
    headers = {"content-type": "application/json"}
    return await (visitor or place.visitor).post("/v1/sessions", content=content, headers=headers)


@pytest.mark.parametrize("form", FORMS)
async def test_a_picture_arrives_as_it_was(form: str) -> None:
    async with http_town() as place:
        answer = await post(place, body(FORMS[form]))
        assert answer.status_code == 201, answer.text
        assert answer.json()["session"]["spec"]["start"]["image"] == ""
        assert place.town.decoder.encoded[0].file.image == PICTURE


async def test_a_small_one_needs_no_special_way() -> None:
    async with http_town() as place:
        clip = {"video": base64.b64encode(b"abc").decode(), "fit": "FIT_PAD", "last": "2s"}
        session = await create(place.visitor, spec=spec(start=clip, includeStart=True))
        assert session["spec"]["start"] == {"video": "", "fit": "FIT_PAD", "last": "2s"}
        asked = place.town.decoder.encoded[0]
        assert (asked.file.video, asked.file.last.seconds) == (b"abc", 2)


async def test_what_is_wrong_is_said_by_its_field() -> None:
    long = "A" * (2 * MIB)
    async with http_town() as place:
        wrong = problem(await post(place, body(long[:-1] + "=A")), 400, "INVALID_FIELD")
        assert fields(wrong) == ["spec.start.image"]
        twice = body(long).replace('"image"', '"video": "AAAA", "image"')
        problem(await post(place, twice), 400, "INVALID_FIELD")
        elsewhere = json.dumps({"requestId": "r", "spec": spec(labels={"image": long})})
        wrong = problem(await post(place, elsewhere), 400, "INVALID_FIELD")
        assert fields(wrong) == ["spec.start.image"]
        problem(await post(place, json.dumps({"requestId": "r", "spec": spec(model=long)})), 413)
        problem(await post(place, body("A" * (16 * MIB))), 413)
        still = {"image": "AAAA", "last": "2s"}
        answer = await place.visitor.post("/v1/sessions", json={"requestId": "r", "spec": spec(start=still)})
        assert "last is for a video" in problem(answer, 400, "INVALID_FIELD")["detail"]
        assert not place.town.decoder.encoded


@pytest.mark.parametrize("number", [12, 3 * MIB])
@pytest.mark.parametrize("start", ["data:image/png;base64,", "%", "@cat.png"])
async def test_what_is_no_base64_is_not_taken_for_another_file(start: str, number: int) -> None:
    """The characters around it are not left out."""
    async with http_town() as place:
        answer = await post(place, body(start + "A" * number))
        wrong = problem(answer, 400, "INVALID_FIELD")
        assert wrong["detail"] == "spec.start.image: must be base64 and nothing else"
        assert not place.town.decoder.encoded


async def test_a_small_one_may_have_lines_and_there_is_one() -> None:
    async with http_town() as place:
        start = {"image": base64.encodebytes(bytes(100)).decode()}
        await create(place.visitor, spec=spec(start=start))
        assert place.town.decoder.encoded[0].file.image == bytes(100)
        both = {"requestId": "r", "spec": spec(start={"image": "AAAA", "video": "AAAA"})}
        wrong = problem(await place.visitor.post("/v1/sessions", json=both), 400, "INVALID_FIELD")
        assert wrong["detail"] == "spec.start: can have only one file"


async def test_nobody_sends_much_without_a_credential() -> None:
    async with http_town(tenants=("acme", "other")) as place:
        problem(await post(place, body(FORMS["url"])), 401, "UNAUTHENTICATED")
        async with place.as_tenant("acme") as acme, place.as_tenant("other") as other:
            place.town.decoder.faults[ENCODE] = ["silent"] * 4
            slow = [asyncio.create_task(post(place, body(FORMS["url"]), acme)) for _ in range(4)]
            await until(lambda: len(place.town.decoder.encoded) == 4)
            problem(await post(place, body(FORMS["url"]), acme), 429, "OVERLOADED")
            assert (await post(place, body(FORMS["url"]), other)).status_code == 201
            for task in slow:
                task.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
