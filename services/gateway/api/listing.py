"""ListSessions: a tenant's sessions, newest first, page by page."""

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cascade.v1 import session_pb2
from services.common.errors import InvalidPageToken, Overloaded
from services.gateway.journal import Journal, Summary
from services.gateway.journal.errors import InvalidEntry
from services.gateway.session import views
from services.gateway.session.live import LiveSession

DEFAULT_PAGE = 50
AT_ONCE = 4
"""Lists that one gateway reads at a time, each of another tenant."""
MAX_WAITING = 16
"""Of one tenant's, which are read one after the other."""
PATIENCE_S = 10.0
"""For a list to have its turn."""
Find = Callable[[str], LiveSession | None]


class Lists:
    """All that are asked of a gateway. They have turns of their own: whoever lists much waits for himself."""

    def __init__(self, journal: Journal, find: Find) -> None:
        """`find`: a session that this gateway has."""
        self._journal = journal
        self._find = find
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._turns_of: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._num_of: Counter[str] = Counter()

    async def read(
        self, request: session_pb2.ListSessionsRequest, tenant: str
    ) -> session_pb2.ListSessionsResponse:
        """A page may be short, since the filter looks at one page of the journal. Raises InvalidPageToken,
        and Overloaded where too many lists of the tenant wait, or wait too long."""
        mark = filter_mark(request)
        position = position_of(request.page_token, mark)
        async with self._turn(tenant):
            try:
                page = await self._journal.list_sessions(tenant, position, request.page_size or DEFAULT_PAGE)
            except InvalidEntry as error:
                raise InvalidPageToken(str(error)) from None
            shown = (view(summary, self._find) for summary in page.sessions)
            sessions = [session for session in shown if matches(session, request)]
        token = f"{mark}.{page.next_page_token}" if page.next_page_token else ""
        return session_pb2.ListSessionsResponse(sessions=sessions, next_page_token=token)

    @asynccontextmanager
    async def _turn(self, tenant: str) -> AsyncIterator[None]:
        if self._num_of[tenant] > MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} lists of this tenant wait for their turn")
        self._num_of[tenant] += 1
        own = self._turns_of[tenant]
        try:
            await entered(own, self._turns)
            try:
                yield
            finally:
                self._turns.release()
                own.release()
        finally:
            self._num_of[tenant] -= 1
            if not self._num_of[tenant]:
                del self._num_of[tenant], self._turns_of[tenant]


async def entered(own: asyncio.Lock, turns: asyncio.Semaphore) -> None:
    """Both, or Overloaded and neither."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            await own.acquire()
            try:
                await turns.acquire()
            except BaseException:
                own.release()
                raise
    except TimeoutError:
        raise Overloaded("this gateway reads as many lists as it may") from None


def position_of(page_token: str, mark: str) -> str:
    """The journal's own token in one of ours. Raises InvalidPageToken."""
    if not page_token:
        return ""
    given, _, position = page_token.partition(".")
    if given != mark or not position:
        raise InvalidPageToken("page_token: is not of a call with this filter")
    return position


def filter_mark(request: session_pb2.ListSessionsRequest) -> str:
    """The same for calls with the same filter."""
    wanted = session_pb2.ListSessionsRequest(states=sorted(request.states), labels=request.labels)
    return hashlib.sha256(wanted.SerializeToString(deterministic=True)).hexdigest()[:12]


def view(summary: Summary, find: Find) -> session_pb2.Session:
    """With the prompt for block 0 only."""
    live = find(summary.record.session)
    session = live.view(is_brief=True) if live else views.session_of(summary.record, summary.epoch)
    for block in [block for block in session.spec.prompts if block]:  # a former release kept no brief
        del session.spec.prompts[block]
    return session


def matches(session: session_pb2.Session, request: session_pb2.ListSessionsRequest) -> bool:
    labels = session.spec.labels
    has_state = not request.states or session.state in request.states
    return has_state and all(labels.get(key) == value for key, value in request.labels.items())
