"""A request for figures: the position that it is answered at, 304, the checks after reading, and the page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from litestar import Response

from api.fee_summaries import positions
from api.http import fields
from api.http.entity_tags import read_if_none_match
from api.http.json_text import encode_text
from api.http.pages import Page, answer_page, filters_of, limit_of, read_cursor
from api.http.parameters import query_of
from api.http.problems import Fault, malformed
from api.http.read_after import require_summaries
from api.http.responses import BytesResponse
from shared.database.read_places import reading_at
from shared.database.standbys import STANDBYS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from api.fee_summaries.positions import AsOf, ReadAsOf
    from api.http.entity_tags import EntityTags
    from api.http.request import AnyRequest

PlaceT = TypeVar("PlaceT")
RowT = TypeVar("RowT")


class FiguresRequest(Generic[PlaceT]):
    """A request for figures: what they are exact for, and the place after which its page begins.

    Cursors hold the first page's position and time zone, and then the place.
    """

    def __init__(
        self,
        request: AnyRequest,
        as_of: AsOf,
        after: PlaceT | None,
        known_tags: EntityTags | None,
        variant: tuple[object, ...],
    ) -> None:
        self.as_of = as_of
        self.after = after
        """None: this is the first page."""
        self._request = request
        self._known_tags = known_tags
        query = query_of(request)
        self._is_exact = after is not None or "position" in query
        # A later page must have days in the first page's zone, which a rebuild may have changed since.
        self._first_page_zone = as_of.time_zone if after is not None else None
        self._variant = (*variant, query.get("limit"), query.get("cursor"))

    @classmethod
    async def accept(
        cls, request: AnyRequest, read_place: Callable[..., PlaceT], *variant: object
    ) -> FiguresRequest[PlaceT]:
        """Decide which position to return figures for, waiting until it is reached if need be.

        Args:
            request: the request.
            read_place: makes a place from a cursor's values, see ``read_cursor``.
            variant: what else distinguishes this answer from others for the same URL.

        Raises:
            ProblemError: 400, parameters that contradict each other, or an invalid cursor.
            ReportExpiredError, SummariesBehindError, OrderVersionNotFoundError: no such figures.

        """
        known_tags = read_if_none_match(request)
        as_of, after = await _as_of_and_place(request, read_place)
        return cls(request, as_of, after, known_tags, variant)

    @property
    def position(self) -> int | None:
        """The position to read at; None: the current one, even if it has advanced by then."""
        return self.as_of.position if self._is_exact else None

    def not_modified(self) -> Response[bytes] | None:
        """Return 304 if the caller has these figures already; they are not summed for that."""
        headers = self.headers()
        if self._known_tags is not None and self._known_tags.weakly_match(headers["ETag"]):
            return BytesResponse(b"", status_code=304, headers=headers)
        return None

    def check(self, as_of: ReadAsOf) -> None:
        """Check what the rows that were read are exact for, and store it as ``as_of``.

        Raises:
            ReportExpiredError: they are not the figures of the position, see ``positions.check_read``.

        """
        positions.check_read(as_of, self._first_page_zone)
        self.as_of = as_of

    def headers(self) -> dict[str, str]:
        """Return the header ETag of the answer."""
        return {"ETag": self.as_of.etag(filters_of(self._request), *self._variant)}

    def answer(
        self,
        rows: Sequence[RowT],
        show: Callable[[RowT], str],
        place_of: Callable[[RowT], Sequence[object]],
        members: Mapping[str, Any] | None = None,
    ) -> Response[bytes]:
        """Answer with a page of rows.

        Args:
            rows: one more than the page may have, if there is a next page.
            show: writes a row as JSON text.
            place_of: returns a row's place in the list, as a cursor keeps it.
            members: more members of the answer.

        """
        page = Page.of(
            rows,
            limit_of(self._request),
            show,
            lambda row: [self.as_of.position, self.as_of.time_zone, *place_of(row)],
        )
        head = {"as_of": self.as_of.members(), "time_zone": self.as_of.time_zone, **(members or {})}
        answer = answer_page(self._request, page, head=encode_text(head)[1:-1] + ",")
        answer.headers.update(self.headers())
        return answer


async def _as_of_and_place(
    request: AnyRequest, read_place: Callable[..., PlaceT]
) -> tuple[AsOf, PlaceT | None]:
    query = query_of(request)
    exact = query.get("position")
    must_include = "min_position" in query or "after_version" in query
    if exact is not None and must_include:
        raise malformed(Fault("can't be combined with min_position or after_version", parameter="position"))
    continued = read_cursor(
        request,
        lambda position, zone, *place: (fields.read_position(position), str(zone), read_place(*place)),
    )
    if continued is not None:
        # The first page has waited, and its cursor has the position that this page continues at.
        position, zone, place = continued
        await require_summaries(position)
        as_of = await positions.read_as_of(position)
        positions.check_available(as_of, zone)
        return as_of, place
    # The primary knows first, and one poll there serves all that wait. A standby that has reached what the
    # primary has now then sums the figures: for one reader, their position never goes back.
    with reading_at(None):
        if exact is not None or must_include:
            reached = await positions.wait_for(
                max(query.get("min_position", 0), exact or 0),
                query.get("after_version"),
                query.get("wait", positions.DEFAULT_WAIT_SECONDS),
            )
        elif STANDBYS.all:
            reached = (await positions.read_as_of(None)).position
        else:
            reached = 0
    await require_summaries(reached)
    as_of = await positions.read_as_of(exact)
    positions.check_available(as_of)
    return as_of, None
