"""The prompt switches of one stream: each is answered, in the order in which they came."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from cascade_core.engine.session import MAX_UNREAD_EVENTS, PromptApplied, Session
from cascade_core.errors import (
    CascadeError,
    InvalidPrompt,
    InvalidRequest,
    OutOfCapacity,
    SessionClosed,
    SessionLost,
)
from services.common.errors import BlockNotAhead, RequestIdReused, TooManySwitches, with_details
from services.common.prompts import mix_of, transition_of
from services.common.status import describe, reason_of
from services.common.validation import InvalidField
from services.stage import messages
from services.stage.metrics import StageMetrics
from services.stage.opening import MODES, to_choices
from services.stage.receipts import Receipt, Receipts, Response, SwitchPrompt, refused

Send = Callable[[Response], Awaitable[None]]
MAX_WAITING = MAX_UNREAD_EVENTS
"""Further ones are refused until the text encoder has caught up."""
MAX_ANSWERS = 4 * MAX_WAITING
"""Switches and refusals that wait for their turn; beyond it the stream is not read."""


class Switches:
    """Embeds one after the other, so that receipts keep the order of the switches."""

    def __init__(self, session: Session, send: Send, metrics: StageMetrics, request_id: str) -> None:
        """`request_id`: of the call, for the statuses of refused switches."""
        self._session = session
        self._send = send
        self._metrics = metrics
        self._request_id = request_id
        self._receipts = Receipts()
        self._accepting = asyncio.Lock()
        self._answers: asyncio.Queue[SwitchPrompt | str] = asyncio.Queue(MAX_ANSWERS)
        """Of a switch that is refused because too many wait, only the id."""
        self._num_waiting = 0

    async def put(self, switch: SwitchPrompt) -> None:
        """Let it wait for its turn."""
        is_taken = self._num_waiting < MAX_WAITING
        self._num_waiting += is_taken
        await self._answers.put(switch if is_taken else switch.request_id)

    async def run(self) -> None:
        """Answer them; returns when the session has ended, which its events tell."""
        while True:
            switch = await self._answers.get()
            if isinstance(switch, str):
                await self._refuse(switch, TooManySwitches(f"{MAX_WAITING} switches wait already"))
                continue
            try:
                await self._answer(switch)
            except (SessionClosed, SessionLost):
                return
            finally:
                self._num_waiting -= 1

    async def send_applied(self, event: PromptApplied) -> None:
        """The second receipt, behind the first."""
        applied = messages.prompt_applied(event)
        receipt = self._receipts.find(event.request_id) if event.request_id else None
        if receipt:
            await self._send_accepted(receipt)
            receipt.applied = applied
            if receipt.is_now:
                self._metrics.switch_s.observe(time.monotonic() - receipt.came_at_s)
        await self._send(applied)

    async def _send_accepted(self, receipt: Receipt) -> None:
        """Once, by whoever comes first: `run`, or the event that the switch has taken effect."""
        async with self._accepting:
            if not receipt.is_accepted:
                receipt.is_accepted = True
                self._metrics.switches.labels("accepted").inc()
                await self._send(receipt.accepted())

    async def _answer(self, switch: SwitchPrompt) -> None:
        try:
            receipt, is_new = self._receipts.enter(switch)
        except RequestIdReused as error:
            await self._refuse(switch.request_id, error)
            return
        if not is_new:
            for message in receipt.again():
                await self._send(message)
            return
        try:
            await self._embed(switch)
        except TooManySwitches as error:
            self._receipts.forget(receipt)
            await self._refuse(switch.request_id, error)
        except (InvalidPrompt, InvalidField, BlockNotAhead) as error:
            receipt.refusal = describe(error, self._request_id)
            await self._refuse(switch.request_id, error)
        else:
            await self._send_accepted(receipt)

    async def _embed(self, switch: SwitchPrompt) -> None:
        """Raises InvalidPrompt, InvalidField, BlockNotAhead, TooManySwitches, SessionClosed, SessionLost."""
        at_block = switch.at_block if switch.HasField("at_block") else None
        loras = to_choices(switch.loras) if switch.HasField("loras") else None
        try:
            await self._session.switch(
                mix_of(switch.mix) or switch.text,
                MODES[switch.mode],
                switch.request_id,
                at_block,
                loras,
                transition_of(switch.transition),
            )
        except InvalidPrompt as error:
            raise with_details(error, violations=[("switch_prompt.text", str(error))]) from None
        except InvalidRequest as error:  # the rest of what it can mean was validated
            field, _, wrong = str(error).partition(": ")
            if field == "loras":
                raise InvalidField([("switch_prompt.loras", wrong)]) from None
            raise BlockNotAhead(str(error), next_block=self._session.timeline.next_block) from None
        except OutOfCapacity as error:
            raise TooManySwitches(str(error)) from None

    async def _refuse(self, request_id: str, error: CascadeError) -> None:
        self._metrics.switches.labels(reason_of(error).lower()).inc()
        await self._send(refused(request_id, describe(error, self._request_id)))
