"""The headers ``Idempotency-Key`` of a request and ``Idempotency-Replayed`` of its answer."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import TYPE_CHECKING

from litestar import Response

from api.http.access import caller_of
from api.http.idempotency_keys import IdempotencyKey
from api.http.media_types import JSON
from api.http.problems import Fault, malformed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import BaseModel

    from api.http.idempotency_keys import Answer
    from api.http.request import AnyRequest

_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)


def read_idempotency_key(request: AnyRequest, operation: str, body: BaseModel) -> IdempotencyKey | None:
    """Read the header, if there is one. Format and member order of the body's JSON make no difference.

    Raises:
        ProblemError: 400, there are two, or it is not 1 to 255 visible ASCII characters.

    """
    keys = request.headers.getall("idempotency-key", [])
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise malformed(
            Fault("must be sent once, with 1 to 255 visible ASCII characters", header="Idempotency-Key")
        )
    content = json.dumps(body.model_dump(), default=str).encode()
    return IdempotencyKey(caller_of(request).name, operation, keys[0], sha256(content).digest())


def created(answer: Answer, headers: Mapping[str, str], status_code: int = 201) -> Response[bytes]:
    """Answer a create, with ``Idempotency-Replayed`` if it is an earlier request's answer."""
    replayed = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    return Response(
        answer.text.encode(), status_code=status_code, media_type=JSON, headers={**headers, **replayed}
    )
