"""ISO 8601 durations of fixed length: weeks, or days, hours, minutes and seconds. Pure.

Not pydantic's reader, which takes years of 365 days, months of 30, fractions, signs, clock times and numbers.
"""

from __future__ import annotations

import re
from datetime import timedelta

# Six digits: more would not fit into a timedelta, and what is asked for here is a matter of days.
_DURATION = re.compile(
    r"P(?:(?P<weeks>\d{1,6})W"
    r"|(?=.)(?:(?P<days>\d{1,6})D)?"
    r"(?:T(?=.)(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,6})M)?(?:(?P<seconds>\d{1,6})S)?)?)",
    re.ASCII,
)

_UNITS = ((timedelta(hours=1), "hour"), (timedelta(minutes=1), "minute"), (timedelta(seconds=1), "second"))

_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def read_duration(value: object) -> timedelta:
    """Read a duration such as PT3H, PT1H30M, P1DT12H or P1W; PT90M is PT1H30M.

    Months and years have no fixed length, and fractions are refused: a duration is whole seconds.

    Raises:
        ValueError: it is none.

    """
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            "must be an ISO 8601 duration of weeks, or of days, hours, minutes and seconds, such as PT1H30M"
        )
    return timedelta(**{unit: int(number) for unit, number in match.groupdict(default="0").items()})


def duration_text(duration: timedelta) -> str:
    """Write a duration of whole seconds as ISO 8601, in the one form that its length has: PT3H, P1DT12H."""
    days, time = duration.days, timedelta(seconds=duration.seconds)
    parts = [f"{count}{unit[0].upper()}" for count, unit in _counts(time)]
    date = f"{days}D" if days else ""
    return f"P{date}T{''.join(parts)}" if parts else f"P{date or 'T0S'}"


def duration_in_words(duration: timedelta) -> str:
    """Write a duration of whole seconds for people: three hours, one day and 12 hours, 45 minutes."""
    days, time = duration.days, timedelta(seconds=duration.seconds)
    counts = ([(days, "day")] if days else []) + (_counts(time) or ([] if days else [(0, "second")]))
    words = [
        f"{_NUMBERS[count] if count < len(_NUMBERS) else count} {unit}{'' if count == 1 else 's'}"
        for count, unit in counts
    ]
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _counts(time: timedelta) -> list[tuple[int, str]]:
    counts = []
    for length, unit in _UNITS:
        count, time = divmod(time, length)
        if count:
            counts.append((count, unit))
    return counts
