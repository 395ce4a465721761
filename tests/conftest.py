"""Real servers for every test: started once for the whole run, with databases of its own for each process.

``api`` is a granian process on a socket, with a clean database; ``pipeline`` is another, with relay and
worker beside it. Tests of single steps of the relay and the worker run them in this process, on the
database of ``api``, through ``run``.
"""

from __future__ import annotations

import asyncio
import gc
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncpg
import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.browser_fixtures import (
    admin,
    browser,
    chromium,
    console,
    guarded,
    guarded_api,
    guarded_console,
    page,
)
from tests.drivers import Api, Database, Pipeline
from tests.identity_provider import IdentityProvider
from tests.open_files import raise_limit
from tests.processes import QUICK, migrate
from tests.serving import running_pipeline, serving
from tests.trace_collector import Collector
from tests.webhook_receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from stack.embedded_valkey import EmbeddedValkey
    from tests.task_queue import Queue

T = TypeVar("T")

__all__ = ["admin", "browser", "chromium", "console", "guarded", "guarded_api", "guarded_console", "page"]
"""Fixtures that are defined elsewhere."""

_POSTGRES = "ORDERS_TEST_POSTGRES"
_VALKEY = "ORDERS_TEST_VALKEY"
_servers = ExitStack()

_FEW_WORDS = {"OMS_LOG_LEVEL": "WARNING"}
"""For APIs whose log no test reads: logging each request takes a twelfth of their time."""

_LONGEST_FIRST = (
    *(
        "fuzz",
        "faults",
        "upgrade_side_by_side",
        "stack_run",
        "random_histories",
        "migrations",
        "large_order_streams",
        "docker_compose",
    ),
    *("relay_process", "fee_summary_zone", "order_change_stream", "order_query_plans", "relay"),
    *("restarts", "draining", "backups", "trace_exports", "alerts_and_dashboard", "compose_services"),
)
"""The slowest files. Started last, one of them would keep a single process busy to the end."""

_WITH_PIPELINE = (
    *("fee_summary_proof", "fee_summary_positions", "subscribing", "order_change_transports"),
    *(
        "fee_summary_reader",
        "webhook_processes",
        "subscribing_webhooks",
        "order_journey",
        "readme",
        "webhook_commands",
    ),
)
"""The files that use ``pipeline``, all in one process, so that only one is started."""

_IN_BROWSER = ("test_browser", "test_console")
"""How the names of files begin whose tests use a browser: all in one process, so that only one is started."""


def pytest_xdist_auto_num_workers() -> int:
    """Run ``-n auto`` with cores + 1 processes, at most 8: each uses two of Redis' 16 databases."""
    return min(8, (os.cpu_count() or 1) + 1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order the files as above; the order within each file stays."""
    order = (*_LONGEST_FIRST, *_WITH_PIPELINE, None)
    places = {name and f"test_{name}": place for place, name in enumerate(order)}
    for stem in {item.path.stem for item in items if item.path.stem.startswith(_IN_BROWSER)}:
        places[stem] = places["test_relay"]
    items.sort(key=lambda item: places.get(item.path.stem, places[None]))


class _ByFile(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not typed
    """One process runs all tests of a file, as they share the file's fixtures."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if Path(file).stem.startswith(_IN_BROWSER):
            return "browser"
        return "pipeline" if Path(file).stem.removeprefix("test_") in _WITH_PIPELINE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """Distribute the tests by file."""
    return _ByFile(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers once, and set this process's own databases before anything reads the settings."""
    raise_limit()
    if not hasattr(config, "workerinput"):
        from stack.embedded_postgres import EmbeddedPostgres
        from stack.embedded_valkey import EmbeddedValkey

        folder = Path(_servers.enter_context(tempfile.TemporaryDirectory(prefix="oms-")))
        folder.chmod(0o711)  # when started by root, PostgreSQL runs as another user
        postgres = _servers.enter_context(EmbeddedPostgres(folder / "postgres", durable=False))
        valkey = _servers.enter_context(EmbeddedValkey(folder / "valkey"))
        os.environ[_POSTGRES] = postgres.url_of("{}")
        os.environ[_VALKEY] = valkey.url
        template = os.environ[_POSTGRES].replace("{}", "migrated")
        _create_database("migrated")
        migrate(template)
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    os.environ["OMS_DATABASE_URL"] = _migrated_database("quiet")
    os.environ["OMS_REDIS_URL"] = _redis_database(2 * int(name.removeprefix("gw")))
    os.environ.update(QUICK)


def pytest_collection_finish() -> None:
    """Run GC less often, and never on imported modules: it took a sixth of the tests' time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 1_000)


def pytest_unconfigure() -> None:
    """Stop the servers, in the process that started them."""
    _servers.close()


def _redis_database(number: int) -> str:
    return f"{os.environ[_VALKEY].rsplit('/', 1)[0]}/{number}"


def _create_database(name: str, template: str = "template1") -> None:
    async def create() -> None:
        connection = await asyncpg.connect(os.environ[_POSTGRES].replace("{}", "postgres"))
        try:
            # Two processes may copy the template at the same time, which PostgreSQL refuses.
            await connection.execute("SELECT pg_advisory_lock(1)")
            await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        finally:
            await connection.close()

    # In a thread: while a browser is open, Playwright's event loop occupies this one.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, create()).result()


def _migrated_database(kind: str) -> str:
    """Create a migrated database for this process and return its URL."""
    name = f"{kind}_{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}"
    _create_database(name, template="migrated")
    return os.environ[_POSTGRES].replace("{}", name)


@pytest.fixture
def new_database_url(request: pytest.FixtureRequest) -> str:
    """An empty database, not migrated, for one test."""
    name = f"own_{os.environ.get('PYTEST_XDIST_WORKER', 'gw0')}_{abs(hash(request.node.nodeid))}"
    _create_database(name)
    return os.environ[_POSTGRES].replace("{}", name)


@pytest.fixture(scope="session")
def postgres_url() -> str:
    """The database that ``api`` and in-process steps work on."""
    return os.environ["OMS_DATABASE_URL"]


@pytest.fixture(scope="session")
def redis_url() -> str:
    """This process's Redis database."""
    return os.environ["OMS_REDIS_URL"]


@pytest.fixture(scope="session")
def _quiet_database(postgres_url: str) -> Iterator[Database]:
    with Database(postgres_url) as database:
        yield database


@pytest.fixture
def database(_quiet_database: Database) -> Database:
    """The database, without any rows."""
    _quiet_database.clean()
    return _quiet_database


@pytest.fixture(scope="session")
def _api_server(postgres_url: str, redis_url: str) -> Iterator[Api]:
    with serving(database=postgres_url, redis=redis_url, **_FEW_WORDS) as (api, _):
        yield api


@pytest.fixture
def api(_api_server: Api, database: Database) -> Api:
    """An API on a socket, without orders, with the sample's three services."""
    database.add_services()
    return _api_server


@pytest.fixture(scope="session")
def _pipeline_processes() -> Iterator[Pipeline]:
    url = _migrated_database("pipeline")
    redis = _redis_database(2 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) + 1)
    with running_pipeline(database=url, redis=redis, **_FEW_WORDS) as pipeline:
        yield pipeline


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of traces."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    """An identity provider, which publishes the keys of its access tokens."""
    with IdentityProvider() as provider:
        yield provider


@pytest.fixture
def pipeline(_pipeline_processes: Pipeline) -> Pipeline:
    """API, relay and worker, all running, without orders, with the sample's three services."""
    _pipeline_processes.database.clean()
    _pipeline_processes.database.add_services()
    return _pipeline_processes


@pytest.fixture(scope="module")
def _steps() -> Iterator[asyncio.Runner]:
    from shared.database.engine import DB

    with asyncio.Runner() as runner:
        runner.run(DB.start(size=4))
        try:
            yield runner
        finally:
            runner.run(DB.stop())


@pytest.fixture
def run(
    _steps: asyncio.Runner,
    database: Database,  # noqa: ARG001 (clean first)
) -> Callable[[Coroutine[Any, Any, T]], T]:
    """Run a step of the relay or the worker in this process, on a clean database."""
    return _steps.run


@pytest.fixture
def setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Change settings of this process for one test: ``setting(relay_window=50)``."""
    from shared.settings import settings

    def change(**values: object) -> None:
        for name, value in values.items():
            monkeypatch.setenv(f"OMS_{name.upper()}", str(value))
        settings.cache_clear()

    yield change
    monkeypatch.undo()
    settings.cache_clear()


@pytest.fixture(scope="module")
def own_database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database for one file alone, which may for instance end all sessions on it."""
    return _migrated_database(request.module.__name__.rpartition(".")[2])


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An endpoint that acknowledges everything."""
    with Receiver() as endpoint:
        yield endpoint


@pytest.fixture
def queue(redis_url: str) -> Iterator[Queue]:
    """This process's queue, empty and without a worker."""
    from tests.task_queue import Queue

    queue = Queue(redis_url)
    queue.client.flushdb()
    yield queue
    queue.client.flushdb()
    queue.client.close()


@pytest.fixture
def own_valkey(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """A Redis-compatible server that may be stopped and broken."""
    from stack.embedded_valkey import EmbeddedValkey

    with EmbeddedValkey(tmp_path / "valkey") as valkey:
        yield valkey
