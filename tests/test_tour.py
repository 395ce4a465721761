"""The tour of a team with orders of its own: ``docs/tour.md``."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.import_steps import import_sample
from tests.processes import ROOT
from tests.walkthroughs import check_steps, steps_of

if TYPE_CHECKING:
    from tests.drivers import Pipeline

TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl here")
def test_every_command_of_the_tour_prints_what_it_shows(pipeline: Pipeline) -> None:
    """On the sample data, as after `make run`, through the queue and a real worker."""
    pipeline.database.clean()  # the sample brings its services
    import_sample(database=pipeline.database.url).check_returncode()
    assert len(steps_of(TOUR)) == 15
    check_steps(pipeline, TOUR)
