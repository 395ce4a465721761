"""A whole report as CSV: each line says what it is exact for, so that a saved file still tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.fee_summaries.positions import Standing, refuse_changed
from api.fee_summaries.reports import ReportQuery, item_figures, total_figures
from api.http.row_streams import csv_lines
from api.http.times import utc_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.database.rows import Row

FIGURES = ("orders", "totalfee", "averagefee", "minfee", "maxfee")
CSV_HEAD = csv_lines(
    [("period", "service_id", "service_name", "calendar", *FIGURES, "position", "time", "time_zone")]
)


class CsvReport:
    """Writes the rows of a report's statement; that of the totals, which comes first, is the last line."""

    standing: Standing

    def __init__(self, query: ReportQuery) -> None:
        self._query = query
        self._total: Row | None = None

    def lines(self, found: Sequence[Row]) -> bytes:
        """Write some rows, in the order of the statement.

        Raises:
            ReportExpiredError, ReportTooLargeError: the report can't be given; with the first rows only.

        """
        if self._total is None:
            total, *found = found
            self._total, self.standing = total, Standing.of(total)
            refuse_changed(self.standing, total["reversed"])
            self._query.refuse_too_large(total)
        return csv_lines(
            self._cells(
                row["period"].isoformat(),
                [row["service_id"] or None, row["service"], row["calendar"]],
                item_figures(self._query, row),
            )
            for row in found
        )

    def total_line(self) -> bytes:
        """Write the totals."""
        if self._total is None:
            return b""
        return csv_lines([self._cells("total", [None, None, None], total_figures(self._query, self._total))])

    def _cells(self, period: str, names: list[object], shown: Mapping[str, object]) -> list[object]:
        return [
            period,
            *names,
            *(shown[name] for name in FIGURES),
            self.standing.position,
            utc_text(self.standing.moved_at),
            self.standing.time_zone,
        ]
