"""When a request can't be carried out now: each such error is answered 503 and says when to try again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from api.http import errors as http
from api.http.problem_types import UNAVAILABLE
from api.http.problems import ProblemError
from api.operations.health import NotReadyError, StoppingError
from api.orders.errors import ContentionError, ImportsBusyError
from shared.database.engine import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    LockTimeoutError,
    OutcomeUnknownError,
    OverloadedError,
)
from shared.secret_keys import UnreadableSecretError

if TYPE_CHECKING:
    from collections.abc import Callable

log = structlog.get_logger(__name__)

RETRY_SOON = {"Retry-After": "1"}
RETRY_LATER = {"Retry-After": "5"}


def _unavailable(
    event: str, detail: str, headers: dict[str, str] = RETRY_SOON
) -> Callable[[Exception], ProblemError]:
    def log_and_translate(error: Exception) -> ProblemError:
        log.warning(event, reason=str(error))
        return ProblemError(UNAVAILABLE, detail, headers=headers)

    return log_and_translate


_database_unavailable = _unavailable(
    "unavailable", "The database is busy or can't be reached; the request was not carried out."
)
_overloaded = _unavailable(
    "overloaded",
    "More requests wait for the database than it can serve in time; this one was not carried out.",
    RETRY_LATER,
)
_database_read_only = _unavailable(
    "database_read_only", "The database accepts no writes at the moment; nothing was stored."
)
_lock_timeout = _unavailable(
    "lock_timeout",
    "A long transaction, such as an import, locks what this request reads or changes. Nothing was stored.",
)
_outcome_unknown = _unavailable(
    "outcome_unknown",
    "The connection to the database broke while the request was being stored: either all of it was stored or "
    "nothing. Repeat it, a POST with the same Idempotency-Key.",
)
_provider_keys_unavailable = _unavailable(
    "provider_keys_unavailable",
    "The keys of the identity provider can't be read, so access tokens can't be verified. API keys can.",
)
_answer_unreadable = _unavailable(
    "answer_unreadable",
    "The answer to this Idempotency-Key is encrypted, and this process can't read it; the request was not "
    "carried out again. Its operator has to set OMS_SECRET_KEY as for the other processes.",
    RETRY_LATER,
)


def _too_many_streams(error: http.TooManyStreamsError) -> ProblemError:
    detail = f"This process has {error.limit} {error.what} open already, the most that it allows."
    return ProblemError(UNAVAILABLE, detail, headers=RETRY_LATER)


def _too_many_bodies(_error: http.TooManyBodiesError) -> ProblemError:
    return ProblemError(
        UNAVAILABLE,
        "More bodies arrive at the same time than this process can hold; nothing was stored.",
        headers=RETRY_SOON | {"Connection": "close"},
    )


def _imports_busy(_error: ImportsBusyError) -> ProblemError:
    detail = (
        "This process is importing another file, and imports one at a time; nothing of this one was stored."
    )
    return ProblemError(UNAVAILABLE, detail, headers=RETRY_LATER)


def _not_ready(error: NotReadyError) -> ProblemError:
    return ProblemError(
        UNAVAILABLE,
        f"Orders can't be stored: {error.reason}.",
        headers=RETRY_SOON,
        members={"checks": error.checks},
    )


def _stopping(error: StoppingError) -> ProblemError:
    return ProblemError(
        UNAVAILABLE,
        "This instance is stopping; send requests to another one.",
        headers=RETRY_SOON,
        members={"checks": error.checks},
    )


UNAVAILABILITY: dict[type[Exception], Callable[[Any], ProblemError]] = {
    DatabaseUnavailableError: _database_unavailable,
    OverloadedError: _overloaded,
    OutcomeUnknownError: _outcome_unknown,
    DatabaseReadOnlyError: _database_read_only,
    LockTimeoutError: _lock_timeout,
    UnreadableSecretError: _answer_unreadable,
    NotReadyError: _not_ready,
    StoppingError: _stopping,
    ContentionError: _database_unavailable,
    ImportsBusyError: _imports_busy,
    http.ProviderKeysUnavailableError: _provider_keys_unavailable,
    http.TooManyStreamsError: _too_many_streams,
    http.TooManyBodiesError: _too_many_bodies,
}
"""A part of the problem map: how each of these errors is answered."""
