"""``oms listen``: the changes of a deployment, on a developer's machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from oms.api_calls import calling_api
from oms.errors import CommandError
from oms.options import AsJson
from oms.output import print_json, print_parts
from shared.command_output import print_line

if TYPE_CHECKING:
    from oms.forwarding import Forwarded
    from oms.http_client import Api
    from oms.listen_state import Listening, StateFile


@calling_api
def listen(
    api: Api,
    forward_to: Annotated[
        str, typer.Option("--forward-to", help="Where to post changes, such as http://127.0.0.1:3000/hook.")
    ],
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            help="The position to start after, or `latest`. By default it goes on where it stopped, and "
            "begins with the latest.",
        ),
    ] = None,
    change_type: Annotated[
        str | None, typer.Option("--type", help="Only changes of this type, such as order.created.")
    ] = None,
    calendar: Annotated[str | None, typer.Option("--calendar", help="Only changes on this calendar.")] = None,
    secret: Annotated[
        str | None,
        typer.Option("--secret", help="The secret to sign with (whsec_…); by default one is made and kept."),
    ] = None,
    state_file: Annotated[
        Path | None,
        typer.Option(
            "--state-file",
            help="Where its position and its secret are kept; by default a file for this server and receiver "
            "under ~/.local/state/oms.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Post each change to a URL of your machine.

    Requests are signed like those of a webhook. Each change is posted, in order, until it is acknowledged
    with a 2xx. Restarts of the API, of the receiver and of this command leave no gap; the last change may
    come again, with the same `webhook-id`. Ctrl-C stops it. Needs the scope changes:read.
    """
    from oms.forwarding import Forwarder
    from oms.http_client import Target
    from oms.interruption import Interruption
    from oms.listen_state import StateFile, default_file

    receiver = Target.read(forward_to, "--forward-to")
    filters = [(name, value) for name, value in (("type", change_type), ("calendar", calendar)) if value]
    interruption = Interruption()
    with StateFile(state_file or default_file(api.target.url, receiver.url)) as file:
        listening = _begin(file, api, receiver.url, after, secret)
        forwarder = Forwarder(
            api,
            receiver,
            file,
            listening,
            filters,
            interruption=interruption,
            report=_report_json if as_json else _report,
            note=_note,
        )
        if as_json:
            print_json(listening)
        else:
            shown = "the secret given" if secret else listening.secret
            print_parts(
                f"following {listening.server} after position {listening.position}, signing with {shown}"
            )
            print_parts(f"posting to {listening.forward_to}; Ctrl-C stops")
        try:
            while True:
                forwarder.forward_once()
        except KeyboardInterrupt:
            position = forwarder.listening.position
            _note(f"stopped at position {position}; the next start goes on from there")
        finally:
            forwarder.close()


def _begin(file: StateFile, api: Api, forward_to: str, after: str | None, secret: str | None) -> Listening:
    """Return where to start and what to sign with, and store it.

    Raises:
        CommandError: an option, or the file, can't be used; or the API can't say its latest position.

    """
    from oms.listen_state import Listening

    stored = file.read()
    if stored and (stored.server, stored.forward_to) != (api.target.url, forward_to):
        raise CommandError(
            f"{file.path} belongs to {stored.server} and {stored.forward_to}; name another with --state-file",
            2,
        )
    if after not in {None, "latest"} and not (str(after).isascii() and str(after).isdigit()):
        raise CommandError("--after must be a position, such as 0 or 120, or `latest`", 2)
    if after is not None and after != "latest":
        position = int(after)
    elif stored and after is None:
        position = stored.position
    else:
        position = api.latest_position()
    used = _checked(secret) if secret else stored.secret if stored else _new_secret()
    listening = Listening(api.target.url, forward_to, position, used)
    file.write(listening)
    return listening


def _new_secret() -> str:
    import secrets
    from base64 import b64encode

    return f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"


def _checked(secret: str) -> str:
    import binascii
    from base64 import b64decode

    try:
        b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise CommandError(
            "--secret must be whsec_ followed by base64, as `oms webhook create` shows it", 2
        ) from None
    return secret


def _report(change: Forwarded) -> None:
    print_parts(
        f"{change.position}  {change.type}  order {change.order}  ",
        (str(change.status), "green"),
        f"  {change.milliseconds} ms",
    )


def _report_json(change: Forwarded) -> None:
    print_json(change)


def _note(text: str) -> None:
    print_line(text, file=sys.stderr)
