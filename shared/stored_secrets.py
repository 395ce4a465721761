"""Whether this process can read what is encrypted in the database, checked before it starts.

Without the right keys a worker could sign nothing, and an API could repeat no answer. So a process that was
given fewer keys than the others of its database refuses to start.
"""

from __future__ import annotations

from shared.command_output import StartRefusedError
from shared.database.statements import fetch_values
from shared.secret_keys import PREFIX
from shared.settings import settings

_IDS_OF_SECRETS = f"""
SELECT DISTINCT split_part(secret, ':', 2) FROM webhook_secret WHERE secret LIKE '{PREFIX}%'
"""

# {"encrypted":"enc1:KEY:…. The newest answers are enough: they have the keys that are in use, and others of
# the last day are found when they are asked for.
_IDS_OF_ANSWERS = f"""
SELECT DISTINCT split_part(left(answer, 40), ':', 3) FROM (
    SELECT answer FROM idempotency_key ORDER BY created_at DESC LIMIT 1000
) AS newest
WHERE answer LIKE '{{"encrypted":"{PREFIX}%'
"""


class MissingSecretKeyError(StartRefusedError):
    """Something in the database is encrypted under a key that OMS_SECRET_KEY lacks."""


async def missing_secret_keys(*, of_answers: bool) -> list[str]:
    """Return the ids of the keys that OMS_SECRET_KEY lacks; see ``check_secret_keys``."""
    needed = set(await fetch_values(str, _IDS_OF_SECRETS))
    if of_answers:
        needed |= set(await fetch_values(str, _IDS_OF_ANSWERS))
    return sorted(needed - set(settings().secret_keys.ids))


async def check_secret_keys(*, of_answers: bool) -> None:
    """Check that OMS_SECRET_KEY has the keys under which webhook secrets are encrypted.

    Args:
        of_answers: whether to check the newest answers kept for an ``Idempotency-Key`` too.

    Raises:
        MissingSecretKeyError: it lacks some.
        DatabaseUnavailableError: the rows can't be read, or there are no tables yet.

    """
    missing = await missing_secret_keys(of_answers=of_answers)
    if missing:
        raise MissingSecretKeyError(
            f"OMS_SECRET_KEY lacks {'a key' if len(missing) == 1 else 'keys'} under which secrets in this "
            f"database are encrypted: {', '.join(missing)}. Set it as for the other processes; "
            "`oms secret-key status` counts what is encrypted under which key"
        )
