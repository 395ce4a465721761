"""The console's Health page: what is watched, with the limits of its alerts, also while a part is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from console.alerts import alerts
from tests.browser import accessibility_faults, sideways_scroll
from tests.processes import NO_REDIS
from tests.serving import serving

if TYPE_CHECKING:
    from tests.browser import Browser
    from tests.browser_fixtures import Console
    from tests.drivers import Database


def test_every_alert_has_a_limit() -> None:
    """As its expression says it."""
    assert alerts()["BacklogGrows"].limit == 60
    assert alerts()["ProofOverdue"].limit == 172_800
    assert alerts()["DatabaseAway"].fires_for(0)
    assert not alerts()["DatabaseAway"].fires_for(1)


def test_health_shows_each_figure_with_its_state_in_words(browser: Browser, console: Console) -> None:
    """And refreshes itself; readable in both schemes and on a phone."""
    console.api.placed_order()
    console.pipeline.wait_until_summed()
    for position, (dark, phone) in enumerate(((False, False), (True, True)), 1):
        page = browser.open(console.url, dark=dark, phone=phone)
        page.goto("/console/health")
        assert "Orders can be stored." in page.inner_text("main")
        consumer = page.get_by_role("row").filter(has_text="Fee summaries").first
        assert "ok" in consumer.inner_text()
        assert f"position {position}, 0 changes" in consumer.inner_text()
        assert "BacklogGrows above 60 s for 5m" in consumer.inner_text()
        assert accessibility_faults(page) == []
        assert sideways_scroll(page) == 0
        browser.screenshot(page, f"dark-{dark}")
        console.api.placed_order(at=f"203{position}-01-01T12:00:00Z")
        page.get_by_text(f"position {position + 1}, 0 changes").first.wait_for()


def test_without_redis_the_page_says_so(postgres_url: str, database: Database) -> None:
    """Orders can be stored all the same."""
    database.add_services()
    with serving(database=postgres_url, redis=NO_REDIS) as (api, _):
        text = api.client.get("/console/health").text
    assert "Orders can be stored." in text
    assert '<td>Redis</td><td><span class="badge bad">bad</span></td><td>does not answer</td>' in text
