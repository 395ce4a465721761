"""``oms rebuild``: the fee summaries, while they are in use."""

from __future__ import annotations

from oms.errors import CommandError
from oms.options import AsJson, StateDir
from oms.output import print_json
from oms.running_system import use_running_system
from shared.command_output import print_line


def rebuild_summaries(as_json: AsJson = False, state_dir: StateDir = None) -> None:
    """Rebuild the fee summaries while they are in use.

    They count in days of OMS_TIME_ZONE. Exit status: 0 rebuilt; 1 another rebuild began meanwhile; 2 it
    failed.
    """
    use_running_system(state_dir)
    import asyncpg

    from shared.database.engine import DatabaseUnavailableError
    from shared.database.one_connection import run_on_database
    from shared.progress import ProgressLine
    from worker.fee_summaries.consumer import ChangesDeletedError
    from worker.fee_summaries.rebuild import RebuildSupersededError, rebuild

    progress = ProgressLine("rebuild")

    def note_use(position: int) -> None:
        progress.note(f"in use since position {position:,}; removing old rows")

    try:
        done = run_on_database(lambda: rebuild(progress, note_use))
    except RebuildSupersededError:
        raise CommandError("rebuild: another rebuild began meanwhile; this one changed nothing") from None
    except (
        ChangesDeletedError,
        DatabaseUnavailableError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
    ) as error:
        raise CommandError(
            f"rebuild: {error}; nothing has changed, unless the new rows were already in use", 2
        ) from None
    if as_json:
        print_json(
            {
                "orders": done.orders,
                "time_zone": done.time_zone,
                "position": done.position,
                "seconds": round(done.seconds, 3),
            }
        )
    else:
        print_line(
            f"rebuilt from {done.orders:,} orders, in days of {done.time_zone}, at position "
            f"{done.position:,}, in {done.seconds:.1f} s"
        )
