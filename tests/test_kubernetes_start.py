"""The pods of ``deploy/kubernetes``, as processes with their settings, start in any order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import httpx

from stack.embedded_valkey import EmbeddedValkey, free_port
from tests.drivers import Api, Database, Pipeline, wait_until
from tests.key_steps import bearer
from tests.kubernetes_manifests import by_name, ours
from tests.processes import ROOT, ServiceProcess, run_command

OVERLAY = "with-external-database"
ELSEWHERE = {"OMS_REDIS_URL", "OMS_HOST", "OMS_PORT", "OMS_METRICS_HOST"}


def environment_of(name: str, folder: Path) -> dict[str, str]:
    """Return a pod's environment, except addresses, and passwords that the servers here do not ask for."""
    values = dict(by_name(OVERLAY, "ConfigMap")["oms"]["data"])
    values |= {each["name"]: each["value"] for each in ours(OVERLAY)[name]["env"] if "value" in each}
    values = {each: value for each, value in values.items() if each not in ELSEWHERE}
    if "OMS_HEARTBEAT_FILE" in values:
        values["OMS_HEARTBEAT_FILE"] = str(folder / name)
    return {**values, "OMS_METRICS_PORT": str(free_port()), "KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def beats(name: str, folder: Path) -> bool:
    """Return whether the pod's probe succeeds."""
    python, *arguments = ours(OVERLAY)[name]["startupProbe"]["exec"]["command"]
    assert python == "python"
    env = {**os.environ, "OMS_HEARTBEAT_FILE": str(folder / name)}
    done = subprocess.run([sys.executable, *arguments], check=False, cwd=ROOT, env=env, capture_output=True)
    return done.returncode == 0


def test_pods_that_start_before_the_migrations_wait_for_them_and_then_work(
    new_database_url: str, own_valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    """Their probes succeed meanwhile, and the key that the job prints opens the API."""
    port = free_port()
    with ExitStack() as stack:
        processes = {
            name: ServiceProcess(
                ours(OVERLAY)[name]["command"][2],
                database=new_database_url,
                redis=own_valkey.url,
                port=port if name == "api" else 0,
                **environment_of(name, tmp_path),
            )
            for name in ("api", "relay", "worker")
        }
        for process in processes.values():
            stack.enter_context(process)
        api = stack.enter_context(Api(port))

        def answers() -> bool:
            try:
                return api.client.get("/health/live").status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        wait_until(answers, "the API answers")
        wait_until(lambda: beats("relay", tmp_path) and beats("worker", tmp_path), "relay and worker beat")
        not_ready = api.client.get("/health/ready")
        assert not_ready.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert '"migrations":"pending"' in not_ready.text

        printed = ""
        for name in ("migrate", "first-key"):
            module = ours(OVERLAY)[name]["command"][2]
            done = run_command(module, database=new_database_url, **environment_of(name, tmp_path))
            assert done.returncode == 0, done.stderr
            printed = done.stdout
        (key,) = re.findall(r"oms_\w+", printed)
        api.wait_until_ready()
        assert api.client.get("/orders").status_code == httpx.codes.UNAUTHORIZED
        api.client.headers.update(bearer(key))
        with Database(new_database_url) as database:
            database.add_services()
            api.placed_order()
            Pipeline(
                api, database, processes["relay"], processes["worker"], own_valkey.url
            ).wait_until_summed()
        assert [name for name, process in processes.items() if process.has_ended] == []
        assert beats("relay", tmp_path)
        assert beats("worker", tmp_path)
        processes["worker"].kill()  # its children sleep for a second before they end
