"""The one event loop of a worker's child process, and the database connection that lives in it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from celery.exceptions import SoftTimeLimitExceeded

from shared.database.engine import DB

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

ROLLBACK_SECONDS = 1.0
"""How long a task that exceeded its time limit may take to roll back; after that its connection is closed."""


class ChildLoop:
    """Runs one coroutine after another. A new loop for each would break the pool's connections."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end.

        Raises:
            SoftTimeLimitExceeded: the task exceeded its time limit; the coroutine is cancelled.

        """
        if self._runner is None:
            self._runner = asyncio.Runner()
            self._runner.run(DB.start(size=1))
        try:
            return self._runner.run(coroutine)
        except SoftTimeLimitExceeded:
            # A signal raises it wherever the loop is: the coroutine is only suspended, and would continue
            # during the next task, holding the child's one connection until then.
            self._runner.run(_cancel_tasks())
            self.close()
            raise

    def close(self) -> None:
        """End the loop; the next ``run`` creates another."""
        if self._runner is not None:
            # Briefly: a batch that did not end within the soft shutdown is rolled back, and published again.
            self._runner.run(DB.stop(grace=0.2))
            self._runner.close()
            self._runner = None


async def _cancel_tasks() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=ROLLBACK_SECONDS)
