"""What ends a command: a sentence for people, and an exit status."""

from __future__ import annotations

INTERRUPTED = 128 + 2
"""The exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


class CommandError(Exception):
    """The command can't be carried out; the text says why and what to do."""

    def __init__(self, text: str, status: int = 1) -> None:
        super().__init__(text)
        self.status = status
        """1: failed or refused; 2: the command line, or a file that it names, can't be used."""
