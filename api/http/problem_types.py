"""The types of problems (RFC 9457) with a request itself, whatever it is about. Pure.

Those of the domain, and a list of all: ``api/problem_types.py``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ProblemType:
    """A kind of problem: what it is called, what it means and what the caller can do about it."""

    slug: str
    status: int
    title: str
    recovery: str

    @property
    def uri(self) -> str:
        """The path of the page that explains it; the problem's ``type``."""
        return f"/problems/{self.slug}"


MALFORMED_REQUEST = ProblemType(
    "malformed-request",
    400,
    "The request can't be read",
    "Send well-formed UTF-8 JSON without duplicate keys, and only the parameters that the contract names, "
    "each once. `errors` names every fault.",
)
INVALID_CURSOR = ProblemType(
    "invalid-cursor",
    400,
    "The cursor does not belong to this list",
    "Use `next` unchanged. To change the filters, start again without a cursor.",
)
UNAUTHENTICATED = ProblemType(
    "unauthenticated",
    401,
    "No valid API key",
    "Send `Authorization: Bearer <key>` with a key that this deployment knows, neither expired nor revoked, "
    "or with a valid access token of the identity provider that it trusts, if there is one. `detail` says "
    "what is wrong with a token.",
)
FORBIDDEN = ProblemType(
    "forbidden",
    403,
    "This caller may not do this",
    "Use a key that has the scope which `detail` names, or ask who manages the keys of this deployment for "
    "one. Without keys, a web page can write only if this service served it or the operator allows its "
    "origin, and only the operator makes the first key.",
)
NOT_FOUND = ProblemType(
    "not-found",
    404,
    "Not found",
    "Check the path and the id. A deletion can't be undone.",
)
METHOD_NOT_ALLOWED = ProblemType(
    "method-not-allowed",
    405,
    "Method not allowed",
    "Use one of the methods that the `Allow` header names.",
)
NOT_ACCEPTABLE = ProblemType(
    "not-acceptable",
    406,
    "None of the accepted media types is available",
    "Accept `application/json`, or one of the media types that the contract names for this operation.",
)
REQUEST_TIMEOUT = ProblemType(
    "request-timeout",
    408,
    "The body did not arrive in time",
    "Send the whole body without a pause: by default it may take 30 seconds, and 10 of them without a byte. "
    "Nothing was stored.",
)
BODY_TOO_LARGE = ProblemType(
    "body-too-large",
    413,
    "The body is too large",
    "Send less at once; the contract says how much each operation accepts.",
)
URI_TOO_LONG = ProblemType(
    "uri-too-long",
    414,
    "The URL is too long",
    "Ask for less at once: a path has at most 2,048 bytes, a query 8,192.",
)
UNSUPPORTED_MEDIA_TYPE = ProblemType(
    "unsupported-media-type",
    415,
    "The body's media type is not supported",
    "Send the media type that the contract names, without a Content-Encoding.",
)
VALIDATION_FAILED = ProblemType(
    "validation-failed",
    422,
    "The request can be read but not accepted",
    "`errors` lists every fault with a JSON Pointer into the body; correct them all and send it again.",
)
IDEMPOTENCY_KEY_REUSED = ProblemType(
    "idempotency-key-reused",
    422,
    "The Idempotency-Key was used for other content",
    "A key identifies one request. Use a new key for a new request, and repeat an earlier one unchanged.",
)
VERSION_REQUIRED = ProblemType(
    "version-required",
    428,
    "If-Match is required",
    "Read the order, and send its ETag in If-Match with the change.",
)
HEADERS_TOO_LARGE = ProblemType(
    "headers-too-large",
    431,
    "The headers are too large",
    "Send fewer or shorter ones: all names and values may have 32,768 bytes together.",
)
INTERNAL_ERROR = ProblemType(
    "internal-error",
    500,
    "Something went wrong on our side",
    "Nothing was stored unless a later GET shows it. Try again; if it persists, report the `request_id`.",
)
UNAVAILABLE = ProblemType(
    "unavailable",
    503,
    "The service can't answer right now",
    "Try again after the seconds in `Retry-After`, with the same Idempotency-Key if it was a create.",
)
