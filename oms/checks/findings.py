"""What a check finds: a sentence, and where something is wrong, what to do."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warning", "wrong"]


class Finding(msgspec.Struct, frozen=True):
    """The result of one check."""

    area: str
    """The part of the deployment: ``settings``, ``database``, ``redis``, …"""
    level: Level
    """``wrong``: it does not work, or will lose something; ``warning``: it works, and may be meant so."""
    text: str
    advice: str = ""
    """What to do; empty if it is ok."""


def ok(area: str, text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(area, "ok", text)


def warning(area: str, text: str, advice: str) -> Finding:
    """Return that something is unusual, and may be meant."""
    return Finding(area, "warning", text, advice)


def wrong(area: str, text: str, advice: str) -> Finding:
    """Return that something is wrong."""
    return Finding(area, "wrong", text, advice)
