"""Writing SVG: elements, and texts that callers chose, which can be nothing but text. Pure."""

from __future__ import annotations

import re
from xml.sax.saxutils import escape as escape_markup
from xml.sax.saxutils import quoteattr

ACCENT = "#4f46e5"
INK = "#1a1f36"
MUTED = "#697386"
LINE = "#e3e8ee"
BACKGROUND = "#ffffff"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

LARGEST_PICTURE_BYTES = 100_000

# All but what XML 1.0 can have (production 2), even escaped.
_NOT_XML = re.compile(r"[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\x7f-\x9f]")


def visible(text: str) -> str:
    """Replace the characters that XML can't have, and other control characters, by U+FFFD."""
    return _NOT_XML.sub("\ufffd", text)


def shorten(text: str, most: int) -> str:
    """Return a text of up to ``most`` characters; a longer one ends with an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def number(value: float) -> str:
    """Write a coordinate: to a tenth of a unit, which is less than can be seen."""
    return f"{value:.1f}".removesuffix(".0")


def element(name: str, content: str | None = None, /, **attributes: object) -> str:
    """Write an element.

    Args:
        name: of the element.
        content: markup that is inside, such as other elements; None: nothing.
        attributes: ``class_`` is ``class`` and ``data_order`` is ``data-order``. None leaves one out.

    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}={_attribute(value)}"
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}/>" if content is None else f"<{name}{written}>{content}</{name}>"


def _attribute(value: object) -> str:
    if isinstance(value, float):
        return f'"{number(value)}"'
    # quoteattr would write line ends as &#10;, and may use single quotes: valid too.
    return quoteattr(visible(str(value)))


def text(content: str, **attributes: object) -> str:
    """Write a ``text`` element with a text."""
    return element("text", escape(content), **attributes)


def title(content: str) -> str:
    """Write the title of the element that it is in, which browsers show on hover and screen readers read."""
    return element("title", escape(content))


def escape(content: str) -> str:
    """Write a text as markup."""
    return escape_markup(visible(content))
