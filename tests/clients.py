"""Generate clients of the contract with public generators, type-check them, and run one journey with each.

    python -m tests.clients

The generators are pinned in ``contract/clients``: those in Python are installed into an environment of
their own, those in TypeScript need Node, and openapi-generator needs Java. What is missing is skipped, and
named at the end. A whole system of its own (``oms run``, with the sample data) answers the journeys, and
before them all requests of a generated Postman collection. The exit status is 0 if nothing failed, 1 if
something did.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contract.checks.document import CONTRACT, operations
from stack.embedded_valkey import free_port
from tests.contract_schemas import CONTRACT as DOCUMENT
from tests.processes import ROOT
from tests.supervisor import Run

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = ROOT / "contract" / "clients"
GENERATED = HERE / "generated"
ENVIRONMENT = HERE / ".venv"
PYTHON = str(ENVIRONMENT / "bin" / "python")
OPERATION_IDS = [str(operation.get("operationId")) for _, _, operation in operations(DOCUMENT)]

STREAM = "Stream order changes live"
"""The one operation that a collection's runner can't finish: its response has no end."""

GENERATORS_OWN = ("--allow-untyped-defs", "--allow-incomplete-defs", "--allow-untyped-calls")
"""openapi-generator writes functions without annotations around the typed ones, whatever the contract is."""


class ClientError(Exception):
    """A step failed; the text says which, and what it printed."""


def call(*command: str, folder: Path = HERE, **variables: str) -> str:
    """Run a command; return its output.

    Raises:
        ClientError: its exit status is not 0.

    """
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,
    )
    if done.returncode:
        raise ClientError(f"{' '.join(command[:6])} … failed:\n{done.stdout[-6_000:]}")
    return done.stdout


def install_python() -> None:
    """Make the generators' environment from its lock, unless it is there."""
    lock, stamp = HERE / "requirements.lock", ENVIRONMENT / "installed-from.lock"
    if stamp.exists() and stamp.read_bytes() == lock.read_bytes():
        return
    call(sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT))
    call(PYTHON, "-m", "pip", "--quiet", "install", "--no-deps", "--require-hashes", "-r", str(lock))
    stamp.write_bytes(lock.read_bytes())


def install_node() -> None:
    """Install the generators in TypeScript from their lock, unless they are there."""
    lock, stamp = HERE / "package-lock.json", HERE / "node_modules" / ".installed-from-lock"
    if not (stamp.exists() and stamp.read_bytes() == lock.read_bytes()):
        call("npm", "ci", "--silent")
        stamp.write_bytes(lock.read_bytes())


def check_operations(client: str, written: set[str]) -> None:
    """Compare the operations of a client with the contract's.

    Raises:
        ClientError: one was left out.

    """
    missing = [name for name in OPERATION_IDS if name not in written and snake(name) not in written]
    if missing:
        raise ClientError(f"{client} left out {', '.join(missing)}")


def snake(name: str) -> str:
    """Return an operation's name as the generators of Python write it."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def text_of(*files: Path) -> str:
    """Return the text of all files."""
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def make_openapi_python_client() -> None:
    """Generate and type-check, strictly, client and journey."""
    name, folder = "openapi_python_client", GENERATED / "openapi-python-client"
    call(
        *(PYTHON, "-m", name, "generate", "--path", str(CONTRACT), "--output-path", str(folder)),
        *("--config", str(HERE / "openapi-python-client.yaml")),
    )
    package = folder / "order_management_client"
    check_operations(name, {file.stem for file in package.glob("api/*/*.py")})
    call(PYTHON, "-m", "mypy", "--strict", str(package), f"{name}_journey.py", MYPYPATH=str(folder))


def make_openapi_generator() -> None:
    """Generate and type-check client and journey, except what the generator itself leaves untyped."""
    name, folder = "openapi_generator", GENERATED / "openapi-generator"
    command = [
        str(ENVIRONMENT / "bin" / "openapi-generator-cli"),
        "generate",
        "-i",
        str(CONTRACT),
        "-g",
        "python",
    ]
    options = ["--package-name", f"{name}_client", "--name-mappings", "datetime=datetime_", "-o", str(folder)]
    call(PYTHON, *command, *options)
    package = folder / f"{name}_client"
    check_operations(name, set(re.findall(r"def (\w+)\(", text_of(*package.glob("api/*.py")))))
    # The configuration that the generator writes beside the client would apply otherwise.
    own = ("--config-file=", "--strict", *GENERATORS_OWN)
    call(PYTHON, "-m", "mypy", *own, "--no-warn-return-any", "--implicit-reexport", str(package))
    silent = "--follow-imports=silent"
    call(PYTHON, "-m", "mypy", *own, silent, f"{name}_journey.py", MYPYPATH=str(folder))


def make_typescript() -> None:
    """Generate both clients, and type-check them strictly with their journeys."""
    hey_api, types = GENERATED / "hey-api", GENERATED / "openapi-typescript" / "schema.d.ts"
    call("npx", "--no-install", "openapi-ts", "-i", str(CONTRACT), "-o", str(hey_api))
    call("npx", "--no-install", "openapi-typescript", str(CONTRACT), "-o", str(types))
    check_operations("hey-api", set(re.findall(r"export const (\w+) =", text_of(hey_api / "sdk.gen.ts"))))
    listed = text_of(types).partition("export interface operations {")[2]
    check_operations("openapi-typescript", set(re.findall(r"^    (\w+): \{$", listed, re.MULTILINE)))
    call("npx", "--no-install", "tsc", "-p", "tsconfig.json")


def run_collection(url: str) -> None:
    """Send all requests of a generated Postman collection in their order; none is answered 400.

    Each ends with a documented status. Optional parameters are left out, as some exclude each other.
    """
    collection, report = GENERATED / "collection.json", GENERATED / "newman.json"
    options = "parametersResolution=Example,folderStrategy=Tags,enableOptionalParameters=false"
    call(
        "npx", "--no-install", "openapi2postmanv2", "-s", str(CONTRACT), "-o", str(collection), "-O", options
    )
    content = json.loads(collection.read_text())
    _leave_out_the_stream(content)
    collection.write_text(json.dumps(content))
    call(
        *("npx", "--no-install", "newman", "run", str(collection), "--env-var", f"baseUrl={url}"),
        *("--reporters", "json", "--reporter-json-export", str(report), "--timeout-request", "20000"),
    )
    documented = {
        str(operation.get("summary")): set(operation.members("responses"))
        for _, _, operation in operations(DOCUMENT)
    }
    runs = json.loads(report.read_text())["run"]["executions"]
    ended = [(run["item"]["name"], str(run["response"]["code"])) for run in runs]
    wrong = [f"{name}: {code}" for name, code in ended if code == "400" or code not in documented[name]]
    if wrong or len(ended) != len(OPERATION_IDS) - 1:
        raise ClientError(
            f"of {len(ended)} requests of the collection ended otherwise than documented: {wrong}"
        )


def _leave_out_the_stream(folder: dict[str, Any]) -> None:
    folder["item"] = [item for item in folder["item"] if item["name"] != STREAM]
    for item in folder["item"]:
        if "item" in item:
            _leave_out_the_stream(item)


def run_python_journey(name: str, url: str) -> None:
    """Run a journey in Python."""
    call(PYTHON, f"{name}_journey.py", url, PYTHONPATH=str(GENERATED / name.replace("_", "-")))


def run_node_journey(name: str, url: str) -> None:
    """Run a journey that was compiled to JavaScript."""
    call("node", f"generated/javascript/{name}_journey.js", url)


@contextmanager
def whole_system() -> Iterator[str]:
    """Run ``make run``'s command with a folder and a port of its own; return its address."""
    with tempfile.TemporaryDirectory(prefix="oms-clients-") as folder:
        system = Run(Path(folder), free_port())
        try:
            system.wait_until_ready()
            yield system.address
        finally:
            system.stop()


def main() -> int:
    """Run the command; return the exit status."""
    node, java = shutil.which("node") and shutil.which("npm"), shutil.which("java")
    skipped = [] if java else ["openapi-generator: NO JAVA"]
    skipped += [] if node else ["@hey-api/openapi-ts, openapi-typescript and newman: NO NODE"]
    shutil.rmtree(GENERATED, ignore_errors=True)
    GENERATED.mkdir()
    python = ["openapi_python_client", *(["openapi_generator"] if java else [])]
    typescript = ["hey_api", "openapi_typescript"] if node else []
    failures = []

    def attempt(what: str, step: Any, *arguments: Any) -> None:
        began = time.monotonic()
        try:
            step(*arguments)
            print(f"clients: {what}: ok ({time.monotonic() - began:.0f} s)", flush=True)
        except ClientError as error:
            failures.append(what)
            print(f"clients: {what}: FAILED: {error}", flush=True)

    attempt("install the generators in Python", install_python)
    attempt("generate and check openapi-python-client", make_openapi_python_client)
    if java:
        attempt("generate and check openapi-generator", make_openapi_generator)
    if node:
        attempt("install the generators in TypeScript", install_node)
        attempt("generate and check hey-api and openapi-typescript", make_typescript)
    with whole_system() as url:
        if node:
            attempt("Postman collection", run_collection, url)
        for name in python:
            attempt(f"journey with {name}", run_python_journey, name, url)
        for name in typescript:
            attempt(f"journey with {name}", run_node_journey, name, url)
    for what in skipped:
        print(f"clients: SKIPPED  {what} is installed", flush=True)
    print(f"clients: {len(failures)} step(s) failed, {len(skipped)} skipped", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
