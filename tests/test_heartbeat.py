"""``python -m shared.heartbeat``: whether the process beside it still runs its loop."""

from __future__ import annotations

import pytest

from shared.heartbeat import main


def test_a_health_check_without_a_heartbeat_file_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty path would mean the working directory, whose time of change says nothing about the process."""
    monkeypatch.delenv("OMS_HEARTBEAT_FILE", raising=False)
    assert main() == 1
    assert capsys.readouterr().err == "heartbeat: OMS_HEARTBEAT_FILE is not set\n"
