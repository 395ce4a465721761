"""RabbitMQ, where OMS_BROKER_URL names one: reachable, of a version with quorum queues, and read from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import amqp

from oms.checks.findings import Finding, ok, wrong
from oms.checks.redis import TIMEOUT_SECONDS, judge_queues
from shared.rabbitmq_queues import read_state

if TYPE_CHECKING:
    from shared.broker_address import BrokerAddress

LEAST_VERSION = (3, 10)


async def check_rabbitmq(address: BrokerAddress) -> list[Finding]:
    """Look at RabbitMQ."""
    try:
        state = await asyncio.to_thread(read_state, address, TIMEOUT_SECONDS)
    except (OSError, amqp.AMQPError) as error:
        text = str(error).rstrip(".") or type(error).__name__
        advice = (
            "Start it, or correct OMS_BROKER_URL. Orders are accepted meanwhile, but summaries and "
            "webhooks wait."
        )
        return [wrong("rabbitmq", f"it can't be used: {text}", advice)]
    findings = list(judge_queues("rabbitmq", state.lengths))
    numbers = tuple(int(part) for part in state.version.split(".")[:2] if part.isdigit())
    if numbers < LEAST_VERSION:
        return [wrong("rabbitmq", f"this is RabbitMQ {state.version}", "Use 3.10 or newer."), *findings]
    return [ok("rabbitmq", f"RabbitMQ {state.version}"), *findings]
