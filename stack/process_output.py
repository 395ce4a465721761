"""Many processes, one terminal: their lines interleaved whole, each behind its process's name."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time

_COLOURS = (36, 33, 35, 32, 34, 31)
_READ_BYTES = 65_536
_LONGEST_LINE = 1_000_000


class ProcessOutput:
    """Reads what processes say and prints it. One thread: it only reads while `pump` is called.

    Args:
        names: the processes to come; the longest name sets the width of the prefix.

    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._width = max(map(len, names))
        self._colourful = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._selector = selectors.DefaultSelector()
        self._begun: dict[int, bytes] = {}
        self.deaf = False
        """Nobody reads our own output any more (its pipe is closed)."""

    def follow(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Print what a process says from now on. Its output must be a pipe."""
        assert process.stdout is not None  # noqa: S101 - see the docstring
        os.set_blocking(process.stdout.fileno(), False)
        self._begun[process.stdout.fileno()] = b""
        self._selector.register(process.stdout, selectors.EVENT_READ, name)

    def drain(self, seconds: float = 0.0) -> None:
        """Print what was said, until nothing is for so long; not without end, as others may go on talking."""
        for _ in range(100):
            if not self.pump(seconds):
                return

    def pump(self, seconds: float = 0.05) -> bool:
        """Print what has been said; wait up to ``seconds`` for something to be. Tell whether anything was."""
        if not self._selector.get_map():
            time.sleep(seconds)
            return False
        talking = self._selector.select(seconds)
        for key, _ in talking:
            try:
                said = os.read(key.fd, _READ_BYTES)
            except BlockingIOError:
                continue
            *lines, rest = (self._begun[key.fd] + said).split(b"\n")
            if rest and (not said or len(rest) > _LONGEST_LINE):  # its last word, without a line's end
                lines, rest = [*lines, rest], b""
            self._begun[key.fd] = rest
            for line in lines:
                self.say(key.data, line.decode(errors="replace").rstrip("\r"))
            if not said:
                self._selector.unregister(key.fileobj)
        return bool(talking)

    def say(self, name: str, text: str) -> None:
        """Print one line in the name of a process."""
        prefix = f"{name:<{self._width}} |"
        if self._colourful:
            prefix = f"\033[{_COLOURS[self._names.index(name) % len(_COLOURS)]}m{prefix}\033[0m"
        if self.deaf:
            return
        try:
            print(f"{prefix} {text}", flush=True)
        except BrokenPipeError:
            self.deaf = True
            # What is still in the buffer would raise once more when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
