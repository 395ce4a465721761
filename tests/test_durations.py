"""ISO 8601 durations, as callers write and read them."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from api.http.durations import duration_in_words, duration_text, read_duration

LENGTHS = {
    "PT0S": timedelta(0),
    "PT1S": timedelta(seconds=1),
    "PT1M": timedelta(minutes=1),
    "PT45M": timedelta(minutes=45),
    "PT3H": timedelta(hours=3),
    "PT1H30M": timedelta(hours=1, minutes=30),
    "PT1H30S": timedelta(hours=1, seconds=30),
    "P1D": timedelta(days=1),
    "P1DT12H": timedelta(days=1, hours=12),
    "P1DT1S": timedelta(days=1, seconds=1),
    "P6DT23H59M59S": timedelta(days=7) - timedelta(seconds=1),
    "P7D": timedelta(days=7),
}


@pytest.mark.parametrize("text", LENGTHS)
def test_a_duration_is_read_and_written(text: str) -> None:
    """Each length has one form that is written."""
    assert read_duration(text) == LENGTHS[text]
    assert duration_text(LENGTHS[text]) == text


OTHER_FORMS = {
    "PT90M": "PT1H30M",
    "PT180M": "PT3H",
    "PT10800S": "PT3H",
    "PT604800S": "P7D",
    "PT24H": "P1D",
    "P1W": "P7D",
    "P0W": "PT0S",
    "P0DT3H": "PT3H",
    "PT03H": "PT3H",
    "PT3H0M0S": "PT3H",
}


@pytest.mark.parametrize(("text", "canonical"), OTHER_FORMS.items())
def test_other_forms_of_the_same_length_are_read_as_well(text: str, canonical: str) -> None:
    """They are shown in the one form afterwards."""
    assert duration_text(read_duration(text)) == canonical


MALFORMED = """P PT P1 1D T3H P1DT P1M P1Y P1Y1D PT1.5H PT1,5H PT0.5S -PT3H +PT3H PT-3H pt3h PT3h P3H PT3D
    PT30M1H P1W1D P1WT1H 3:00 3h PT1000000S PT1_0M P1DPT1H"""
UNREADABLE = [
    *MALFORMED.split(),
    *("", " PT3H", "PT3H ", "PT3H\n", "PT3H\x00", "PT\u0663H", "\uff30T3H", f"PT{'9' * 400}S"),
    *(10800, 3.0, True, None, ["PT3H"], {"hours": 3}, timedelta(hours=3)),
]


@pytest.mark.parametrize("value", UNREADABLE, ids=ascii)
def test_what_is_no_duration_of_fixed_length_is_refused(value: object) -> None:
    """The text says what is valid."""
    with pytest.raises(ValueError, match=r"must be an ISO 8601 duration of .* such as PT1H30M"):
        read_duration(value)


def test_every_duration_that_is_written_is_read_as_itself() -> None:
    """For random lengths up to a hundred days, and those beside whole units."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    lengths = [rng.randrange(100 * 86_400) for _ in range(2_000)]
    lengths += [
        units * size + beside for size in (60, 3_600, 86_400) for units in (1, 2, 7) for beside in (-1, 0, 1)
    ]
    for seconds in lengths:
        duration = timedelta(seconds=seconds)
        assert read_duration(duration_text(duration)) == duration


IN_WORDS = {
    "PT3H": "three hours",
    "PT45M": "45 minutes",
    "PT1M": "one minute",
    "PT0S": "zero seconds",
    "P1D": "one day",
    "P1DT12H": "one day and 12 hours",
    "P1DT2H3M1S": "one day, two hours, three minutes and one second",
}


@pytest.mark.parametrize(("text", "words"), IN_WORDS.items())
def test_a_duration_in_words(text: str, words: str) -> None:
    """For the details of problems."""
    assert duration_in_words(read_duration(text)) == words
