"""Every setting of every process, read once from the environment. A wrong value stops the process.

A setting's variable is ``OMS_`` and the field's name in upper case. An unknown ``OMS_`` variable is refused
too: otherwise a misspelt one would be ignored silently. The fields are in ``shared/setting_groups/``.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING, Self

from pydantic import ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.api_access import is_loopback
from shared.command_output import StartRefusedError
from shared.setting_groups.access import AccessSettings
from shared.setting_groups.changes import ChangeSettings
from shared.setting_groups.processes import ProcessSettings
from shared.setting_groups.requests import RequestSettings
from shared.setting_groups.webhooks import WebhookSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pydantic_core import ErrorDetails

PREFIX = "OMS_"

OF_COMMANDS = frozenset({"OMS_SERVER", "OMS_KEY", "OMS_KEY_FILE"})
"""Variables of the command line (``oms``), for calls of an API. No process reads them."""


class SettingsError(StartRefusedError):
    """The environment can't be used; the message names each variable and what it accepts."""


# Fields of the last base come first, as in the table of docs/configuration.md.
class Settings(
    WebhookSettings, AccessSettings, ChangeSettings, RequestSettings, ProcessSettings, BaseSettings
):
    """All settings. A duration is a number of seconds, unless it takes a unit."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        try:
            _ = self.redis_address
        except ValueError as error:
            raise ValueError(f"OMS_REDIS_URL: {error}") from None
        if self.database_pooler == "transaction" and not self.database_direct_url:
            raise ValueError(
                "OMS_DATABASE_DIRECT_URL: must be set with OMS_DATABASE_POOLER=transaction, where a session "
                "keeps no locks"
            )
        self.check_cell()
        _ = self.all_api_keys
        self.check_access()
        _ = self.secret_keys
        return self


@cache
def settings() -> Settings:
    """Read and check the environment, once per process.

    Raises:
        SettingsError: variables are missing, unknown or invalid; the message names all of them.

    """
    known = {PREFIX + name.upper() for name in Settings.model_fields} | OF_COMMANDS
    faults = [
        f"{name}: unknown setting"
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known
    ]
    try:
        valid_settings = Settings()
    except ValidationError as error:
        raise _settings_error([*faults, *map(_fault, error.errors(include_input=False))]) from None
    if faults:
        raise _settings_error(faults)
    return valid_settings


def _fault(error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ")
    # A fault of several settings together names them itself.
    return f"{PREFIX}{str(error['loc'][0]).upper()}: {text}" if error["loc"] else text


def _settings_error(faults: Sequence[str]) -> SettingsError:
    heading = "the environment can't be used:"
    return SettingsError(f"{heading} {faults[0]}" if len(faults) == 1 else "\n  ".join((heading, *faults)))


def check_listening() -> None:
    """Check that the API asks for keys if others than this machine's users can reach it.

    Raises:
        SettingsError: it would listen on another address than loopback, and let everyone in.

    """
    given = settings()
    if not given.asks_for_keys and given.access != "open" and not is_loopback(given.host):
        fault = (
            "OMS_HOST: other machines may reach this address, and without keys all who do may do everything; "
            "set OMS_API_KEYS, OMS_ACCESS=keys for keys in the database, OMS_JWKS for tokens of an identity "
            "provider, or OMS_ACCESS=open if that is meant"
        )
        raise _settings_error([fault])


if __name__ == "__main__":
    # Checks everything that any process would refuse, before the first one is started.
    check_listening()
