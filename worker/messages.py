"""Reading a message of the queue strictly: anyone who can write to Redis may have written it."""

from __future__ import annotations

import base64
from functools import cache
from typing import Any, Literal, get_type_hints
from uuid import uuid4

import msgspec

from shared.task_queue import app

LARGEST_MESSAGE_BYTES = 16_384
"""Far more than Celery's headers and a position take."""


class UnreadableMessageError(ValueError):
    """The message is not one that the relay sends; the text says why."""


class _Headers(msgspec.Struct):
    task: str


class _Properties(msgspec.Struct):
    body_encoding: Literal["base64"]


class _Message(msgspec.Struct):
    body: str
    headers: _Headers
    properties: _Properties


_decode_message = msgspec.json.Decoder(_Message).decode
_decode_body = msgspec.json.Decoder(tuple[list[Any], dict[str, Any], Any]).decode


@cache
def _argument_types(task: str) -> Any:
    """Return the types of a task's arguments.

    Raises:
        UnreadableMessageError: the worker has no such task.

    """
    if task.startswith("celery.") or task not in app.tasks:
        raise UnreadableMessageError(f"there is no task {task[:60]!a}")
    hints = get_type_hints(app.tasks[task].run)
    hints.pop("return", None)
    return tuple[tuple(hints.values())]  # type: ignore[misc]  # known at run time only


def _check_size(text: bytes) -> None:
    if len(text) > LARGEST_MESSAGE_BYTES:
        raise UnreadableMessageError(f"larger than {LARGEST_MESSAGE_BYTES} bytes")


def read_arguments(task: str, body: bytes) -> Any:
    """Read the arguments of a task from the body of its message.

    Raises:
        UnreadableMessageError: they are not such as the relay sends.

    """
    _check_size(body)
    try:
        given, named, _ = _decode_body(body)
        arguments = msgspec.convert(given, _argument_types(task), strict=True)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableMessageError(f"not a task's message: {error}") from None
    if named:
        raise UnreadableMessageError("a task has no named arguments")
    return arguments


def read_message(text: bytes, queue: str) -> dict[str, Any]:
    """Read a message of the queue, and return one as Celery would have sent it.

    Only the task and its arguments are taken from it. What else a message may ask Celery for (a time limit,
    an expiry, tasks to be called afterwards) is ignored.

    Raises:
        UnreadableMessageError: it is not one that the relay sends.

    """
    _check_size(text)
    try:
        message = _decode_message(text)
        body = base64.b64decode(message.body, validate=True)
    # ValueError: base64's errors, and those of text that is no UTF-8.
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise UnreadableMessageError(f"not a task's message: {error}") from None
    arguments = read_arguments(message.headers.task, body)
    identity = str(uuid4())
    return {
        "body": base64.b64encode(msgspec.json.encode([arguments, {}, {}])).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": message.headers.task, "id": identity},
        "properties": {
            "body_encoding": "base64",
            "correlation_id": identity,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "delivery_tag": identity,
            "priority": 0,
        },
    }
