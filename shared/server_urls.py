"""Reads the URLs of servers strictly: a password with special characters is never half understood.

No message quotes a part of a URL: what looks like a host or a path may be the rest of a password.
"""

from __future__ import annotations

import re
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from pathlib import Path
from urllib.parse import quote, unquote

_IN_USER = frozenset(string.ascii_letters + string.digits + "-._~!$&'()*+,;=:")
"""RFC 3986, section 3.2.1; percent-encoding aside."""

_ELSEWHERE = _IN_USER | frozenset("/?[]@")

_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")
_LAST_PORT = 65_535


@dataclass(frozen=True)
class ServerUrl:
    """The parts of a server's URL, decoded. A part that is not given is None or empty."""

    scheme: str
    username: str | None
    password: str | None
    hosts: tuple[tuple[str, int | None], ...]
    path: str
    """Without its first slash."""
    parameters: Mapping[str, str]


def split_url(
    url: str, schemes: Collection[str], known: Collection[str], *, password_required: bool
) -> ServerUrl:
    """Split the URL of a server.

    Args:
        url: ``scheme://user:password@host:port,host:port/path?parameter=value``.
        schemes: those that are accepted.
        known: the names of parameters that are accepted.
        password_required: whether a user name without a password is refused.

    Raises:
        ValueError: it is malformed; the message says what to escape, and quotes nothing of it.

    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in schemes:
        *others, last = (f"{name}://" for name in schemes)
        raise ValueError(f"must begin with {', '.join(others)}{' or ' if others else ''}{last}")
    # In a password with an @ that is not escaped, the last @ ends it.
    user, at, address = rest.rpartition("@")
    _check_characters(user, _IN_USER, "the user name or password contains", at)
    _check_characters(address, _ELSEWHERE, "it contains", at)
    authority = re.split("[/?]", address, maxsplit=1)[0]
    path, _, query = address[len(authority) :].partition("?")
    username, colon, password = user.partition(":")
    if password_required and at and not colon:
        raise ValueError("a password is missing after the user name; a password alone is :password@")
    return ServerUrl(
        scheme=scheme,
        username=_decode(username) or None,
        password=_decode(password) or None,
        hosts=tuple(map(_read_host, authority.split(","))) if authority else (),
        path=_decode(path.removeprefix("/")),
        parameters=_read_parameters(query, known),
    )


def _check_characters(text: str, allowed: Collection[str], what: str, at: str) -> None:
    wrong = dict.fromkeys(character for character in text if character not in allowed and character != "%")
    if _PERCENT.search(text):
        wrong["%"] = None
    if not wrong:
        return
    if any(map(_is_control, wrong)):
        raise ValueError("it contains a line break or another control character; remove it")
    in_ascii = [character for character in wrong if character.isascii()]
    escapes = [f"{_name(character)} as {quote(character, safe='')}" for character in in_ascii]
    names = [_name(character) for character in in_ascii]
    if len(in_ascii) < len(wrong):
        names.append("letters outside ASCII")
        escapes.append("those as their UTF-8 bytes (é as %C3%A9)")
    belongs = "" if at and what.startswith("the user") else ", if it belongs to a name or a password"
    raise ValueError(f"{what} {' and '.join(names)}: write {', '.join(escapes)}{belongs}")


def _is_control(character: str) -> bool:
    return character < " " or character == "\x7f"


def _name(character: str) -> str:
    return "a space" if character == " " else character


def _decode(text: str) -> str:
    try:
        decoded = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("its percent-encoded bytes are not UTF-8 (é is %C3%A9)") from None
    if any(map(_is_control, decoded)):
        raise ValueError("it contains a control character, percent-encoded; remove it")
    return decoded


def _read_host(text: str) -> tuple[str, int | None]:
    bracketed = re.fullmatch(r"\[([^\[\]]*)\](?::(.*))?", text)
    if bracketed:
        host, port = bracketed[1], bracketed[2]
        try:
            IPv6Address(host)
        except AddressValueError:
            raise ValueError("the address in [ ] is not an IPv6 address") from None
    else:
        host, colon, after = text.partition(":")
        port = after if colon else None
        if not host:
            raise ValueError("the host is missing; a password comes before it, and ends with @")
        if ":" in (port or ""):
            raise ValueError(
                "more than one : follows the host; write : in a password as %3A and / as %2F, and an IPv6 "
                "address in [ ]"
            )
        if not _HOST.fullmatch(host) and not host.lower().startswith("%2f"):  # a folder of sockets
            raise ValueError(
                "the host may have letters, digits, dots and hyphens only; if it is the end of a password, "
                "write [ as %5B and ] as %5D"
            )
    if port is None:
        return _decode(host), None
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= _LAST_PORT):
        raise ValueError(
            "the port must be a number from 1 to 65535; if a password is meant, it is followed by @ and the "
            "host, with / as %2F, # as %23 and ? as %3F"
        )
    return _decode(host), int(port)


def _read_parameters(query: str, known: Collection[str]) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for number, pair in enumerate(query.split("&") if query else (), 1):
        name, separator, value = pair.partition("=")
        if name not in known:
            raise ValueError(
                f"parameter {number} after the ? is unknown; known are {', '.join(known)}; "
                "write ? in a password as %3F"
            )
        if not separator or not value:
            raise ValueError(f"parameter {name} has no value")
        if name in parameters:
            raise ValueError(f"parameter {name} is repeated; give it once")
        # A plus is a plus here, not a space as in forms: drivers disagree, so only %20 is a space.
        if "+" in value:
            raise ValueError(f"parameter {name} contains +: write a space as %20, and a plus as %2B")
        parameters[name] = _decode(value)
    return parameters


def check_file(file: str, name: str) -> str:
    """Return the path of a file that can be read.

    Raises:
        ValueError: it can't; the message has the name of the parameter.

    """
    try:
        with Path(file).open("rb"):
            return file
    except OSError as error:
        raise ValueError(f"the file of {name} can't be read ({error.strerror})") from None


def one_of(parameters: Mapping[str, str], name: str, accepted: Collection[str]) -> str | None:
    """Return a parameter's value, None if it is not given.

    Raises:
        ValueError: it is none of the accepted values.

    """
    value = parameters.get(name)
    if value is not None and value not in accepted:
        raise ValueError(f"parameter {name} must be one of {', '.join(accepted)}")
    return value
