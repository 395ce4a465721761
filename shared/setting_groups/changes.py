"""The relay, and how long and how quickly subscribers get changes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from shared.setting_values import Duration, Seconds


class ChangeSettings(BaseModel):
    """The relay, and how long and how quickly subscribers get changes."""

    relay_interval: Seconds = 0.1
    """The longest pause of the relay between two reads of the change log.

    It begins with 5 ms after each change, and gets longer while there are none.
    """

    relay_batch: Annotated[int, Field(ge=1, le=5_000)] = 1_000
    """The most changes that one message announces, and that a consumer applies in one transaction."""

    relay_window: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    """The most changes that may be published and not yet applied.

    The limit keeps a stopped worker from filling Redis.
    """

    republish_after: Seconds = 5
    """How long a cursor may stay unchanged before the relay publishes the waiting changes again.

    If nothing waits in the queue, it does so after a second.
    """

    change_retention: Duration = Field("90d", validate_default=True)
    """How long changes are kept for subscribers."""

    stream_silence: Seconds = 15
    """A live stream with no event for this long gets a comment, so that proxies keep the connection open."""

    stream_write_timeout: Seconds = 10
    """A stream reader whose connection accepts no data for this long is disconnected. It may reconnect."""

    redis_stream_length: Annotated[int, Field(ge=100, le=10_000_000)] = 10_000
    """How many changes the Redis stream holds, approximately: Redis trims the stream in blocks."""
