"""The pages that people read in a browser: what they show, and where their links lead."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from api.operations.documentation import GUIDES
from contract.checks.document import operations
from tests.contract_schemas import CONTRACT
from tests.processes import ROOT

if TYPE_CHECKING:
    from tests.drivers import Api

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PAGES = ["/docs", *(f"/docs/{name}" for name in GUIDES), "/problems/orders-too-close"]


def _links(page: str) -> set[str]:
    return set(re.findall(r'(?:href|src)="([^"]*)"', page))


@pytest.mark.parametrize("accept", [BROWSER["Accept"], "*/*", None])
def test_the_root_leads_to_the_documentation(api: Api, accept: str | None) -> None:
    """A browser that is given the service's address alone shows how to use it."""
    answer = api.client.get("/", headers={"Accept": accept} if accept else None)
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
    assert api.client.get(answer.headers["location"], headers=BROWSER).status_code == 200


@pytest.mark.parametrize("path", PAGES)
def test_every_page_links_the_guides_and_both_contracts_and_every_link_works(api: Api, path: str) -> None:
    """A link within this service is answered with a page or a file; a link within a page names a heading."""
    page = api.client.get(path, headers=BROWSER).text
    links = _links(page)
    assert links >= {"/docs", "/docs/subscribing", "/openapi.yaml", "/asyncapi.yaml"}
    for link in sorted(links):
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in page, link
        elif not link.startswith("https://"):
            assert api.client.get(link).status_code == 200, link
    assert not [link for link in re.findall(r'(?:src|rel="[a-z]+" href)="([^"]*)"', page) if link[0] != "/"]


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_is_shown_whole_and_rendered(api: Api, name: str) -> None:
    """Its headings, code and tables are elements; its code is that of the file, character by character."""
    text = (ROOT / "docs" / f"{name}.md").read_text()
    page = api.client.get(f"/docs/{name}", headers=BROWSER).text
    assert len(re.findall(r"<h[1-3] id=", page)) == len(
        re.findall(r"^#{1,3} ", _outside_code(text), re.MULTILINE)
    )
    assert page.count("<pre>") == text.count("\n```") // 2
    assert page.count("<table>") == len(re.findall(r"^\|[-|]+\|$", text, re.MULTILINE))
    assert "](" not in re.sub(r"<pre>.*?</pre>", "", page, flags=re.DOTALL)


def _outside_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_links_in_the_contracts_descriptions_work(api: Api) -> None:
    """They are shown in the viewer, and lead to pages of this service."""
    for path in ("/openapi.yaml", "/asyncapi.yaml"):
        targets = re.findall(r"\]\((/[^)]*)\)", api.client.get(path).text)
        assert "/docs/subscribing" in targets
        assert {api.client.get(target).status_code for target in targets} == {200}


def test_problem_pages_show_code_as_code(api: Api) -> None:
    """What to do is written with Markdown, and rendered."""
    page = api.client.get("/problems/orders-too-close").text
    assert "<code>nearest.before</code>" in page
    assert "`" not in page


def test_markup_in_a_problems_text_is_shown_as_text(api: Api) -> None:
    """Nothing of a text is read as HTML: a member's name in angle brackets is visible."""
    page = api.client.get("/problems/unauthenticated").text
    assert "<key>" not in page


def test_streams_are_shown_as_a_curl() -> None:
    """The viewer shows a response at its end, and a stream has none."""
    for _path, _method, operation in operations(CONTRACT):
        success = operation.members("responses").get("200")
        if success is not None and "text/event-stream" in success.members("content"):
            assert "curl -sN" in operation.get("description")
