"""Each service of the Compose file runs as in its container: on a read-only root, unprivileged."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from api.http.scopes import SCOPES
from shared.heartbeat import LONGEST_SILENCE_SECONDS
from stack.embedded_postgres import DATABASE, EmbeddedPostgres
from stack.embedded_valkey import free_port
from tests.containers import IS_ROOT, USER, Image, reason_without_namespaces
from tests.drivers import http_client, wait_until
from tests.processes import ROOT, environment
from tests.test_docker_compose import COPIED, LEFT_OUT, OURS, settings_of_service

if TYPE_CHECKING:
    import subprocess
    from contextlib import AbstractContextManager

    from stack.embedded_valkey import EmbeddedValkey

BEATS = "/tmp/heartbeat"  # noqa: S108 (in the container)
TRY_TO_WRITE = """
import os
for place in ("/new", "/app/new", "/app/api/new", "/usr/new", "/etc/new"):
    try:
        open(place, "w")
    except OSError as error:
        print(place, error.strerror)
open("/tmp/new", "w").close()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(os.getuid(), *[status[name].strip() for name in ("CapEff", "CapBnd", "NoNewPrivs")])
"""


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """The files that the Dockerfile copies."""
    if reason := reason_without_namespaces():
        warnings.warn(f"no namespaces here ({reason}): NOT TESTED in containers", stacklevel=1)
        pytest.skip(reason)
    image = Image(tmp_path)
    for source in COPIED:
        if source.endswith("/"):
            shutil.copytree(ROOT / source, image.app / source, ignore=shutil.ignore_patterns(*LEFT_OUT))
        else:
            shutil.copy(ROOT / source, image.app / source)
    assert not list(image.app.rglob("node_modules"))  # 83 MB of linters
    return image


@pytest.fixture
def database_url(tmp_path: Path) -> Iterator[str]:
    """A server that other users of this machine can reach, on a loopback port."""
    port = free_port()
    settings = {"listen_addresses": "127.0.0.1", "port": str(port)}
    with EmbeddedPostgres(tmp_path / "postgres", durable=False, settings=settings):
        yield f"postgresql://postgres@127.0.0.1:{port}/{DATABASE}"


def assert_a_hang_is_noticed(
    process: subprocess.Popen[bytes], healthy: Callable[[], bool], beats: Path
) -> None:
    """Check that a process is healthy while its loop runs, and not after too long a silence."""
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the process hangs")
    assert healthy()
    long_ago = time.time() - LONGEST_SILENCE_SECONDS - 1  # instead of waiting as long
    os.utime(beats, (long_ago, long_ago))
    assert not healthy()
    process.send_signal(signal.SIGCONT)
    wait_until(healthy, "the process continues")


def assert_only_the_key_opens(port: int, key: str) -> None:
    """Check that the API asks for keys, and that this one may do everything."""
    with http_client(f"http://127.0.0.1:{port}") as client:
        assert client.get("/orders").status_code == 401
        client.headers["Authorization"] = f"Bearer {key}"
        assert client.get("/orders").status_code == 200
        (stored,) = client.get("/keys").json()["items"]
        assert (stored["name"], set(stored["scopes"]), stored["expires_at"]) == ("first", set(SCOPES), None)


@pytest.mark.timeout(180)
def test_every_service_runs_on_a_read_only_root_as_another_user(
    image: Image, database_url: str, own_valkey: EmbeddedValkey
) -> None:
    """Each runs on the image's files alone until it is healthy, notices a hang, and ends when asked."""
    port = free_port()

    def settings_of(name: str) -> dict[str, str]:
        # As Compose sets them, except the addresses: the servers are the tests' own, on this machine only.
        own = settings_of_service(name) | {"OMS_PORT": str(port), "OMS_HOST": "127.0.0.1"}
        del own["OMS_DATABASE_URL"], own["OMS_REDIS_URL"], own["OMS_REDIS_PASSWORD"]
        return environment(database_url, own_valkey.url, **own)

    def started(name: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        return image.started(OURS[name]["command"], settings_of(name), OURS[name].get("volumes", ()))

    def output(name: str) -> str:
        with started(name) as process:
            assert process.wait(timeout=60) == 0, image.log(OURS[name]["command"])
        return image.log(OURS[name]["command"])

    output("migrate")
    (key,) = re.findall(r"oms_\w+", output("keys"))
    with started("api") as api, started("relay") as relay, started("worker") as worker:
        processes = {"api": api, "relay": relay, "worker": worker}

        def healthy(name: str) -> bool:
            kind, python, *check = OURS[name]["healthcheck"]["test"]
            assert (kind, python) == ("CMD", "python")
            command = [python, *(word.replace(":8000/", f":{port}/") for word in check)]
            return image.execute(processes[name], command, settings_of(name)).returncode == 0

        for name in processes:
            # A check is a process, and would compete with the service for CPU while it starts.
            wait_until(partial(healthy, name), f"the health check of {name} passes", 40, pause=0.3)
        assert_only_the_key_opens(port, key)
        assert "oms_" not in output("keys"), "it is printed once"
        tried = image.execute(api, ["python", "-c", TRY_TO_WRITE], settings_of("api"))
        *refused, privileges = tried.stdout.splitlines()
        assert len(refused) == 5, tried
        assert {line.partition(" ")[2] for line in refused} == {"Read-only file system"}
        assert privileges.split() == [str(USER if IS_ROOT else 0), "0" * 16, "0" * 16, "1"]
        for name in ("relay", "worker"):
            beats = Path(f"/proc/{processes[name].pid}/root{BEATS}")
            assert_a_hang_is_noticed(processes[name], partial(healthy, name), beats)
        for process in processes.values():
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
        for process in processes.values():
            assert process.wait(timeout=30) in {0, -signal.SIGTERM}
