"""Encode: a stranger's picture or clip to a session's first blocks. One decoder serves them all."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import grpc
import numpy as np
import pytest
import pytest_asyncio
import torch
from google.protobuf.duration_pb2 import Duration
from PIL import Image

from cascade.v1 import common_pb2, decoder_pb2
from cascade_core.config import find_card
from cascade_core.media.media import Mp4Writer
from cascade_core.media.vae import load_vae
from cascade_core.weights.locate import locate_part
from demo_world.world import Frames, Scene, World
from services.decoder.start_process import StartProcess
from tests.services.common.test_errors import parts
from tests.services.support.decoder_support import QUICK, WAIT_S, Serving, gone, opening, reason, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")
CPU = torch.device("cpu")
BAD = "tests.services.support.bad_start_worker"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def decoder() -> AsyncIterator[Serving]:
    limits = {"max_encodings": 2, "max_waiting_encodings": 1}
    async with serving(decoder=limits) as decoder:
        assert (await decoder.ready()).can_encode
        yield decoder


def world(num_frames: int = 40) -> Frames:
    return World(seed=3).frames(Scene("blue", "square", "right", "sand"), num_frames)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """40 pictures of the demo's world at 16 fps, as our own MP4."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with Mp4Writer(path, 96, 96, 16) as writer:
        writer.append(torch.from_numpy(world()))
    return path.read_bytes()


def png(pixels: Frames) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


async def encode(decoder: Serving, /, wait_s: float = WAIT_S, **changes: Any) -> list[common_pb2.LatentBlock]:
    file = {name: changes.pop(name) for name in ("image", "video", "fit", "last") if name in changes}
    values = {"session": "s", "model": "demo", "width": 96, "height": 96, "max_blocks": 8} | changes
    request = decoder_pb2.EncodeRequest(**values, file=common_pb2.StartFile(**file))
    return [response.block async for response in decoder.stub.Encode(request, timeout=wait_s)]


async def refused(decoder: Serving, /, **changes: Any) -> tuple[str, str, str]:
    """(reason, field, what is wrong with it)."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await encode(decoder, **changes)
    (violation,) = parts(caught.value)["BadRequest"].field_violations
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return reason(caught.value), violation.field, violation.description


async def fails(decoder: Serving, /, **changes: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await encode(decoder, **changes)
    return reason(caught.value)


def to_latents(blocks: list[common_pb2.LatentBlock]) -> torch.Tensor:
    """All of a clip, [F, C, h, w]."""
    assert [block.index for block in blocks] == list(range(len(blocks)))
    data = [torch.frombuffer(bytearray(block.latents.data), dtype=torch.bfloat16) for block in blocks]
    parts = [values.view(*block.latents.shape) for values, block in zip(data, blocks, strict=True)]
    return torch.cat(parts).float()


def pictures_of(latents: torch.Tensor) -> torch.Tensor:
    """Decoded by the library, beside the service."""
    card = find_card("demo")
    vae = load_vae(card, locate_part(card, None, "vae"), CPU, torch.float32)
    return vae.decode(vae.open(), latents)


def decibels(pictures: torch.Tensor, expected: Frames) -> float:
    error = (pictures.float() - torch.from_numpy(expected).float()).square().mean()
    return float(10 * torch.log10(255**2 / error))


async def test_the_end_of_a_clip_becomes_whole_blocks(decoder: Serving, clip: bytes) -> None:
    blocks = await encode(decoder, video=clip)
    assert [list(block.latents.shape) for block in blocks] == [[3, 16, 12, 12]] * 3
    assert {block.latents.dtype for block in blocks} == {common_pb2.DATA_TYPE_BFLOAT16}
    pictures = pictures_of(to_latents(blocks))
    assert len(pictures) == 33
    assert decibels(pictures, world()[-33:]) > 25
    assert decibels(pictures, world()[:33]) < 25, "not the clip's beginning"
    assert len(await encode(decoder, video=clip, max_blocks=1)) == 1
    assert len(await encode(decoder, video=clip, last=Duration(nanos=10**9))) == 2  # a block is 0.75 s


async def test_a_picture_becomes_a_clip_that_stands_still(decoder: Serving) -> None:
    picture = world()[0]
    (block,) = await encode(decoder, image=png(picture))
    pictures = pictures_of(to_latents([block]))
    assert decibels(pictures, np.repeat(picture[None], 9, axis=0)) > 25


async def test_a_picture_for_a_model_made_for_it_is_one_latent_frame(
    decoder: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    (still,) = await encode(decoder, image=png(world()[0]))
    monkeypatch.setitem(vars(decoder.decoder.servicer._card), "image_start", "first_frame")
    (block,) = await encode(decoder, image=png(world()[0]))
    assert list(block.latents.shape) == [1, 16, 12, 12]
    torch.testing.assert_close(to_latents([block]), to_latents([still])[:1], atol=0.02, rtol=0.02)


async def test_bad_files_are_one_sentence(decoder: Serving, clip: bytes) -> None:
    async def told(**file: Any) -> str:
        why, field, text = await refused(decoder, **file)
        assert (why, field) == ("UNUSABLE_FILE", f"file.{next(iter(file))}")
        return text

    assert await told(image=b"GIF89a") == "is GIF, must be PNG, JPEG or WebP"
    assert await told(image=clip) == "is MP4, must be PNG, JPEG or WebP"
    assert await told(video=png(world()[0])) == "is PNG, must be MP4"
    assert (await told(image=png(world()[0])[:-200])).startswith("is damaged or cut short")
    assert (await told(video=clip[: len(clip) // 2])).startswith("is damaged or cut short")
    bomb = BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    assert await told(image=bomb.getvalue()) == "must have 50.0 megapixels or fewer"
    assert decoder.sample("cascade_decoder_files_refused_total") >= 6


async def test_what_is_not_for_this_decoder(decoder: Serving) -> None:
    image = png(world()[0])
    assert await fails(decoder, image=image, model="nobody") == "UNKNOWN_MODEL"
    assert (await refused(decoder, image=image, width=4096, height=4096))[:2] == (
        "UNSUPPORTED_MEDIA",
        "width",
    )
    assert (await refused(decoder, image=image, max_blocks=65))[:2] == ("INVALID_FIELD", "max_blocks")
    assert (await refused(decoder))[0] == "INVALID_FIELD"
    assert (await refused(decoder, image=image, last=Duration(seconds=1)))[0] == "INVALID_FIELD"


@pytest.mark.parametrize("ill", [b"die", b"lie", b"flood", b"stop in the middle"])
async def test_a_file_that_takes_its_reader_over_fails_alone(
    decoder: Serving, monkeypatch: pytest.MonkeyPatch, ill: bytes
) -> None:
    call = decoder.call()
    await call.send(opening())
    await call.opened()
    worker = decoder.worker
    monkeypatch.setattr(StartProcess, "module", BAD)
    why, field, text = await refused(decoder, video=ill)
    assert (why, field) == ("UNUSABLE_FILE", "file.video")
    assert text.startswith("cannot be opened")
    await call.ask(0)
    assert decoder.worker == worker
    call.stream.cancel()


async def test_tenants_take_turns(decoder: Serving, clip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of a tenant at a time, one waits, a third is told to come again; others are not held up."""
    monkeypatch.setattr(StartProcess, "module", BAD)
    hanging = [asyncio.create_task(encode(decoder, video=b"hang", tenant="a")) for _ in range(2)]
    while decoder.decoder.servicer._turns._num_of["a"] < 2:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    assert await fails(decoder, video=b"hang", tenant="a") == "OVERLOADED"
    monkeypatch.undo()
    assert len(await encode(decoder, video=clip, tenant="b")) == 3
    for task in hanging:
        task.cancel()
    await asyncio.wait(hanging)
    assert len(await encode(decoder, video=clip, tenant="a")) == 3
    assert not decoder.decoder.dispatcher._sessions


async def test_whoever_goes_leaves_no_process(decoder: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StartProcess, "module", BAD)
    started = asyncio.get_running_loop().create_future()
    enter = StartProcess.__aenter__

    async def noted(self: StartProcess) -> StartProcess:
        await enter(self)
        started.set_result(self.pid)
        return self

    monkeypatch.setattr(StartProcess, "__aenter__", noted)
    call = asyncio.create_task(encode(decoder, video=b"hang"))
    pid = await asyncio.wait_for(started, WAIT_S)
    call.cancel()
    await asyncio.wait({call})
    await gone(pid)


async def test_a_file_has_a_deadline(decoder: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StartProcess, "module", BAD)
    settings = decoder.decoder.servicer._settings
    monkeypatch.setitem(vars(settings), "encode_deadline_s", 0.3)
    assert await fails(decoder, video=b"hang") == "DEADLINE_EXCEEDED"
    assert not decoder.decoder.dispatcher._sessions


@pytest.mark.slow
async def test_a_lost_worker_is_told_as_such_and_the_next_one_encodes(decoder: Serving, clip: bytes) -> None:
    os.kill(decoder.worker, signal.SIGSTOP)
    call = asyncio.create_task(fails(decoder, video=clip))
    while not decoder.decoder.dispatcher.num_pending:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    os.kill(decoder.worker, signal.SIGKILL)
    assert await call == "SESSION_LOST"
    await decoder.ready()
    assert len(await encode(decoder, video=clip)) == 3


@pytest.mark.slow
async def test_a_decoder_without_an_encoder_says_so() -> None:
    async with serving(decoder=QUICK) as decoder:
        assert not (await decoder.ready()).can_encode
        assert (await refused(decoder, image=png(world()[0])))[:2] == ("UNSUPPORTED_MEDIA", "model")
