"""PostgreSQL started by root: it runs as another user, with its data in a folder that a link names."""

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
    """A state folder that only root may enter."""
    folder = tmp_path / "closed" / "state"
    folder.mkdir(parents=True)
    folder.parent.chmod(0o700)
    return folder


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder used in place of the one under /var/lib; neither it nor its parent exists yet."""
    with tempfile.TemporaryDirectory(prefix="oms-") as place:
        Path(place).chmod(0o755)  # pytest's own folders are closed to everybody else
        folder = Path(place) / "var" / "lib" / "order-management"
        monkeypatch.setattr(server_user, "_ROOT_OWNED_FOLDERS", folder)
        yield folder


def test_deleted_data_of_a_stack_does_not_come_back(state: Path, elsewhere: Path) -> None:
    """Without the link in its state folder a start gets an empty database, although the old files exist."""
    link = state / "postgres"
    _, first = claim_folder(link)
    (first / "data").mkdir()
    assert claim_folder(link)[1] == first == link.readlink()

    link.unlink()
    _, second = claim_folder(link)
    assert (first / "data").is_dir()
    assert list(second.iterdir()) == []
    assert {first.parent, second.parent} == {elsewhere}


def test_a_start_after_a_kill_continues_with_the_link_made_before_the_kill(
    state: Path, elsewhere: Path
) -> None:
    """The link comes first, so every folder has a link that names it."""
    link = state / "postgres"
    _, home = claim_folder(link)
    home.rmdir()
    assert claim_folder(link)[1] == home
    assert list(elsewhere.iterdir()) == [home]


def test_two_stacks_side_by_side_never_share_data(state: Path, elsewhere: Path) -> None:
    """A copy of a state folder, link included, is refused."""
    (other := state.with_name("other")).mkdir()
    homes = {claim_folder(folder / "postgres")[1] for folder in (state, other)}
    assert homes == set(elsewhere.iterdir())
    assert len(homes) == 2

    (copy := state.with_name("copy")).mkdir()
    (copy / "postgres").symlink_to((state / "postgres").readlink())
    with pytest.raises(StackError, match=r"link of another checkout"):
        claim_folder(copy / "postgres")


def test_a_data_folder_that_cannot_be_created_is_reported_in_one_line(state: Path, elsewhere: Path) -> None:
    """The line says what to do about it."""
    elsewhere.parent.mkdir(parents=True)
    elsewhere.touch()
    with pytest.raises(StackError, match=r"File exists.*choose a STATE_DIR that .* can enter"):
        claim_folder(state / "postgres")
    elsewhere.unlink()
    elsewhere.parent.chmod(0o700)
    with pytest.raises(StackError, match=r"cannot enter .*choose a STATE_DIR"):
        claim_folder(state / "postgres")
    assert list(state.iterdir()) == []


def test_data_in_a_state_folder_that_the_servers_user_can_no_longer_enter_is_refused(
    state: Path, elsewhere: Path
) -> None:
    """It is not replaced by an empty database."""
    (state / "postgres").mkdir()
    with pytest.raises(StackError, match=r"can no longer enter"):
        claim_folder(state / "postgres")
    assert list(elsewhere.iterdir()) == []


def test_the_servers_of_tests_remove_their_data_folders(state: Path, elsewhere: Path) -> None:
    """With a server that really runs, whatever the umask is."""
    elsewhere.parent.mkdir(parents=True)
    before = os.umask(0o077)
    try:
        with EmbeddedPostgres(state / "postgres", durable=False) as postgres:
            assert [postgres.home] == list(elsewhere.iterdir())
    finally:
        os.umask(before)
    assert list(elsewhere.iterdir()) == []
    assert list(state.iterdir()) == []
