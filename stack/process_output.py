"""The output of many processes on one terminal: whole lines, each after the name of its process."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import time

_COLOURS = (36, 33, 35, 32, 34, 31)
_READ_BYTES = 65_536
_LONGEST_LINE = 1_000_000


def _escape(text: str) -> str:
    """Escape characters that are not printable: processes that crash print texts that they did not escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class ProcessOutput:
    """Reads the output of processes and prints it. It has no thread: it reads only while `pump` is called.

    Args:
        names: of all processes; the longest name sets the width of the prefix.

    """

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._width = max(map(len, names))
        self._colourful = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._selector = selectors.DefaultSelector()
        self._partial_lines: dict[int, bytes] = {}
        self.is_closed = False
        """Whether the pipe behind standard output is closed: nobody reads what is printed."""

    def follow(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Print the output of a process from now on. It must be a pipe."""
        assert process.stdout is not None  # noqa: S101 - see the docstring
        os.set_blocking(process.stdout.fileno(), False)
        self._partial_lines[process.stdout.fileno()] = b""
        self._selector.register(process.stdout, selectors.EVENT_READ, name)

    def drain(self, seconds: float = 0.0) -> None:
        """Print output until none comes for ``seconds``."""
        for _ in range(100):  # limited, because a process may print without a pause
            if not self.pump(seconds):
                return

    def pump(self, seconds: float = 0.05) -> bool:
        """Print output, waiting up to ``seconds`` for some; return whether there was any."""
        if not self._selector.get_map():
            time.sleep(seconds)
            return False
        readable = self._selector.select(seconds)
        for key, _ in readable:
            try:
                received = os.read(key.fd, _READ_BYTES)
            except BlockingIOError:
                continue
            *lines, rest = (self._partial_lines[key.fd] + received).split(b"\n")
            if rest and (not received or len(rest) > _LONGEST_LINE):  # a line without its end
                lines, rest = [*lines, rest], b""
            self._partial_lines[key.fd] = rest
            for line in lines:
                self.print_line(key.data, line.decode(errors="replace").rstrip("\r"))
            if not received:
                self._selector.unregister(key.fileobj)
        return bool(readable)

    def print_line(self, name: str, text: str) -> None:
        """Print one line after the name of a process."""
        prefix = f"{name:<{self._width}} |"
        if self._colourful:
            prefix = f"\033[{_COLOURS[self._names.index(name) % len(_COLOURS)]}m{prefix}\033[0m"
        if self.is_closed:
            return
        try:
            print(f"{prefix} {_escape(text)}", flush=True)
        except BrokenPipeError:
            self.is_closed = True
            # Flushing the rest of the buffer would raise again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
