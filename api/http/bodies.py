"""Bodies of requests: read strictly, and every fault named with a JSON Pointer.

Litestar decodes leniently (``"1"`` passes for a number, invalid UTF-8 is answered 500), so bodies are read
here, from their bytes.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from api.http.access import check_access
from api.http.errors import IncompleteBodyError
from api.http.json_text import UnreadableJsonError, read_json
from api.http.problem_types import UNSUPPORTED_MEDIA_TYPE
from api.http.problems import MAX_FAULTS, Fault, ProblemError, invalid, malformed
from api.http.request import header_values
from api.http.request_bodies import receive_body

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from api.http.request import AnyRequest

Model = TypeVar("Model", bound="StrictObject")

JSON_ONLY = ("application/json",)
MERGE_PATCH = ("application/merge-patch+json", "application/json")

LONGEST_KEY = 200
"""Characters of a key that a JSON Pointer repeats; a longer one, which can only be unknown, is cut."""

QUICK_SECONDS = 0.1
"""A body that takes longer to arrive has its caller's key checked again."""


class StrictObject(BaseModel):
    """A JSON object with exactly these members."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    if_missing: ClassVar[str] = "is required"
    """What to say of a required member that is missing."""


class Body(StrictObject):
    """A JSON object with exactly these members. An optional one that is null counts as left out."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        if None not in value.values():
            return value
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: item for name, item in value.items() if item is not None or name not in optional}

    def content(self) -> dict[str, Any]:
        """Return what two requests must have in common to be the same one, for an Idempotency-Key."""
        return self.model_dump()


class Patch(StrictObject):
    """The body of a PATCH (JSON Merge Patch, RFC 7396): members that are absent stay as they are.

    There, null means to remove a member. For a member that can't be removed null is refused: a client that
    writes null for what it was not given would otherwise change it unknowingly.
    """

    removable: ClassVar[frozenset[str]] = frozenset()

    @field_validator("*", mode="wrap")
    @classmethod
    def _read_null(cls, value: Any, read: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        if value is not None:
            return read(value)
        if name not in cls.removable and not cls.model_fields[name].exclude:
            raise ValueError("must not be null; leave it out to keep it as it is")
        return None

    @model_validator(mode="after")
    def _require_a_member(self) -> Self:
        if not self.model_fields_set:
            fields = type(self).model_fields
            compared = ("id", "status", "version")
            *names, last = (n for n in fields if not fields[n].exclude and n not in compared)
            raise ValueError(f"must name at least one field: {', '.join(names)} or {last}")
        return self


ReadOnly = Annotated[Any, Field(exclude=True)]
"""A member that only the service sets. Callers may send it back as they read it; it is ignored."""


def check_own_id(sent: int | None, own: int) -> None:
    """Check the id in a body, if there is one, against the id in the path.

    Raises:
        ProblemError: 422, it is another's.

    """
    if sent not in (None, own):
        raise invalid(Fault(f"must be {own}, as in the path, or be left out", pointer="#/id"))


async def read_body(
    request: AnyRequest, model: type[Model], media_types: tuple[str, ...] = JSON_ONLY
) -> Model:
    """Read a JSON body as a model.

    Raises:
        ProblemError: 415 for another media type, 400 for an unreadable body, 422 with every fault.

    """
    _require_media_type(request, media_types)
    return _read(await _receive(request), model)


async def read_optional_body(request: AnyRequest, model: type[Model]) -> Model:
    """Read a JSON body as a model; if there is none, as if it were an empty object.

    Raises:
        ProblemError: as ``read_body``.

    """
    body = await _receive(request)
    if not body:
        return model()
    _require_media_type(request, JSON_ONLY)
    return _read(body, model)


async def read_file_body(request: AnyRequest, media_types: tuple[str, ...]) -> tuple[str, bytes]:
    """Read a body that is a file: its media type, one of these, and its bytes.

    Raises:
        ProblemError: 415 for another media type, 400 for a body that ended too soon.
        RequestEntityTooLarge: it is larger than its route allows.

    """
    _require_media_type(request, media_types)
    content = await _receive(request)
    return header_values(request.scope, b"content-type")[0].partition(";")[0].strip().lower(), content


def _require_media_type(request: AnyRequest, media_types: tuple[str, ...]) -> None:
    if not _is_unencoded(request, media_types):
        raise ProblemError(
            UNSUPPORTED_MEDIA_TYPE,
            f"Send {' or '.join(media_types)}, unencoded.",
            headers={"Accept-Patch" if request.method == "PATCH" else "Accept": ", ".join(media_types)},
        )


async def _receive(request: AnyRequest) -> bytes:
    began = time.monotonic()
    try:
        body = await receive_body(request)
    except IncompleteBodyError:
        raise malformed(Fault("the body ended before it was complete, or is not validly chunked")) from None
    if time.monotonic() - began > QUICK_SECONDS:
        # The key may have been revoked meanwhile: a body that drips must not carry a write beyond that.
        await check_access(request, request.route_handler)
    return body


def _read(body: bytes, model: type[Model]) -> Model:
    try:
        value = read_json(body)
    except UnreadableJsonError as error:
        raise malformed(Fault(f"the body {error}")) from None
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        raise invalid(*faults_of(error, model.if_missing), count=error.error_count()) from None


def _is_unencoded(request: AnyRequest, media_types: tuple[str, ...]) -> bool:
    # With two content types, a proxy in front might have looked at the other one.
    content_types = header_values(request.scope, b"content-type")
    codings = ",".join(header_values(request.scope, b"content-encoding")).split(",")
    return (
        len(content_types) == 1
        and content_types[0].partition(";")[0].strip().lower() in media_types
        and all(coding.strip().lower() in ("", "identity") for coding in codings)
    )


def faults_of(error: ValidationError, if_missing: str = StrictObject.if_missing) -> list[Fault]:
    """Return the first ``MAX_FAULTS`` that a model found, each with a JSON Pointer (RFC 6901).

    Args:
        error: what the model raised.
        if_missing: what to say of a required member of the value itself that is missing.

    """
    return [
        Fault(
            if_missing
            if details["type"] == "missing" and len(details["loc"]) == 1
            else _what_would_be_valid(details),
            pointer=_pointer(details["loc"]),
        )
        for details in error.errors(include_url=False, include_input=False)[:MAX_FAULTS]
    ]


def _pointer(location: tuple[int | str, ...]) -> str:
    if location[-1:] == ("[key]",):  # pydantic's word for a key, rather than its value, that is at fault
        location = location[:-1]
    # As a URI fragment (section 6): what can't appear in one, a line feed in a key for instance, is encoded.
    tokens = (_shorten(str(part)).replace("~", "~0").replace("/", "~1") for part in location)
    return "#" + "".join("/" + quote(token, safe="!$&'()*+,;=:@?") for token in tokens)


def _shorten(key: str) -> str:
    return key if len(key) <= LONGEST_KEY else f"{key[:LONGEST_KEY]}…"


def _what_would_be_valid(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return StrictObject.if_missing
        case "extra_forbidden":
            return "is not a member that callers may set here; leave it out"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a JSON object"
        case "list_type":
            return "must be a JSON array"
        case "too_short":
            return f"must have at least {context['min_length']} element"
        case "too_long":
            what = "members" if context.get("field_type") == "Dictionary" else "elements"
            return f"must have at most {context['max_length']} {what}"
        case _:
            return error["msg"]
