"""The headers ``Idempotency-Key`` of a request and ``Idempotency-Replayed`` of its answer."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import TYPE_CHECKING

from api.http.access import caller_of
from api.http.idempotency_keys import IdempotencyKey
from api.http.media_types import JSON
from api.http.problems import Fault, malformed
from api.http.request import header_values
from api.http.responses import BytesResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar import Response

    from api.http.bodies import Body
    from api.http.idempotency_keys import Answer
    from api.http.request import AnyRequest

_KEY = re.compile(r"[!-~]{1,255}", re.ASCII)


def read_idempotency_key(request: AnyRequest, operation: str, body: Body) -> IdempotencyKey | None:
    """Read the header, if there is one. Format and member order of the body's JSON make no difference.

    Raises:
        ProblemError: 400, there are two, or it is not 1 to 255 visible ASCII characters.

    """
    keys = header_values(request.scope, b"idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise malformed(
            Fault("must be sent once, with 1 to 255 visible ASCII characters", header="Idempotency-Key")
        )
    content = json.dumps(body.content(), default=str).encode()
    return IdempotencyKey(caller_of(request).name, operation, keys[0], sha256(content).digest())


def answer_write(answer: Answer, headers: Mapping[str, str], status_code: int = 201) -> Response[bytes]:
    """Answer a write that may have a key; ``Idempotency-Replayed`` says if it is an earlier answer."""
    replayed = {"Idempotency-Replayed": "true"} if answer.replayed else {}
    return BytesResponse(
        answer.text.encode(), status_code=status_code, media_type=JSON, headers={**headers, **replayed}
    )
