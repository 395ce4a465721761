"""Reading a message of the queue, whatever its bytes are."""

from __future__ import annotations

import base64
import json
import random

import pytest

import worker.tasks  # noqa: F401 (registers the tasks)
from shared.queues import CONSUMER_QUEUE
from shared.task_queue import APPLY_TO_FEE_SUMMARIES
from tests.random_rounds import ROUNDS
from worker.messages import UnreadableMessageError, read_message

MESSAGE = {
    "body": base64.b64encode(b"[[1],{},{}]").decode(),
    "headers": {"task": APPLY_TO_FEE_SUMMARIES},
    "properties": {"body_encoding": "base64"},
}


@pytest.mark.parametrize("changing", ["message", "body"])
def test_a_message_with_changed_bytes_is_read_or_dropped_and_nothing_else(changing: str) -> None:
    """Any other error would end the worker."""
    seed = 14
    rng = random.Random(seed)
    text = b"[[1],{},{}]" if changing == "body" else json.dumps(MESSAGE).encode()
    dropped = 0
    for _ in range(20_000 * ROUNDS):
        changed = bytearray(text)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        message = bytes(changed)
        if changing == "body":
            message = json.dumps(MESSAGE | {"body": base64.b64encode(changed).decode()}).encode()
        try:
            read_message(message, CONSUMER_QUEUE)
        except UnreadableMessageError:
            dropped += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {message!r}") from error
    assert dropped > 0
