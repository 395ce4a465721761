"""Bodies of requests: read strictly, and every fault named with a JSON Pointer.

Litestar decodes leniently (``"1"`` passes for a number, invalid UTF-8 is answered 500), so bodies are read
here, from their bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote

from litestar.exceptions import InternalServerException
from pydantic import BaseModel, ConfigDict, ValidationError

from api.http.json_text import UnreadableJsonError, read_json
from api.http.problem_types import UNSUPPORTED_MEDIA_TYPE
from api.http.problems import Fault, ProblemError, invalid, malformed

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from api.http.request import AnyRequest

Model = TypeVar("Model", bound=BaseModel)

JSON_ONLY = ("application/json",)
MERGE_PATCH = ("application/merge-patch+json", "application/json")


class Body(BaseModel):
    """A JSON object with exactly these members."""

    model_config = ConfigDict(extra="forbid", frozen=True)


async def read_body(
    request: AnyRequest, model: type[Model], media_types: tuple[str, ...] = JSON_ONLY
) -> Model:
    """Read a JSON body as a model.

    Raises:
        ProblemError: 415 for another media type, 400 for an unreadable body, 422 with every fault.

    """
    if not _is_unencoded(request, media_types):
        raise ProblemError(
            UNSUPPORTED_MEDIA_TYPE,
            f"Send {' or '.join(media_types)}, unencoded.",
            headers={"Accept-Patch" if request.method == "PATCH" else "Accept": ", ".join(media_types)},
        )
    try:
        body = await request.body()
    except InternalServerException:
        # Litestar's name for a connection that ended, and for invalid chunked encoding.
        raise malformed(Fault("the body ended before it was complete, or is not validly chunked")) from None
    try:
        value = read_json(body)
    except UnreadableJsonError as error:
        raise malformed(Fault(f"the body {error}")) from None
    try:
        return model.model_validate(value, strict=True)
    except ValidationError as error:
        raise invalid(*faults_of(error)) from None


def _is_unencoded(request: AnyRequest, media_types: tuple[str, ...]) -> bool:
    # With two content types, a proxy in front might have looked at the other one.
    content_types = request.headers.getall("content-type", [])
    codings = ",".join(request.headers.getall("content-encoding", [])).split(",")
    return (
        len(content_types) == 1
        and content_types[0].partition(";")[0].strip().lower() in media_types
        and all(coding.strip().lower() in ("", "identity") for coding in codings)
    )


def faults_of(error: ValidationError) -> list[Fault]:
    """Return the faults that a model found, each with a JSON Pointer (RFC 6901) into the value."""
    return [
        Fault(_what_would_be_valid(details), pointer=_pointer(details["loc"]))
        for details in error.errors(include_url=False, include_input=False)
    ]


def _pointer(location: tuple[int | str, ...]) -> str:
    # As a URI fragment (section 6): what can't appear in one, a line feed in a key for instance, is encoded.
    tokens = (str(part).replace("~", "~0").replace("/", "~1") for part in location)
    return "#" + "".join("/" + quote(token, safe="!$&'()*+,;=:@?") for token in tokens)


def _what_would_be_valid(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "missing":
            return "is required"
        case "extra_forbidden":
            return "is not a member that callers may set here; leave it out"
        case "model_type" | "model_attributes_type" | "dict_type":
            return "must be a JSON object"
        case "list_type":
            return "must be a JSON array"
        case "too_short":
            return f"must have at least {context['min_length']} element"
        case "too_long":
            return f"must have at most {context['max_length']} elements"
        case _:
            return error["msg"]
