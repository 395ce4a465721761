"""The commands, and what is the same for all of them: exit statuses, errors and interruption.

Nothing of the service is imported before a command needs it, so that help and completion are immediate.

Exit status: 0 done; 1 failed or refused; 2 the command line can't be used; 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

from oms import (
    doctor,
    export,
    imports,
    keys,
    listen,
    rebuild,
    replay,
    run,
    secret_keys,
    trigger,
    verify,
    webhooks,
)
from oms.errors import INTERRUPTED, CommandError
from oms.output import print_json
from shared.command_output import StartRefusedError, print_line
from shared.version import version

CLOSED_PIPE = 128 + 13
"""As after SIGPIPE, which Python ignores."""

OUTPUT_FAILURES = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
"""Of a write to a file that is open, such as standard output on a full disk."""

app = typer.Typer(
    name="oms",
    no_args_is_help=True,
    rich_markup_mode=None,  # plain help starts three times as fast, and reads the same in a pipe
    pretty_exceptions_enable=False,
)


def _show_version(is_asked: bool) -> None:
    if is_asked:
        print_line(version())
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Run the order management service, look after it, and build on it."""


app.command("run")(run.run)
app.command("import")(imports.import_orders)
app.command("export")(export.export_orders)
app.command("verify")(verify.verify)
app.command("rebuild")(rebuild.rebuild_summaries)
app.add_typer(keys.app, name="key")
app.add_typer(secret_keys.app, name="secret-key")
app.add_typer(webhooks.app, name="webhook")
app.command("replay")(replay.replay)
app.command("listen")(listen.listen)
app.command("trigger")(trigger.trigger)
app.command("doctor")(doctor.doctor)


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status."""
    if sys.stdout is None:
        print_line("the output can't be written: standard output is closed", level="error")
        return 1
    as_json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    try:
        status = typer.main.get_command(app).main(arguments, prog_name="oms", standalone_mode=False)
        sys.stdout.flush()
    except CommandError as error:
        _print_error(str(error), as_json=as_json)
        return error.status
    except StartRefusedError as error:
        if not as_json:
            raise
        print_json({"error": str(error)})
        return 1
    except typer.TyperException as error:
        return _refuse_usage(error, as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone.
        _discard_output()
        return CLOSED_PIPE
    except OSError as error:
        if error.errno not in OUTPUT_FAILURES or error.filename is not None:
            raise
        _discard_output()
        print_line(f"the output can't be written: {error.strerror}", level="error")
        return 1
    return status if isinstance(status, int) else 0


def _discard_output() -> None:
    # Python would complain when it closes the stream, since what is buffered can't be written.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_error(text: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"error": text})
    else:
        print_line(text, level="error")


def _refuse_usage(error: typer.TyperException, *, as_json: bool) -> int:
    error.message = error.message.removeprefix("Value error, ")  # pydantic's, which is no sentence
    if as_json:
        print_json({"error": error.format_message()})
    else:
        show = getattr(error, "show", None)
        if show is None or os.environ.get("OMS_LOG_FORMAT") == "json":
            print_line(error.format_message(), level="error")
        else:
            show()  # with the command's usage
    return error.exit_code
