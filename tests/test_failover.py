"""The files of the operations guide for failover; ``make failover`` runs a cluster with them, for an hour."""

from __future__ import annotations

import os
import subprocess
import sys

import yaml

from tests.debian_programs import require_program
from tests.processes import ROOT

GUIDE = ROOT / "docs" / "operations" / "patroni"


def test_patroni_is_locked_apart_from_the_product() -> None:
    """With hashes, and without the address of a registry."""
    lock = (ROOT / "tests" / "failover" / "patroni" / "requirements.lock").read_text()
    assert "patroni==" in lock
    assert "--hash=sha256:" in lock
    assert "index-url" not in lock
    for name in ("requirements.lock", "requirements-local.lock", "requirements-dev.lock"):
        assert "\npatroni==" not in (ROOT / name).read_text()


def test_the_guides_cluster_loses_nothing_that_was_confirmed_or_seen() -> None:
    """What the promises in ``docs/operations/replication.md`` rest on."""
    dcs = yaml.safe_load((GUIDE / "patroni.yaml").read_text())["bootstrap"]["dcs"]
    assert (dcs["synchronous_mode"], dcs["synchronous_mode_strict"]) == ("quorum", True)
    # A primary that crashed returns as a standby.
    assert dcs["primary_start_timeout"] == 0
    assert dcs["postgresql"]["parameters"]["restart_after_crash"] == "off"
    # Otherwise Patroni takes other values than those of the file.
    assert dcs["loop_wait"] + 2 * dcs["retry_timeout"] <= dcs["ttl"]
    assert dcs["ttl"] >= 20


def test_haproxy_accepts_the_guides_file() -> None:
    haproxy = require_program("haproxy", "haproxy", "the guide's haproxy.cfg is")
    checked = subprocess.run(
        [haproxy, "-c", "-f", str(GUIDE / "haproxy.cfg")], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


def test_make_failover_says_what_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.failover"],
        env={**os.environ, "PATH": "/nowhere"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "etcd is not installed (Debian: apt install etcd-server)" in done.stderr
