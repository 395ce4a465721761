"""Sends load to a server: with wrk if it is installed, otherwise with ``bench/generator.py``."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.generator import CONNECTIONS
from bench.processes import BenchError

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).parent.parent
_SCRIPT = Path(__file__).parent / "wrk.lua"
MOST_UNEXPECTED = 0.01
"""The part of answers with another status than expected, or none, that a round may have."""


@dataclass(frozen=True)
class Outcome:
    """What one round of one work did."""

    requests: float
    rate: float
    """Answers per second."""
    p50_ms: float
    p99_ms: float
    generator_cpu: float
    """Seconds of the load generator's processors' time."""


def generator() -> str:
    """Return what sends the load."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "bench/generator.py (asyncio, uvloop)"
    version = subprocess.run([wrk, "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(version.split()[:2])


def send(
    port: int,
    requests: Sequence[bytes],
    file: Path,
    seconds: int,
    *,
    refused: bool = False,
    once: bool = False,
    all_of_them: bool = False,
    rate: float | None = None,
) -> Outcome:
    """Send requests on ``CONNECTIONS`` connections for some seconds, and read the outcome.

    Args:
        port: of a server on this machine.
        requests: raw; they are repeated unless each may be sent only ``once``.
        file: is overwritten.
        seconds: less if there are no requests left.
        refused: whether the answers are to be errors.
        once: whether each request may be sent only once.
        all_of_them: whether to end as soon as each was sent once and answered, which wrk can't.
        rate: requests per second; as many as possible if absent.

    Raises:
        BenchError: too many answers are not what they are to be, or absent.

    """
    file.write_bytes(b"\0".join(requests) + b"\0")
    wrk = shutil.which("wrk")
    if wrk is not None and rate is None and not all_of_them:
        command = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(_SCRIPT)]
        command += [f"http://127.0.0.1:{port}", "--", str(file), *(["once"] if once else [])]
    else:
        command = [sys.executable, "-m", "bench.generator", str(port), str(file), str(seconds)]
        command += [*(["--once"] if once or all_of_them else []), *(["--rate", str(rate)] if rate else [])]
    before = children_cpu()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    cpu = children_cpu() - before
    try:
        result = json.loads(done.stdout.strip().rpartition("\n")[2])
    except json.JSONDecodeError:
        raise BenchError(f"the load generator failed: {done.stdout[-1000:]}{done.stderr[-1000:]}") from None
    answers = result["requests"]
    unexpected = result["broken"] + (answers - result["errors"] if refused else result["errors"])
    # When requests may be sent only once, those in progress at the end may have been repeated.
    if answers == 0 or unexpected > max(answers * MOST_UNEXPECTED, CONNECTIONS if once else 0):
        raise BenchError(f"{unexpected} of {answers} answers are not as expected: {result}")
    return Outcome(answers, answers / result["seconds"], result["p50_ms"], result["p99_ms"], cpu)


def children_cpu() -> float:
    """Return the processors' time of this process's children that have ended, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
