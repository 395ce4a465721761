"""Whether traces are exported: OpenTelemetry's own variables, as its specification defines them."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

PROTOCOL = "http/protobuf"


class UnusableVariableError(ValueError):
    """Traces should be exported, and can't be: the text names the variable and says what to set."""


def wants_traces() -> bool:
    """Return whether the environment asks for traces.

    Raises:
        UnusableVariableError: it does, in a way that this service does not know.

    """
    name, endpoint = _first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    if not endpoint or _value("OTEL_SDK_DISABLED").lower() == "true":
        return False
    exporter = _value("OTEL_TRACES_EXPORTER") or "otlp"
    if exporter == "none":
        return False
    if exporter != "otlp":
        raise UnusableVariableError(f"OTEL_TRACES_EXPORTER: {exporter!r} is not supported; use otlp or none")
    protocol_name, protocol = _first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol != PROTOCOL:
        raise UnusableVariableError(
            f"{protocol_name}: {protocol!r} is not supported; use {PROTOCOL}, "
            "for which collectors usually listen on port 4318"
        )
    if not _is_http_url(endpoint):
        raise UnusableVariableError(f"{name}: must be an HTTP URL, such as http://127.0.0.1:4318")
    return True


def drop_empty_variables() -> None:
    """Remove empty variables of OpenTelemetry from the environment.

    Its specification says that they count as unset, and Compose sets those that it passes on. The SDK reads
    some of them as wrong values.
    """
    for name in [
        name for name, value in os.environ.items() if name.startswith("OTEL_") and not value.strip()
    ]:
        del os.environ[name]


def names_the_service() -> bool:
    """Return whether the environment says what the service is called."""
    attributes = _value("OTEL_RESOURCE_ATTRIBUTES").split(",")
    return bool(_value("OTEL_SERVICE_NAME")) or any(
        attribute.partition("=")[0].strip() == "service.name" for attribute in attributes
    )


def _first(*names: str) -> tuple[str, str]:
    """Return the first variable that is set, and its value; the last one if none is."""
    return next(((name, _value(name)) for name in names if _value(name)), (names[-1], ""))


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        url.port  # noqa: B018 - raises if it is no number
    except ValueError:
        return False
    return url.scheme in ("http", "https") and bool(url.hostname)
