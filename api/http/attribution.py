"""Who makes a change, why, and in which trace: recorded with the change, in its transaction.

The actor is the name of the request's API key. The reason is what the header ``Change-Reason`` or the body
says. Triggers of ``orders`` read all three from settings of the transaction (``shared/database/schema.sql``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from api.http.access import caller_of
from api.http.problems import Fault, malformed
from api.http.request import header_values
from api.http.texts import read_reason
from shared.database.statements import execute
from shared.tracing.spans import current_traceparent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from api.http.request import AnyRequest


@dataclass(frozen=True)
class Attribution:
    """Who makes a change, why, if they said it, and the span in which they do, if traces are exported."""

    actor: str
    reason: str | None = None
    traceparent: str | None = None

    @property
    def values(self) -> tuple[str, str, str]:
        """The arguments of ``set_attribution``."""
        return (self.actor, self.reason or "", self.traceparent or "")


ATTRIBUTION_VALUES = 3
"""How many values ``Attribution.values`` has."""


def set_attribution(first: int) -> str:
    """Write the expressions that attribute what a transaction changes, for ``Attribution.values``.

    They belong into a part of the statement that PostgreSQL always evaluates, such as the query of an INSERT.
    """
    names = ("actor", "reason", "traceparent")
    return ", ".join(
        f"set_config('oms.{name}', ${place}::text, true)" for place, name in enumerate(names, first)
    )


_SET = f"SELECT {set_attribution(1)}"


async def attribute(attribution: Attribution) -> None:
    """Attribute what the current transaction changes from here on."""
    await execute(_SET, *attribution.values)


def read_attribution(request: AnyRequest, reason: str | None = None) -> Attribution:
    """Read who sends a request, and why: from the header, or from the body, whose reason is given here.

    Raises:
        ProblemError: 400, the header is sent twice, is not percent-encoded UTF-8 or is not a reason; or the
            body gives another one.

    """
    headers = header_values(request.scope, b"change-reason")
    if headers:
        try:
            reason = _read_header(headers, reason)
        except ValueError as error:
            raise malformed(Fault(str(error), header="Change-Reason")) from None
    attribution = Attribution(caller_of(request).name, reason, current_traceparent())
    if reason:
        request.scope["log_fields"] = {"reason": reason}  # type: ignore[typeddict-unknown-key]  # a key of our own
    return attribution


def _read_header(headers: Sequence[str], in_body: str | None) -> str:
    if len(headers) > 1:
        raise ValueError("must be sent once")
    try:
        text = unquote_to_bytes(headers[0].encode("ascii")).decode()
    except UnicodeError:
        raise ValueError("must be UTF-8, percent-encoded") from None
    reason = read_reason(text)
    if in_body not in (None, reason):
        raise ValueError("is not the reason in the body; send one of them")
    return reason
