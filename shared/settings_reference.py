"""Write the table of ``docs/configuration.md`` from the settings' docstrings, types and bounds.

``python -m shared.settings_reference docs/configuration.md``, or ``make docs``. The rest of the file is
written by hand and stays as it is.
"""

from __future__ import annotations

import ast
import inspect
import sys
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from shared.setting_values import SHARE
from shared.settings import PREFIX, Settings

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

BEGIN = "<!-- Written by `make docs` from shared/setting_groups/. -->\n"
END = "<!-- The end of what `make docs` writes. -->\n"


def docstrings() -> dict[str, str]:
    """Return each setting's docstring as one line; a setting without one is left out."""
    texts = {}
    for group in Settings.__bases__:
        (group_class,) = ast.parse(inspect.getsource(group)).body
        assert isinstance(group_class, ast.ClassDef)  # noqa: S101 (the source of a class)
        for member, following in pairwise(group_class.body):
            match member, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = " ".join(text.split()).replace("``", "`")
    return texts


def accepted(field: FieldInfo) -> str:
    """Describe which values a setting accepts; empty if only its docstring does."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(field.annotation))
    if field.annotation is bool:
        return "`yes`, `no`"
    if field.annotation is timedelta:
        return "a whole number and a unit, `d`, `h`, `m` or `s`"
    if field.annotation not in (int, float):
        return ""
    unit = " seconds" if field.annotation is float and SHARE not in field.metadata else ""
    least, above, most = (
        next((getattr(one, kind) for one in field.metadata if hasattr(one, kind)), None)
        for kind in ("ge", "gt", "le")
    )
    return f"more than {above}, up to {most}{unit}" if least is None else f"{least} to {most}{unit}"


def table() -> str:
    """Return all settings as a Markdown table, in the order in which they are defined."""
    lines = ["| variable | default | accepts | meaning |", "|---|---|---|---|"]
    texts = docstrings()
    for name, field in Settings.model_fields.items():
        default = "required" if field.is_required() else f"`{field.default}`".replace("``", "empty")
        lines.append(f"| `{PREFIX}{name.upper()}` | {default} | {accepted(field)} | {texts.get(name, '')} |")
    return "\n".join(lines) + "\n"


def with_table(document: str) -> str:
    """Return the document with the table between its two markers replaced.

    Raises:
        ValueError: a marker is missing.

    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the document lacks one of the two markers around the table")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> None:
    """Run from the command line; the argument is the path of the document."""
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text()))


if __name__ == "__main__":
    main()
