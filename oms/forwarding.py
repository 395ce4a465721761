"""What ``oms listen`` does: read the feed, and post each change, signed, until the receiver acknowledges it.

One change at a time, in the order of positions, and the position is stored after each acknowledgement. So a
receiver gets every change in order, and the last one again only if this process is killed between the two.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec

from oms.errors import CommandError
from oms.http_client import (
    UNREADABLE,
    Api,
    Posted,
    ProblemError,
    Target,
    UnreachableError,
    WrongServerError,
    open_pool,
    post,
)
from oms.listen_state import Listening, StateFile
from worker.webhooks.client import CONTENT_TYPE, Message, signed_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from oms.interruption import Interruption

WAIT_SECONDS = 20
"""How long the API holds back a page that is empty; at most 30."""

POST_SECONDS = 15.0
"""As long as the service gives a webhook."""

PAGE = 100
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0


class _Change(msgspec.Struct, frozen=True):
    """What is read of a change; all of its bytes are posted."""

    id: str
    type: str
    subject: str
    sequence: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,20}$")]


class _Page(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw]
    next_cursor: int


def _read_changes(body: bytes) -> tuple[list[tuple[_Change, bytes]], int]:
    """Return the changes of a page, each with its bytes, and the position that the page ends at.

    Raises:
        WrongServerError: it is not a page of changes.

    """
    try:
        body.decode()  # all of it is posted, not only what is read here
        page = msgspec.json.decode(body, type=_Page)
        items = [bytes(item) for item in page.items]
        return [(msgspec.json.decode(item, type=_Change), item) for item in items], page.next_cursor
    except UNREADABLE:
        raise WrongServerError from None


@dataclass(frozen=True)
class Forwarded:
    """A change that the receiver acknowledged."""

    position: int
    type: str
    order: str
    status: int
    milliseconds: int


class Pauses:
    """Pauses between tries that fail: each twice as long as the one before it, up to a limit."""

    def __init__(self) -> None:
        self._next = FIRST_PAUSE_SECONDS
        self.has_failed = False

    def reset(self) -> None:
        """Begin with the shortest again, as something succeeded."""
        self._next = FIRST_PAUSE_SECONDS
        self.has_failed = False

    def sleep(self) -> None:
        """Pause after a failure."""
        self.has_failed = True
        time.sleep(self._next)
        self._next = min(LONGEST_PAUSE_SECONDS, 2 * self._next)


class Forwarder:
    """Forwards the changes of one API to one receiver."""

    def __init__(
        self,
        api: Api,
        receiver: Target,
        file: StateFile,
        listening: Listening,
        filters: Sequence[tuple[str, str]],
        *,
        interruption: Interruption,
        report: Callable[[Forwarded], None],
        note: Callable[[str], None],
    ) -> None:
        """Create it.

        Args:
            api: whose changes are followed.
            receiver: where they are posted.
            file: where the position is stored.
            listening: what it holds.
            filters: ``type`` and ``calendar`` parameters of the feed.
            interruption: held back while a change is posted and its position stored.
            report: called with each change that was acknowledged.
            note: called with a sentence when something begins to fail, and when it works again.

        """
        self._api = api
        self._receiver = receiver
        self._pool = open_pool(receiver)
        self._file = file
        self.listening = listening
        self._filters = filters
        self._interruption = interruption
        self._report = report
        self._note = note

    def close(self) -> None:
        """Close the connections to the receiver."""
        self._pool.close()

    def forward_once(self) -> int:
        """Read one page of the feed and forward it; return how many changes it had.

        While the API is unreachable it tries again, and while the receiver acknowledges nothing too.

        Raises:
            CommandError: the API refuses to be read from this position, or at all.

        """
        changes, next_cursor = self._read_page()
        for change, body in changes:
            self._forward(change, body)
        # It is past what the filters left out, too.
        self._store(next_cursor)
        return len(changes)

    def _read_page(self) -> tuple[list[tuple[_Change, bytes]], int]:
        query = [
            ("after", str(self.listening.position)),
            ("limit", str(PAGE)),
            ("wait", str(WAIT_SECONDS)),
            *self._filters,
        ]
        pauses = Pauses()
        while True:
            try:
                body = self._api.call_raw("GET", "/order-changes", query=query)
            except UnreachableError as error:
                if not pauses.has_failed:
                    self._note(f"{error} Trying again.")
            except ProblemError as error:
                if error.status_code == 410:  # the log does not continue from the position
                    raise CommandError(
                        f"{error} Start from another position with --after, or from now with --after latest."
                    ) from None
                if not error.is_passing:
                    raise
                if not pauses.has_failed:
                    self._note(f"{error} Trying again.")
            else:
                if pauses.has_failed:
                    self._note("the API answers again")
                return _read_changes(body)
            pauses.sleep()

    def _forward(self, change: _Change, body: bytes) -> None:
        position = int(change.sequence)
        pauses = Pauses()
        while True:
            # What was acknowledged is also stored, so a clean end repeats nothing.
            with self._interruption.held():
                posted = self._post(change, body)
                if posted.acknowledged:
                    self._store(position)
            if posted.acknowledged:
                break
            if not pauses.has_failed:
                self._note(f"change {position} was not acknowledged ({posted.reason}); trying again")
            pauses.sleep()
        if pauses.has_failed:
            self._note("the receiver acknowledges again")
        self._report(
            Forwarded(position, change.type, change.subject, posted.status or 0, posted.milliseconds)
        )

    def _post(self, change: _Change, body: bytes) -> Posted:
        message = Message(self._receiver.url, change.id, body.decode(), [self.listening.secret])
        # Signed anew each time: receivers refuse old timestamps.
        headers = {
            "User-Agent": "oms-listen/1",
            "Content-Type": CONTENT_TYPE,
            **signed_headers(message, datetime.now(UTC)),
        }
        return post(self._pool, self._receiver, body, headers, POST_SECONDS)

    def _store(self, position: int) -> None:
        if position != self.listening.position:
            self.listening = msgspec.structs.replace(self.listening, position=position)
            self._file.write(self.listening)
