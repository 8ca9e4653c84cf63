"""LoRAs on the command line and in the SDK: what is asked for arrives, what nobody lists is told at once."""

import json
from pathlib import Path

import pytest

from cascade.v1 import session_pb2
from cascade_client import Client
from cascade_client.commands.wording import describe
from cascade_client.events import queue_changed, receipt
from cascade_client.session import build_spec, build_switch
from tests.services.client.test_cascade_command import cascade
from tests.services.support.fake_gateway import Script, serving


async def test_generate_and_switch_ask_for_them(tmp_path: Path) -> None:
    async with serving() as gateway, Client(gateway.address) as client:
        at = {"CASCADE_CLIENT_GATEWAY": gateway.address}
        done = await cascade(
            "generate", "x", "--blocks", 2, "--lora", "ink=0.8", "--lora", "clay", cwd=tmp_path, **at
        )
        assert done.status == 0, done.err
        spec = gateway.sessions["sessions/s1"].message.spec
        assert [(each.name, each.scale) for each in spec.loras] == [("ink", 0.8), ("clay", 1.0)]
        strange = await cascade("generate", "x", "--lora", "wool", cwd=tmp_path, **at)
        assert (strange.status, strange.err) == (
            1, "cascade generate: --lora: wool is not one of ink, clay\n"
        )  # fmt: skip
        await client.create("a red circle")
        both = await cascade("switch", "s2", "a star", "--lora", "ink", "--no-loras", **at)
        assert both.err == "cascade switch: --lora and --no-loras exclude each other\n"
        assert (await cascade("switch", "s2", "a star", "--lora", "ink=-1.5", **at)).status == 0
        shown = await cascade("models", **at)
        assert [line.split() for line in shown.out.splitlines()][-2:] == [
            ["ink", "demo", "MIT"],
            ["clay", "demo", "MIT,", "not", "for", "commercial", "use"],
        ]
        (model,) = json.loads((await cascade("models", "--json", **at)).out)
        assert [lora["name"] for lora in model["loras"]] == ["ink", "clay"]
    async with serving(Script(loras=())) as gateway:
        none = await cascade("generate", "x", "--lora", "ink", "--gateway", gateway.address, cwd=tmp_path)
        assert none.err == "cascade generate: --lora: ink is not listed: no stage here lists any\n"


@pytest.mark.parametrize("wrong", ["Ink", "ink=", "ink=x", "ink=4.1", "ink=nan", "=1", ""])
async def test_what_is_no_lora_is_told_before_anything_is_asked(wrong: str) -> None:
    done = await cascade("generate", "x", "--lora", wrong)
    assert done.status == 2
    assert "is not NAME or NAME=SCALE with a scale from -4 to 4, such as ink=0.8" in done.err


def test_a_switch_names_some_none_or_nothing() -> None:
    assert not build_switch("x", None, None).HasField("loras")
    assert build_switch("x", None, None, {}).HasField("loras")
    (one,) = build_switch("x", None, None, {"ink": 0.5}).loras.loras
    assert (one.name, one.scale) == ("ink", 0.5)
    assert not build_spec("x").loras


def test_what_comes_back() -> None:
    message = session_pb2.PromptReceipt(request_id="a", state=session_pb2.SWITCH_STATE_APPLIED)
    assert receipt(message).loras is None
    message.loras.loras.add(name="ink")
    assert receipt(message).loras == {"ink": 1.0}
    status = session_pb2.QueueStatus(position=1, queue_length=2, message="no stage lists LoRA ink now")
    assert describe(queue_changed(status)) == "queue: place 1 of 2 (no stage lists LoRA ink now)"
