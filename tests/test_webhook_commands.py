"""``oms webhook``, ``replay`` and ``trigger``, on a whole system with keys."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.command_steps import command_environment, oms, oms_json
from tests.drivers import wait_until
from tests.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.drivers import Pipeline
    from tests.webhook_receiver import Receiver

EVENTS = ["order.created", "order.updated", "order.cancelled", "order.reinstated", "order.deleted"]


@pytest.fixture
def server(pipeline: Pipeline) -> dict[str, str]:
    """The variables that name the API."""
    return {"OMS_SERVER": str(pipeline.api.client.base_url)}


def test_a_webhook_is_made_tested_looked_at_replayed_and_deleted(
    server: dict[str, str], receiver: Receiver
) -> None:
    """With the example changes of ``trigger``, which it receives in their order."""
    created = oms_json("webhook", "create", receiver.url, "--description", "a shop", **server)
    name = created["id"]
    assert oms("webhook", "list", **server).stdout.split() == [name, "working", receiver.url]
    tested = oms("webhook", "test", name, **server)
    assert tested.returncode == 0
    assert "delivered" in tested.stdout
    assert receiver.received[0].is_signed_with(created["secret"])
    made = oms_json("trigger", **server)["changes"]
    assert [change["type"] for change in made] == EVENTS
    wait_until(lambda: len(receiver.received) >= 6, "all are delivered")
    assert [request.event["type"] for request in receiver.received[1:]] == EVENTS
    assert {request.event["subject"] for request in receiver.received[1:]} == {made[0]["order"]}
    attempts = oms_json("webhook", "attempts", name, "--limit", "5", **server)["deliveries"]
    assert [delivery["type"] for delivery in attempts] == EVENTS[::-1]
    assert oms("webhook", "missed", name, **server).stdout == "it has missed nothing\n"
    for options, deliveries in (
        (("--missed",), 0),
        (("--after", "3"), 2),
        (("--since", "2020-01-01T00:00:00Z"), 5),
        (("--since", "2190-01-01T00:00:00+02:00"), 0),
    ):
        replayed = oms_json("replay", name, *options, **server)
        assert replayed["deliveries"] == deliveries, replayed
    rotated = oms("webhook", "rotate-secret", name, **server).stdout.strip()
    assert rotated.startswith("whsec_")
    assert rotated != created["secret"]
    assert oms_json("webhook", "disable", name, **server)["enabled"] is False
    assert "disabled" in oms("webhook", "list", **server).stdout
    assert oms_json("webhook", "enable", name, **server)["enabled"] is True
    assert oms("webhook", "delete", name, **server).stdout == f"deleted webhook {name}\n"
    gone = oms("webhook", "show", name, **server)
    assert (gone.returncode, gone.stderr) == (1, f"the API answered 404: There is no webhook {name}.\n")


def test_a_listener_with_a_filter_gets_what_matches_and_moves_past_the_rest(
    server: dict[str, str], receiver: Receiver, tmp_path: Path
) -> None:
    """Each as one JSON document, after one that says where it began and what it signs with."""
    state = tmp_path / "listen.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "oms", "listen", "--forward-to", receiver.url, "--json"),
            *("--type", "order.cancelled", "--state-file", str(state)),
        ],
        cwd=ROOT,
        env=command_environment(**server),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        beginning = json.loads(process.stdout.readline())
        oms_json("trigger", **server)
        reported = json.loads(process.stdout.readline())
        wait_until(lambda: json.loads(state.read_text())["position"] == 5, "it is past the last change")
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    finally:
        process.kill()
    (request,) = receiver.received
    assert beginning["position"] == 0
    assert request.is_signed_with(beginning["secret"])
    assert (reported["position"], reported["type"], reported["status"]) == (3, "order.cancelled", 204)


def test_a_failed_test_of_a_webhook_shows_what_its_endpoint_answered(server: dict[str, str]) -> None:
    """And the exit status is 1."""
    created = oms_json("webhook", "create", "http://127.0.0.1:1024/nobody-listens", **server)
    tested = oms("webhook", "test", created["id"], **server)
    assert tested.returncode == 1
    assert "ConnectError" in tested.stdout


def test_a_key_comes_from_the_environment_or_a_file(
    pipeline: Pipeline, server: dict[str, str], tmp_path: Path
) -> None:
    """It never has to be on a command line; without one, the refusal says how to give it."""
    database = {"OMS_DATABASE_URL": pipeline.database.url}
    key = oms("key", "make", "shop", "--scopes", "webhooks:manage", **database).stdout.strip()
    (tmp_path / "key").write_text(f"{key}\n")
    wait_until(lambda: oms("webhook", "list", **server).returncode == 1, "keys are asked for")
    assert "Set OMS_KEY, or name a file with --key-file." in oms("webhook", "list", **server).stderr
    assert oms_json("webhook", "list", **server, OMS_KEY=key) == {"webhooks": []}
    assert oms_json("webhook", "list", "--key-file", str(tmp_path / "key"), **server) == {"webhooks": []}
    refused = oms("trigger", **server, OMS_KEY=key)
    assert refused.returncode == 1
    assert "orders:read" in refused.stderr
    assert [one["name"] for one in oms_json("key", "list", **database)["keys"]] == ["shop"]
    assert oms("key", "revoke", "shop", **database).returncode == 0


def test_on_another_machine_nothing_is_triggered_unless_that_is_said() -> None:
    """It does not even connect."""
    done = oms("trigger", "order.reinstated", "--server", "http://orders.invalid")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        *("order.created", "order.cancelled", "order.reinstated", "order.deleted")
    ]
    assert "--yes makes these changes" in done.stderr
    assert oms("trigger", "--yes", "--server", "http://orders.invalid").returncode == 1
