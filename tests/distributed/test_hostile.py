"""Values of the wrong type or size: the caller gets an error that names the field, nobody else notices."""

import asyncio
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade_core.engine.engine import Engine
from cascade_core.errors import InvalidPrompt, InvalidRequest, SessionLost
from cascade_core.prompts import MAX_PROMPT_CHARACTERS
from cascade_core.request import SessionRequest
from tests.engine_support import engine_config

REQUEST = SessionRequest({0: "a red circle"}, num_blocks=4)


BAD_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"width": 32.0}, "width"),
    ({"num_blocks": 1.5}, "num_blocks"),
    ({"seed": 1.5}, "seed"),
    ({"credit": True}, "credit"),
    ({"start_block": 0.0}, "start_block"),
    ({"prompts": {0: None}}, "prompts.0"),
    ({"prompts": {"0": "a"}}, "prompts"),
    ({"prompts": "a red circle"}, "prompts"),
    ({"context": {0: [0.0, 0.0, 0.0]}}, "context.0"),
    ({"context": {0: np.array(["0"])}}, "context.0"),
    ({"switch_mode": "soon"}, "switch_mode"),
    ({"fps": "16"}, "fps"),
    ({"fps": True}, "fps"),
    ({"width": 4096, "height": 4096}, "width, height"),
]


async def test_open(card: Path) -> None:
    async with await Engine.start(engine_config(card, max_pixels=4096)) as engine:
        for changes, field in BAD_REQUESTS:
            with pytest.raises(InvalidRequest, match=rf"^{field}"):
                await engine.open(replace(REQUEST, **changes))
            assert engine.status.num_sessions == 0, changes
            assert engine.status.num_restarts == 0, changes


async def test_switch(card: Path) -> None:
    async with await Engine.start(engine_config(card)) as engine:
        session = await engine.open(REQUEST)
        bad: list[tuple[str, dict[str, Any]]] = [
            ("prompt", {"prompt": None}),
            ("mode", {"prompt": "x", "mode": "nonsense"}),
            ("at_block", {"prompt": "x", "at_block": "3"}),
            ("at_block", {"prompt": "x", "at_block": 99}),
            ("request_id", {"prompt": "x", "request_id": 7}),
        ]
        for field, arguments in bad:
            with pytest.raises(InvalidRequest, match=rf"^{field}: "):
                await session.switch(**arguments)
        for prompt in (" ", "x" * (MAX_PROMPT_CHARACTERS + 1)):
            with pytest.raises(InvalidPrompt):
                await session.switch(prompt)
        blocks = [event async for event in session]
        assert len(blocks) == 5
        assert engine.status.num_restarts == 0


async def test_a_crowd_waits_without_harm_to_anyone(card: Path) -> None:
    """Opens queue for the text encoder; the deadline of one counts from its own turn."""
    config = engine_config(card, max_sessions=64, request_deadline_s=5.0)
    async with await Engine.start(config) as engine:
        crowd = [engine.open(replace(REQUEST, prompts={0: f"number {number}"})) for number in range(40)]
        sessions = await asyncio.gather(*crowd)
        assert engine.status.num_restarts == 0
        assert [event async for event in sessions[-1]]
        for session in sessions:
            await session.close()


async def test_a_lost_session_says_so_on_every_call(card: Path) -> None:
    async with await Engine.start(engine_config(card)) as engine:
        session = await engine.open(replace(REQUEST, credit=0))
        os.kill(engine.status.process_ids[0], signal.SIGKILL)
        with pytest.raises(SessionLost):
            await anext(session)
        for call in (session.pause, session.resume, lambda: session.grant(1)):
            with pytest.raises(SessionLost):
                call()
        with pytest.raises(SessionLost):
            await session.switch("a blue square")


async def test_ranks_import_nothing_from_the_current_folder(
    card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("queue.py", "ftfy.py"):
        (tmp_path / name).write_text("raise SystemExit('not mine')")
    monkeypatch.chdir(tmp_path)
    async with await Engine.start(engine_config(card)) as engine:
        assert engine.status.ready
