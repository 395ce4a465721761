"""Root's PostgreSQL, which runs as somebody else: its data lie elsewhere, found by one link only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import server_user
from stack.child_processes import StackError
from stack.embedded_postgres import EmbeddedPostgres
from stack.server_user import claim_folder

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's data lie elsewhere")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Give a state folder that nobody but root may enter."""
    folder = tmp_path / "closed" / "state"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    return folder


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give the folder in place of the one under /var/lib, which is not there yet, as /var/lib may not be."""
    with tempfile.TemporaryDirectory(prefix="oms-") as place:
        Path(place).chmod(0o755)  # pytest's own folders are closed to everybody else
        folder = Path(place) / "var" / "lib" / "order-management"
        monkeypatch.setattr(server_user, "_ROOTS_FOLDERS", folder)
        yield folder


def test_deleted_data_does_not_come_back(state: Path, elsewhere: Path) -> None:
    """Who removes the state folder starts with an empty database, though the old files are still there."""
    link = state / "postgres"
    _, first = claim_folder(link)
    (first / "data").mkdir()
    assert claim_folder(link)[1] == first == link.readlink()

    link.unlink()
    _, second = claim_folder(link)
    assert (first / "data").is_dir()
    assert list(second.iterdir()) == []
    assert {first.parent, second.parent} == {elsewhere}


def test_a_start_that_was_killed_before_it_made_the_folder_is_gone_on_with(
    state: Path, elsewhere: Path
) -> None:
    """The link comes first, so nothing is left that no link names."""
    link = state / "postgres"
    _, home = claim_folder(link)
    home.rmdir()
    assert claim_folder(link)[1] == home
    assert list(elsewhere.iterdir()) == [home]


def test_two_stacks_side_by_side_have_data_of_their_own(state: Path, elsewhere: Path) -> None:
    """Also when one is a copy of the other, link and all: that one is refused."""
    (other := state.with_name("other")).mkdir()
    homes = {claim_folder(folder / "postgres")[1] for folder in (state, other)}
    assert homes == set(elsewhere.iterdir())
    assert len(homes) == 2

    (copy := state.with_name("copy")).mkdir()
    (copy / "postgres").symlink_to((state / "postgres").readlink())
    with pytest.raises(StackError, match=r"link of another checkout"):
        claim_folder(copy / "postgres")


def test_a_folder_that_cannot_be_made_elsewhere_is_said_in_one_line(state: Path, elsewhere: Path) -> None:
    """With what would be right."""
    elsewhere.parent.mkdir(parents=True)
    elsewhere.touch()
    with pytest.raises(StackError, match=r"File exists.*choose a STATE_DIR that .* can enter"):
        claim_folder(state / "postgres")
    elsewhere.unlink()
    elsewhere.parent.chmod(0o700)
    with pytest.raises(StackError, match=r"cannot enter .*choose a STATE_DIR"):
        claim_folder(state / "postgres")
    assert list(state.iterdir()) == []


def test_data_that_its_user_could_once_get_at_is_not_hidden(state: Path, elsewhere: Path) -> None:
    """A state folder that was closed afterwards is refused and not replaced by an empty database."""
    (state / "postgres").mkdir()
    with pytest.raises(StackError, match=r"can no longer enter"):
        claim_folder(state / "postgres")
    assert list(elsewhere.iterdir()) == []


def test_the_servers_of_tests_leave_nothing_elsewhere(state: Path, elsewhere: Path) -> None:
    """They run there in earnest, whatever the umask is, and take all of it along."""
    elsewhere.parent.mkdir(parents=True)
    before = os.umask(0o077)
    try:
        with EmbeddedPostgres(state / "postgres", durable=False) as postgres:
            assert [postgres.home] == list(elsewhere.iterdir())
    finally:
        os.umask(before)
    assert list(elsewhere.iterdir()) == []
    assert list(state.iterdir()) == []
