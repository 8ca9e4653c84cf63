"""ListSessions: a tenant's sessions, newest first, page by page."""

import hashlib
from collections.abc import Callable

from cascade.v1 import session_pb2
from services.common.errors import InvalidPageToken
from services.common.turns import Turns
from services.gateway.journal import Journal, Summary
from services.gateway.journal.errors import InvalidEntry
from services.gateway.session import views
from services.gateway.session.live import LiveSession

DEFAULT_PAGE = 50
MAX_WAITING = 16
"""Lists of one tenant that may wait: they are read one after the other."""
Find = Callable[[str], LiveSession | None]


class Lists:
    """The lists that one gateway is asked for."""

    def __init__(self, journal: Journal, find: Find) -> None:
        """`find`: the session of this id, where this gateway has it."""
        self._journal = journal
        self._find = find
        self._turns = Turns("lists", MAX_WAITING)

    async def read(
        self, request: session_pb2.ListSessionsRequest, tenant: str
    ) -> session_pb2.ListSessionsResponse:
        """A page may be short, since the filter looks at one page of the journal. Raises InvalidPageToken
        and Overloaded."""
        mark = filter_mark(request)
        position = position_of(request.page_token, mark)
        async with self._turns.of(tenant):
            try:
                page = await self._journal.list_sessions(tenant, position, request.page_size or DEFAULT_PAGE)
            except InvalidEntry as error:
                raise InvalidPageToken(str(error)) from None
            shown = (view(summary, self._find) for summary in page.sessions)
            sessions = [session for session in shown if matches(session, request)]
        token = f"{mark}.{page.next_page_token}" if page.next_page_token else ""
        return session_pb2.ListSessionsResponse(sessions=sessions, next_page_token=token)


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
    """As lists show it: with the prompt for block 0 alone."""
    live = find(summary.record.session)
    session = live.view(is_brief=True) if live else views.session_of(summary.record, summary.epoch)
    for block in [block for block in session.spec.prompts if block]:  # a former release kept no brief
        del session.spec.prompts[block]
    return session


def matches(session: session_pb2.Session, request: session_pb2.ListSessionsRequest) -> bool:
    labels = session.spec.labels
    has_state = not request.states or session.state in request.states
    return has_state and all(labels.get(key) == value for key, value in request.labels.items())
