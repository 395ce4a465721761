"""The operations guide: its commands are run by tests where they can be, and some of them here."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

from stack.embedded_postgres import EmbeddedPostgres
from stack.embedded_valkey import EmbeddedValkey
from tests.builders import later
from tests.drivers import Api, Database
from tests.key_steps import bearer, key_command
from tests.operations_guide import GUIDE, NOT_RUN, PAGES, RUN, blocks_of, commands, run_commands
from tests.processes import NO_REDIS, ROOT
from tests.serving import serving


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_guide_is_run_by_a_test_or_says_why_not(page: str) -> None:
    """The test that the comment before it names has its name."""
    for mark, kind, text in blocks_of(page):
        if kind == "text" and not mark:
            continue  # what a program prints
        run = RUN.fullmatch(mark)
        assert run or NOT_RUN.fullmatch(mark), text
        if run:
            assert f'"{run["name"]}"' in (ROOT / run["test"]).read_text(), mark


def test_the_index_names_every_page() -> None:
    """And what is beside them is named by a page."""
    index = (GUIDE / "README.md").read_text()
    assert [page for page in PAGES if f"({page}.md)" not in index] == []
    text = "".join(page.read_text() for page in GUIDE.glob("*.md"))
    assert [script.name for script in GUIDE.glob("*.sh") if script.name not in text] == []


def place_an_order(url: str, number: int) -> None:
    """Create an order at an API that connects as the role of this URL."""
    with serving(database=url, redis=NO_REDIS) as (api, _):
        api.placed_order(at=later(hours=3 * number))


def test_roles_are_made_and_replaced_as_the_guide_says(tmp_path: Path) -> None:
    """The service's role can do what the service does, and two roles take turns."""
    with EmbeddedPostgres(tmp_path / "postgres", durable=False) as postgres:
        owner, service, next_service = (
            postgres.url.replace("postgres@", f"{role}@") for role in ("oms_owner", "shop_api", "shop_api_2")
        )
        with Database(postgres.url) as superuser:
            superuser.run_script(commands("install", "owner"))
            for page, name in (("upgrade", "migrate"), ("install", "roles")):
                done = run_commands(commands(page, name), ROOT, OMS_DATABASE_URL=owner)
                assert done.returncode == 0, done.stderr
            superuser.run_script(commands("install", "logins"))
            superuser.add_services()
            place_an_order(service, 0)
            superuser.run_script(commands("rotate", "database-role"))
            place_an_order(next_service, 1)
            superuser.run_script(commands("rotate", "old-database-role"))
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError), Database(service):
                pass
            place_an_order(next_service, 2)


def test_a_key_is_rotated_as_the_guide_says(api: Api, database: Database) -> None:
    """Both secrets are accepted."""
    old = key_command(database, "make", "shop", "--scopes", "orders:read")
    rotated = run_commands(commands("rotate", "api-key"), ROOT, OMS_DATABASE_URL=database.url)
    assert rotated.returncode == 0, rotated.stderr
    for secret in (old, rotated.stdout.strip()):
        answer = api.client.get("/orders", headers=bearer(secret))
        assert answer.status_code == 200, answer.text


def test_the_password_of_redis_is_replaced_as_the_guide_says(own_valkey: EmbeddedValkey) -> None:
    """There is no moment at which neither is accepted."""

    def accepts(password: str) -> bool:
        with redis.Redis(port=urlsplit(own_valkey.url).port or 0, password=password) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return False

    with redis.Redis.from_url(own_valkey.url, socket_timeout=5) as administrator:
        administrator.execute_command("ACL", "SETUSER", "default", "resetpass", ">old")
        assert (accepts("old"), accepts("new")) == (True, False)
        administrator.execute_command(*commands("rotate", "redis-password").split())
        assert (accepts("old"), accepts("new")) == (True, True)
        administrator.execute_command(*commands("rotate", "old-redis-password").split())
        assert (accepts("old"), accepts("new")) == (False, True)
