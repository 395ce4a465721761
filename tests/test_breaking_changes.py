"""The checker of breaking changes, on a table of breaking and compatible changes."""

from __future__ import annotations

import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from contract.checks.breaking_changes import breaking_changes, main
from contract.checks.document import CONTRACT, Place, load

REMOVED = object()

ORDER = {
    "type": "object",
    "required": ["id", "fee", "state"],
    "properties": {
        "id": {"type": "string", "maxLength": 18},
        "fee": {"type": "number", "minimum": 0, "maximum": 100},
        "state": {"type": "string", "enum": ["open", "done"]},
        "note": {"type": ["string", "null"]},
        "services": {"type": "array", "maxItems": 50, "items": {"type": "string"}},
    },
}
NEW_ORDER = {
    "type": "object",
    "required": ["fee"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": ["string", "integer"], "pattern": "^[1-9]", "minimum": 1},
        "fee": {"type": "number", "minimum": 0, "maximum": 100, "multipleOf": 0.01},
        "state": {"type": "string", "enum": ["open", "done"]},
        "services": {"type": "array", "maxItems": 50, "items": {"type": "string"}},
        "calendar": {"oneOf": [{"type": "string"}, {"type": "null"}]},
    },
}
TOO_CLOSE = {
    "properties": {"type": {"const": "/problems/too-close"}, "conflicts": {"type": "array"}},
    "required": ["type", "conflicts"],
}
TAKEN = {"properties": {"type": {"const": "/problems/taken"}}, "required": ["type"]}
PROBLEMS = "/paths/~1orders/get/responses/409/content/application~1problem+json/schema"

BASE: dict[str, Any] = {
    "openapi": "3.1.0",
    "info": {"title": "Orders", "version": "1.4.0"},
    "security": [{}, {"key": []}],
    "paths": {
        "/orders": {
            "get": {
                "operationId": "listOrders",
                "parameters": [
                    {
                        "name": "limit",
                        "in": "query",
                        "schema": {"type": "integer", "maximum": 100, "default": 50},
                    },
                    {"name": "sort", "in": "query", "schema": {"type": "string", "enum": ["id", "datetime"]}},
                ],
                "responses": {
                    "200": {
                        "headers": {
                            "ETag": {"required": True, "schema": {"type": "string"}},
                            "Link": {"schema": {"type": "string"}},
                        },
                        "content": {
                            "application/json": {"schema": {"$ref": "#/components/schemas/Order"}},
                            "text/csv": {"schema": {"type": "string"}},
                        },
                    },
                    "429": {"description": "Too fast."},
                    "409": {
                        "content": {"application/problem+json": {"schema": {"oneOf": [TOO_CLOSE, TAKEN]}}}
                    },
                },
            },
            "post": {
                "operationId": "createOrder",
                "parameters": [
                    {
                        "name": "Idempotency-Key",
                        "in": "header",
                        "schema": {"type": "string", "maxLength": 255},
                    }
                ],
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/NewOrder"}}}
                },
                "responses": {"201": {"description": "Made."}},
            },
        },
        "/orders/{order_id}": {
            "parameters": [
                {"name": "order_id", "in": "path", "required": True, "schema": {"type": "string"}}
            ],
            "delete": {"operationId": "deleteOrder", "responses": {"204": {"description": "Gone."}}},
        },
    },
    "webhooks": {
        "change": {
            "post": {
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Order"}}}
                },
                "responses": {"204": {"description": "Taken."}},
            }
        }
    },
    "components": {"schemas": {"Order": ORDER, "NewOrder": NEW_ORDER}},
}

LIST, CREATE = "/paths/~1orders/get", "/paths/~1orders/post"
ASKED, ANSWERED = "/components/schemas/NewOrder", "/components/schemas/Order"

BREAKING: dict[str, tuple[dict[str, Any], str]] = {
    "a member of an event is always there": ({f"{ANSWERED}/required/3": "note"}, ANSWERED),
    "a new member of an event is always there": (
        {f"{ANSWERED}/properties/added": {"type": "string"}, f"{ANSWERED}/required/3": "added"},
        ANSWERED,
    ),
    "an operation is removed": ({LIST: REMOVED}, LIST),
    "a path is removed": ({"/paths/~1orders~1{order_id}": REMOVED}, "/paths/~1orders~1{order_id}/delete"),
    "an operation gets another operationId": ({f"{LIST}/operationId": "orders"}, LIST),
    "access needs credentials now": ({"/security": [{"key": []}]}, LIST),
    "a parameter is removed": ({f"{LIST}/parameters/1": REMOVED}, f"{LIST}/parameters/1"),
    "a parameter becomes required": ({f"{LIST}/parameters/0/required": True}, f"{LIST}/parameters/0"),
    "a required parameter is added": (
        {f"{LIST}/parameters/2": {"name": "by", "in": "query", "required": True, "schema": {}}},
        f"{LIST}/parameters/2",
    ),
    "a parameter's bound is lowered": (
        {f"{LIST}/parameters/0/schema/maximum": 50},
        f"{LIST}/parameters/0/schema",
    ),
    "a parameter gets a bound": ({f"{LIST}/parameters/0/schema/minimum": 1}, f"{LIST}/parameters/0/schema"),
    "a parameter's default changes": (
        {f"{LIST}/parameters/0/schema/default": 20},
        f"{LIST}/parameters/0/schema",
    ),
    "a parameter loses a value": (
        {f"{LIST}/parameters/1/schema/enum": ["id"]},
        f"{LIST}/parameters/1/schema",
    ),
    "a request header is shortened": (
        {f"{CREATE}/parameters/0/schema/maxLength": 64},
        f"{CREATE}/parameters/0/schema",
    ),
    "the body becomes required": ({f"{CREATE}/requestBody/required": True}, f"{CREATE}/requestBody"),
    "the body is removed": ({f"{CREATE}/requestBody": REMOVED}, f"{CREATE}/requestBody"),
    "a media type of the body is removed": (
        {f"{CREATE}/requestBody/content": {"application/xml": {}}},
        f"{CREATE}/requestBody/content/application~1json",
    ),
    "a member of the body is removed": (
        {f"{ASKED}/properties/services": REMOVED},
        f"{ASKED}/properties/services",
    ),
    "a member of the body becomes required": ({f"{ASKED}/required": ["fee", "id"]}, ASKED),
    "a member of the body loses a type": (
        {f"{ASKED}/properties/id/type": "string"},
        f"{ASKED}/properties/id",
    ),
    "a member of the body loses an alternative": (
        {f"{ASKED}/properties/calendar": {"type": "string"}},
        f"{ASKED}/properties/calendar/oneOf/1",
    ),
    "a number of the body becomes an integer": (
        {f"{ASKED}/properties/fee/type": "integer"},
        f"{ASKED}/properties/fee",
    ),
    "a bound of the body is raised from below": (
        {f"{ASKED}/properties/fee/minimum": 1},
        f"{ASKED}/properties/fee",
    ),
    "a pattern of the body changes": ({f"{ASKED}/properties/id/pattern": "^[2-9]"}, f"{ASKED}/properties/id"),
    "the body gets a coarser step": ({f"{ASKED}/properties/fee/multipleOf": 1}, f"{ASKED}/properties/fee"),
    "the body loses a value": ({f"{ASKED}/properties/state/enum": ["open"]}, f"{ASKED}/properties/state"),
    "the body has fewer values than any": (
        {f"{ASKED}/properties/services/items/enum": ["123"]},
        f"{ASKED}/properties/services/items",
    ),
    "the elements of the body get a bound": (
        {f"{ASKED}/properties/services/items/maxLength": 9},
        f"{ASKED}/properties/services/items",
    ),
    "the elements of the body must differ": (
        {f"{ASKED}/properties/services/uniqueItems": True},
        f"{ASKED}/properties/services",
    ),
    "a response is removed": ({f"{LIST}/responses/429": REMOVED}, f"{LIST}/responses/429"),
    "a media type of the answer is removed": (
        {f"{LIST}/responses/200/content/text~1csv": REMOVED},
        f"{LIST}/responses/200/content/text~1csv",
    ),
    "a header of the answer is removed": (
        {f"{LIST}/responses/200/headers/Link": REMOVED},
        f"{LIST}/responses/200/headers/Link",
    ),
    "a header of the answer is not always there": (
        {f"{LIST}/responses/200/headers/ETag/required": False},
        f"{LIST}/responses/200/headers/ETag",
    ),
    "a member of the answer is removed": (
        {f"{ANSWERED}/properties/note": REMOVED},
        f"{ANSWERED}/properties/note",
    ),
    "a member of the answer is not always there": ({f"{ANSWERED}/required": ["id", "fee"]}, ANSWERED),
    "a member of the answer has another type": (
        {f"{ANSWERED}/properties/id/type": "integer"},
        f"{ANSWERED}/properties/id",
    ),
    "a member of the answer may be null": (
        {f"{ANSWERED}/properties/id/type": ["string", "null"]},
        f"{ANSWERED}/properties/id",
    ),
    "a bound of the answer is raised": (
        {f"{ANSWERED}/properties/fee/maximum": 1000},
        f"{ANSWERED}/properties/fee",
    ),
    "a bound of the answer is dropped": (
        {f"{ANSWERED}/properties/services/maxItems": REMOVED},
        f"{ANSWERED}/properties/services",
    ),
    "the answer gets a new value": (
        {f"{ANSWERED}/properties/state/enum": ["open", "done", "lost"]},
        f"{ANSWERED}/properties/state",
    ),
    "the answer may have any value": (
        {f"{ANSWERED}/properties/state/enum": REMOVED},
        f"{ANSWERED}/properties/state",
    ),
    "a kind of problem is no longer answered": ({PROBLEMS: TOO_CLOSE}, f"{PROBLEMS}/oneOf/1"),
    "a problem loses a member": (
        {f"{PROBLEMS}/oneOf/0/properties/conflicts": REMOVED},
        f"{PROBLEMS}/oneOf/0/properties/conflicts",
    ),
    "a webhook is removed": ({"/webhooks/change": REMOVED}, "/webhooks/change/post"),
}

COMPATIBLE: dict[str, dict[str, Any]] = {
    "nothing changes": {},
    "descriptions change": {f"{ANSWERED}/description": "An order.", f"{LIST}/summary": "List"},
    "an operation is added": {"/paths/~1calendars": {"get": {"responses": {}}}},
    "a path's parameter gets another name": {
        "/paths/~1orders~1{order_id}": REMOVED,
        "/paths/~1orders~1{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "delete": {"operationId": "deleteOrder", "responses": {"204": {"description": "Gone."}}},
        },
    },
    "an optional parameter is added": {
        f"{LIST}/parameters/2": {"name": "by", "in": "query", "schema": {"type": "string"}}
    },
    "parameters change their order": {
        f"{LIST}/parameters": BASE["paths"]["/orders"]["get"]["parameters"][::-1]
    },
    "a parameter's bound is raised": {f"{LIST}/parameters/0/schema/maximum": 200},
    "a parameter gets a value": {f"{LIST}/parameters/1/schema/enum": ["id", "datetime", "-id"]},
    "a parameter may be repeated": {
        f"{LIST}/parameters/1/schema": {
            "type": "array",
            "items": {"type": "string", "enum": ["id", "datetime"]},
        }
    },
    "a header changes its case": {f"{CREATE}/parameters/0/name": "idempotency-key"},
    "an optional member of the body is added": {f"{ASKED}/properties/note": {"type": "string"}},
    "a member of the body becomes optional": {f"{ASKED}/required": []},
    "a member of the body gets a type": {f"{ASKED}/properties/fee/type": ["number", "string"]},
    "a member of the body gets an alternative": {
        f"{ASKED}/properties/calendar/oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "null"}]
    },
    "alternatives are written as types": {f"{ASKED}/properties/calendar": {"type": ["null", "string"]}},
    "a pattern of the body is dropped": {f"{ASKED}/properties/id/pattern": REMOVED},
    "a bound of the body is lowered from below": {f"{ASKED}/properties/fee/minimum": -1},
    "the body gets a value": {f"{ASKED}/properties/state/enum": ["open", "done", "lost"]},
    "the body may have any value": {f"{ASKED}/properties/state/enum": REMOVED},
    "a media type of the body is added": {f"{CREATE}/requestBody/content/application~1xml": {}},
    "a member of the answer is added": {f"{ANSWERED}/properties/calendar": {"type": "string"}},
    "a member of the answer is always there": {
        f"{LIST}/responses/200/content/application~1json/schema/required": ["note"]
    },
    "a member of the answer is never null": {f"{ANSWERED}/properties/note/type": "string"},
    "a bound of the answer is lowered": {f"{ANSWERED}/properties/fee/maximum": 10},
    "a number of the answer becomes an integer": {f"{ANSWERED}/properties/fee/type": "integer"},
    "the answer loses a value": {f"{ANSWERED}/properties/state/enum": ["open"]},
    "a response is added": {f"{LIST}/responses/503": {"description": "Away."}},
    "a kind of problem is added": {
        f"{PROBLEMS}/oneOf/2": {"properties": {"type": {"const": "/problems/full"}}, "required": ["type"]}
    },
    "a header of the answer is added": {f"{LIST}/responses/200/headers/Age": {"schema": {"type": "string"}}},
    "a schema moves to a component": {
        f"{ANSWERED}/properties/fee": {"$ref": "#/components/schemas/Money", "description": "What it costs."},
        "/components/schemas/Money": {"type": "number", "minimum": 0, "maximum": 100},
    },
    "a schema is put together with allOf": {
        ANSWERED: {
            "allOf": [{"$ref": "#/components/schemas/Whole"}],
            "required": ["id"],
            "properties": {"id": {"type": "string", "maxLength": 18}},
        },
        "/components/schemas/Whole": ORDER,
    },
}


def edited(edits: dict[str, Any]) -> Place:
    """Copy the base contract, and set or remove the values at JSON Pointers."""
    document = copy.deepcopy(BASE)
    for pointer, value in edits.items():
        *parents, last = [part.replace("~1", "/") for part in pointer.split("/")[1:]]
        holder: Any = document
        for parent in parents:
            holder = holder[int(parent)] if isinstance(holder, list) else holder.setdefault(parent, {})
        if value is REMOVED:
            del holder[int(last) if isinstance(holder, list) else last]
        elif isinstance(holder, list):
            holder[int(last) :] = [copy.deepcopy(value)]
        else:
            holder[last] = copy.deepcopy(value)
    return Place(document, "#", document)


@pytest.mark.parametrize("what", BREAKING)
def test_a_contract_change_that_breaks_callers_is_reported(what: str) -> None:
    """With the JSON Pointer to it."""
    edits, pointer = BREAKING[what]
    changes = breaking_changes(edited({}), edited(edits))
    assert f"#{pointer}" in [change.pointer for change in changes], (
        "\n".join(map(str, changes)) or "no breaking change"
    )


@pytest.mark.parametrize("what", COMPATIBLE)
def test_a_compatible_contract_change_is_not_reported(what: str) -> None:
    """Not one of them is reported as breaking."""
    assert breaking_changes(edited({}), edited(COMPATIBLE[what])) == []


def test_a_breaking_change_in_a_shared_schema_is_reported_once() -> None:
    """Lists and webhooks both refer to the schema of orders."""
    changes = breaking_changes(edited({}), edited({f"{ANSWERED}/properties/note": REMOVED}))
    assert len(changes) == 1


def test_comparing_a_recursive_schema_terminates() -> None:
    """A schema that contains itself is compared once."""
    recursive = {f"{ANSWERED}/properties/parts": {"type": "array", "items": {"$ref": f"#{ANSWERED}"}}}
    assert breaking_changes(edited(recursive), edited(recursive)) == []


def test_the_contract_compared_with_itself_has_no_breaking_change() -> None:
    """The checker understands every construct that the real contract uses."""
    assert breaking_changes(load(), load()) == []


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository with the contract committed on main."""
    contract = tmp_path / "openapi.yaml"
    for command in (
        ["git", "init", "--quiet", "--initial-branch=main"],
        ["git", "config", "user.email", "test@localhost"],
        ["git", "config", "user.name", "Test"],
        ["git", "commit", "--quiet", "--allow-empty", "--message=Start"],
    ):
        subprocess.run(command, cwd=tmp_path, check=True)
    contract.write_bytes(CONTRACT.read_bytes())
    return contract


def commit(contract: Path) -> None:
    """Commit the contract."""
    for command in (["git", "add", contract.name], ["git", "commit", "--quiet", "--message=Contract"]):
        subprocess.run(command, cwd=contract.parent, check=True)


def change(contract: Path, *, major_versions: int) -> None:
    """Remove an operation in the working tree, and raise the contract's version."""
    document = yaml.load(contract.read_text(), Loader=yaml.CSafeLoader)
    del document["paths"]["/orders/batch"]
    major, minor, _ = map(int, document["info"]["version"].split("."))
    document["info"]["version"] = f"{major + major_versions}.{minor + 1}.0"
    contract.write_text(json.dumps(document, default=str))  # JSON is YAML, and faster to write


def test_the_contract_in_the_working_tree_is_compared_with_the_last_commit_of_main(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A breaking change fails the command and is named."""
    commit(clone)
    assert main(["--contract", str(clone)]) == 0
    change(clone, major_versions=0)
    assert main(["--contract", str(clone)]) == 1
    assert (
        "#/paths/~1orders~1batch/post: the operation POST /orders/batch was removed"
        in capsys.readouterr().out
    )


def test_a_breaking_change_is_allowed_in_a_new_major_version(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check passes, and still names the change."""
    commit(clone)
    change(clone, major_versions=1)
    assert main(["--contract", str(clone)]) == 0
    assert "POST /orders/batch was removed" in capsys.readouterr().out


def test_a_contract_is_compatible_with_a_revision_that_had_no_contract(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first contract has no callers yet."""
    assert main(["--contract", str(clone), "--base", "main"]) == 0
    assert "no contract yet" in capsys.readouterr().out


def test_comparing_the_contract_with_an_unknown_revision_fails(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped revision in CI must not count as compatible."""
    assert main(["--contract", str(clone), "--base", "v9"]) == 2
    assert "git has no revision v9" in capsys.readouterr().err
