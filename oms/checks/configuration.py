"""The settings: whether they can be used, and combinations that are risky."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import ip_network
from typing import TYPE_CHECKING

from oms.checks.findings import Finding, ok, warning, wrong

if TYPE_CHECKING:
    from shared.settings import Settings

ANY_NETWORK = 8
"""A prefix of at most so many bits is wider than a network of one's own, except for those below."""

_OWN_NETWORKS = (ip_network("10.0.0.0/8"), ip_network("127.0.0.0/8"))


def read_settings() -> tuple[Settings | None, list[Finding]]:
    """Return the settings, or what is wrong with them."""
    from shared.settings import SettingsError, settings

    try:
        return settings(), []
    except SettingsError as error:
        _, *faults = str(error).splitlines()
        texts = [fault.strip() for fault in faults] or [str(error)]
        return None, [wrong("settings", text, "See docs/configuration.md.") for text in texts]


def check_settings(settings: Settings) -> Iterator[Finding]:
    """Look for combinations of settings that are risky."""
    from shared.settings import SettingsError, check_listening

    is_risky = False
    try:
        check_listening()
    except SettingsError as error:
        is_risky = True
        yield wrong(
            "settings",
            str(error).removeprefix("the environment can't be used: "),
            "The API does not start like this.",
        )
    for finding in _risks(settings):
        is_risky = True
        yield finding
    if not is_risky:
        yield ok("settings", "all can be used, and none is risky")


def _risks(settings: Settings) -> Iterator[Finding]:
    from shared.api_access import is_loopback

    is_public = not is_loopback(settings.host)
    if is_public and settings.access == "open" and not settings.all_api_keys:
        yield warning(
            "settings",
            f"OMS_ACCESS=open with OMS_HOST={settings.host}: until there is an API key, everybody who "
            "reaches the API may read and change everything",
            "Make a key (`oms key make`), or set OMS_ACCESS=keys.",
        )
    if is_public and settings.all_api_keys and not settings.allowed_hosts:
        yield warning(
            "settings",
            "OMS_ALLOWED_HOSTS is empty, so the API answers under any name",
            "Name the hosts that callers use, or leave that to a proxy in front.",
        )
    wide = [
        str(network)
        for network in settings.webhook_networks
        if network.prefixlen <= ANY_NETWORK and network not in _OWN_NETWORKS
    ]
    if wide:
        yield warning(
            "settings",
            f"OMS_WEBHOOK_NETWORKS has {', '.join(wide)}: callers may have requests sent to all of it",
            "Name the subscribers' networks only.",
        )
    if settings.webhook_plain_http == "always":
        yield warning(
            "settings",
            "OMS_WEBHOOK_PLAIN_HTTP=always: orders are sent over the internet unencrypted",
            "Set it to internal, and use https for subscribers elsewhere.",
        )
    if settings.drain == 0 and is_public:
        yield warning(
            "settings",
            "OMS_DRAIN is 0: behind a load balancer, requests that arrive while an API stops are refused",
            "Set it to a few seconds, longer than the load balancer takes to notice.",
        )
    if sys.platform == "linux" and settings.worker_processes + 3 > 8 * _cores():
        yield warning(
            "settings",
            f"OMS_WORKER_PROCESSES={settings.worker_processes} on {_cores()} cores",
            "More processes than a few for each core do not help.",
        )


def _cores() -> int:
    import os

    return os.cpu_count() or 1
