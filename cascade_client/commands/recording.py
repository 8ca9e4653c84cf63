"""Saves a stream, shows how far it is, makes the changes that are given in seconds."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from cascade_client.client import Client
from cascade_client.commands.progress import Progress
from cascade_client.commands.wanted import Wanted
from cascade_client.commands.wording import describe, unknown_words
from cascade_client.console import note
from cascade_client.errors import CascadeClientError, WrongState
from cascade_client.events import Attached, Event, PromptReceipt, Segment, StateChanged
from cascade_client.prompts import Prompt, Transition
from cascade_client.save import Saved, save
from cascade_client.session import make_request_id
from cascade_client.stream import Stream

TOO_LATE = "BLOCK_NOT_AHEAD"


class Recording:
    """For one `cascade generate`."""

    def __init__(self, client: Client, stream: Stream, path: Path, wanted: Wanted) -> None:
        self._client = client
        self._stream = stream
        self._path = path
        self._num_blocks = wanted.num_blocks
        self._seconds = None if wanted.num_blocks else wanted.seconds
        self._wanted = wanted
        self._changes = list(wanted.later)
        self._planned: dict[str, tuple[Prompt, int, Transition | None]] = {}
        """request_id -> (prompt, block, transition)."""
        self._asked: set[asyncio.Task[None]] = set()
        self._in_seconds = wanted.seconds is not None
        self._progress = Progress(
            wanted.seconds or wanted.num_blocks or 0, "s" if wanted.seconds else "block"
        )
        self.unknown_words: list[str] = []
        """Of the first prompt."""
        self._is_first = True

    async def save(self) -> Saved:
        try:
            saved = await save(self._stream, self._path, self._show, seconds=self._seconds)
            await asyncio.gather(*self._asked)
            return saved
        except asyncio.CancelledError as error:
            note("; ".join(["stopped", *getattr(error, "__notes__", ())]))
            raise
        finally:
            self._progress.close()
            for task in self._asked:
                task.cancel()
            await asyncio.gather(*self._asked, return_exceptions=True)

    def _show(self, event: Event, saved: Saved) -> None:
        if isinstance(event, Segment):
            self._show_segment(event, saved)
        elif text := describe(event):
            note(text)
        if isinstance(event, Attached | StateChanged | Segment) and self._changes:
            self._spawn(self._ask_all())
        if isinstance(event, PromptReceipt) and is_too_late(event) and event.request_id in self._planned:
            self._spawn(self._switch_now(*self._planned.pop(event.request_id)))

    def _show_segment(self, segment: Segment, saved: Saved) -> None:
        if self._is_first:
            self._is_first = False
            self._spawn(self._tell_unknown_words())
        self._progress.reach(saved.duration_s if self._in_seconds else saved.num_segments, saved.num_frames)

    async def _tell_unknown_words(self) -> None:
        """Of the first prompt; those of later ones come with their receipts."""
        try:
            session = await self._client.get(self._stream.name)
        except CascadeClientError:
            return  # a video is none the worse for it
        for entry in session.message.unknown_words:
            if entry.block == 0:
                self.unknown_words = list(entry.words)
                note(f"prompt: {unknown_words(entry.words)}")

    async def _ask_all(self) -> None:
        """How long a block is, is known from the start on."""
        session = await self._client.get(self._stream.name)
        if not (session.block_frames and session.fps):
            return
        changes, self._changes = self._changes, []
        transition = self._wanted.transition(session.fps, session.block_frames)
        for change in changes:
            frame = (change.seconds or 0.0) * session.fps
            block = round((frame + session.num_missing_frames) / (4 * session.block_frames))
            block = block if change.block is None else change.block
            await self._switch(change.prompt, block, transition)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self._asked.add(asyncio.create_task(work))

    async def _switch(self, prompt: Prompt, block: int, transition: Transition | None) -> None:
        """A block that has started already gives way to the first that has not."""
        request_id = make_request_id()
        self._planned[request_id] = (prompt, block, transition)
        try:
            await self._stream.switch(prompt, at_block=block, transition=transition, request_id=request_id)
        except WrongState as error:
            if error.reason != TOO_LATE or not self._planned.pop(request_id, None):
                raise
            await self._switch_now(prompt, block, transition)

    async def _switch_now(self, prompt: Prompt, block: int, transition: Transition | None) -> None:
        note(f"block {block} has started already: {prompt!r} comes as soon as it can")
        await self._stream.switch(prompt, transition=transition)


def is_too_late(receipt: PromptReceipt) -> bool:
    """Whether it was refused since its block has started already."""
    return receipt.error is not None and receipt.error.reason == TOO_LATE
