"""One Encode call: a file to pictures in a process of its own, the pictures to latents at the worker, block
by block."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from fractions import Fraction

from cascade.v1 import common_pb2, decoder_pb2
from cascade_core.config import ModelCard
from cascade_core.errors import UnusableFile
from cascade_core.media.start.start_file import Fit, Kind, StartBounds, StartFile, StartShape
from services.common.durations import to_seconds
from services.common.errors import with_details
from services.decoder.dispatcher import DecoderSession, Dispatcher
from services.decoder.messages import Answer, EncodePictures, PicturesEncoded
from services.decoder.settings import DecoderSettings
from services.decoder.start_messages import Task
from services.decoder.start_process import StartProcess
from services.decoder.video_settings import MAX_DENOMINATOR

Request = decoder_pb2.EncodeRequest
FITS: dict[common_pb2.Fit.ValueType, Fit] = {
    common_pb2.FIT_UNSPECIFIED: "crop",
    common_pb2.FIT_CROP: "crop",
    common_pb2.FIT_PAD: "pad",
}


def make_task(request: Request, card: ModelCard, settings: DecoderSettings) -> Task:
    """What the process that opens the file has to know."""
    file = request.file
    kind: Kind = "video" if file.HasField("video") else "image"
    fps = Fraction(request.fps or card.video.fps).limit_denominator(MAX_DENOMINATOR)
    return Task(
        StartFile(
            kind=kind,
            data=file.video if kind == "video" else file.image,
            fit=FITS[file.fit],
            last_s=to_seconds(file.last) if file.HasField("last") else None,
        ),
        StartShape(request.width, request.height, fps, card.window.block_frames, request.max_blocks),
        StartBounds(
            max_pixels=settings.start_max_pixels, max_s=settings.start_max_s, max_cpu_s=settings.start_cpu_s
        ),
        settings.start_memory_bytes,
    )


class Encoding:
    """What becomes of one file. `blocks` once."""

    def __init__(self, task: Task, card: ModelCard, dispatcher: Dispatcher) -> None:
        self._task = task
        self._card = card
        self._dispatcher = dispatcher
        self._answers: asyncio.Queue[Answer | Exception] = asyncio.Queue()
        """One answer to each job, and one job at a time."""

    async def blocks(self) -> AsyncGenerator[common_pb2.LatentBlock, None]:
        """Raises UnusableFile with the field's name, NotReady, SessionLost, OSError."""
        clip = self._dispatcher.open_clip(self._answers.put_nowait)
        self._dispatcher.metrics.files.inc()
        try:
            async with StartProcess(self._task) as process, aclosing(self._latents(process, clip)) as latents:
                async for block in self._in_blocks(latents):
                    yield block
        except UnusableFile as error:
            self._dispatcher.metrics.files_refused.inc()
            raise with_details(error, violations=[(f"file.{self._task.file.kind}", str(error))]) from None
        finally:
            self._dispatcher.close(clip)

    async def _in_blocks(self, latents: AsyncIterator[bytes]) -> AsyncIterator[common_pb2.LatentBlock]:
        shape, index, parts = self._block_shape(), 0, list[bytes]()
        async for latent in latents:
            parts.append(latent)
            if len(parts) == shape[0]:
                data = b"".join(parts)
                tensor = common_pb2.Tensor(dtype=common_pb2.DATA_TYPE_BFLOAT16, shape=shape, data=data)
                yield common_pb2.LatentBlock(index=index, latents=tensor)
                index, parts = index + 1, []
        assert not parts, f"{len(parts)} latent frames are left over"

    def _block_shape(self) -> tuple[int, int, int, int]:
        shape = self._card.latent_shape(self._task.shape.height, self._task.shape.width)
        return (1, *shape[1:]) if self.is_first_frame else shape

    @property
    def is_first_frame(self) -> bool:
        """Whether the model takes a picture as the first latent frame of its first block."""
        return self._task.file.kind == "image" and self._card.image_start == "first_frame"

    async def _latents(self, process: StartProcess, clip: DecoderSession) -> AsyncGenerator[bytes, None]:
        """One latent frame each, [1, C, h, w]: of one picture at first, then of four."""
        async with aclosing(self._pictures(process)) as pictures:
            yield await self._encode(clip, [await anext(pictures)])
            four: list[bytes] = []
            async for picture in pictures:
                four.append(picture)
                if len(four) == 4:
                    yield await self._encode(clip, four)
                    four = []

    async def _pictures(self, process: StartProcess) -> AsyncGenerator[bytes, None]:
        """Those of a clip; of a still as many as the model needs."""
        num_pictures = await process.num_pictures()
        picture = b""
        for _ in range(num_pictures):
            picture = await process.picture()
            yield picture
        if self._task.file.kind == "image" and not self.is_first_frame:
            for _ in range(4 * self._task.shape.block_frames * self._card.still_blocks - 3 - num_pictures):
                yield picture

    async def _encode(self, clip: DecoderSession, pictures: list[bytes]) -> bytes:
        shape = (len(pictures), self._task.shape.height, self._task.shape.width, 3)
        self._dispatcher.submit(clip, EncodePictures(clip.id, shape, b"".join(pictures)))
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, PicturesEncoded), answer
        return answer.data
