"""Makes the first API key of a deployment: ``python -m api.keys.first_key``, once, after the migrations.

It prints the key, which has all scopes. The database has only its hash, so it can't be shown again. Where the
database ever had a key, or keys are in the settings, or ``OMS_ACCESS`` is ``open``, it makes none.

Exit status: 0 there is, or was, a key, or none is wanted; 1 the database is unavailable.
"""

from __future__ import annotations

import sys

from api.http.scopes import SCOPES
from api.keys.bodies import NewKey
from api.keys.commands import create_first_key
from shared.command_output import print_line
from shared.database.engine import DatabaseUnavailableError
from shared.database.one_connection import run_on_database
from shared.settings import settings

NAME = "first"
ANOTHER = "python -m oms key make NAME --scopes all"


def main() -> int:
    """Run the command and return its exit status."""
    if settings().all_api_keys or settings().access == "open":
        print_line("no API key is made: OMS_API_KEYS has some, or OMS_ACCESS is open")
        return 0
    new = NewKey(name=NAME, scopes=list(SCOPES))
    try:
        text = run_on_database(lambda: create_first_key(new))
    except DatabaseUnavailableError as error:
        print_line(f"try again: {error}", level="error")
        return 1
    if text is None:
        print_line(f"no API key is made: this database has or had one. Another: {ANOTHER}")
        return 0
    print_line(f"the first API key, called {NAME}, with all scopes; it is shown only now. Keep it: {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
