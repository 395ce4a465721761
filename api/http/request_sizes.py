"""Refuses URLs and headers that are too long, on every path and before anything of them is read."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from api.http.problem_types import HEADERS_TOO_LARGE, URI_TOO_LONG
from api.http.problems import ProblemError

if TYPE_CHECKING:
    from litestar.types import Scope

LONGEST_PATH_BYTES = 2_048

LONGEST_QUERY_BYTES = 8_192

LARGEST_HEADERS_BYTES = 32_768
"""All names and values of the headers together."""


def check_sizes(scope: Scope) -> None:
    """Refuse a request whose path, query or headers are too long.

    Raises:
        ProblemError: 414 or 431.

    """
    if len(scope["query_string"]) > LONGEST_QUERY_BYTES:
        raise ProblemError(URI_TOO_LONG, f"The query is longer than {LONGEST_QUERY_BYTES:,} bytes.")
    if len(scope["raw_path"].partition(b"?")[0]) > LONGEST_PATH_BYTES:
        raise ProblemError(URI_TOO_LONG, f"The path is longer than {LONGEST_PATH_BYTES:,} bytes.")
    if sum(map(len, chain.from_iterable(scope["headers"]))) > LARGEST_HEADERS_BYTES:
        raise ProblemError(
            HEADERS_TOO_LARGE, f"The headers have more than {LARGEST_HEADERS_BYTES:,} bytes together."
        )
