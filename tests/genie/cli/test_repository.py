"""What git sees of params.yaml, with the real git."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from dvc.repo import Repo

from genie.cli.doctor import STOP, git
from genie.cli.main import main
from genie.cli.repository import kept_values, require_own, show_to_git
from genie.core.errors import FailedError
from tests.scratch import call, commit


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a committed params.yaml, and the current folder."""
    (tmp_path / "params.yaml").write_text("r: ada\n")
    call(tmp_path, "git", "init", "--quiet")
    commit(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    return tmp_path


def status(place: Path) -> str:
    return call(place, "git", "status", "--porcelain").strip()


def write_unseen(file: Path, text: str) -> None:
    """Change a file as DVC does: in the same second, with the index written in a later one."""
    before = file.stat()
    os.utime(file.parent / ".git/index", (before.st_mtime + 3, before.st_mtime + 3))
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns // 10**9 * 10**9 + 1))


def restored(place: Path) -> str:
    call(place, "git", "restore", ".")
    return (place / "params.yaml").read_text()


@pytest.mark.parametrize("text", ["r: 0.9\n", "r: 0.7\n", "R: ada\n"])
def test_change_of_equal_length_in_the_same_second_is_shown(place, text):
    call(place, "git", "config", "core.trustctime", "false")
    write_unseen(place / "params.yaml", text)
    assert status(place) == ""  # git's limit, without which this module could go
    assert restored(place) == text
    show_to_git(place / "params.yaml")
    assert status(place) == "M params.yaml"
    assert restored(place) == "r: ada\n"


def test_what_git_sees_or_did_not_change_stays_as_it_is(place):
    file = place / "params.yaml"
    before = file.stat().st_mtime_ns
    show_to_git(file)
    assert (file.stat().st_mtime_ns, status(place)) == (before, "")
    file.write_text("r: 0.75\n")
    before = file.stat().st_mtime_ns
    show_to_git(file)
    assert file.stat().st_mtime_ns == before


def test_ends_of_lines_that_git_converts_are_no_change(place):
    call(place, "git", "config", "core.autocrlf", "true")
    file = place / "params.yaml"
    file.unlink()
    call(place, "git", "restore", ".")
    assert file.read_bytes() == b"r: ada\r\n"
    before = file.stat().st_mtime_ns
    show_to_git(file)
    assert file.stat().st_mtime_ns == before


def test_nothing_is_asked_of_a_folder_without_git_or_of_a_file_that_is_not_there(tmp_path, place):
    show_to_git(place / "nowhere.yaml")
    show_to_git(place / "nowhere/params.yaml")
    (place / "untracked.yaml").write_text("a: 1\n")
    show_to_git(place / "untracked.yaml")


@pytest.mark.parametrize(
    ("name", "root", "said"), [("e", ".", True), (None, ".", False), ("e", "/", False)]
)
def test_values_that_an_experiment_leaves_in_the_workspace_are_told(
    place, monkeypatch, name, root, said
):
    if name:
        monkeypatch.setenv("DVC_EXP_NAME", name)
    monkeypatch.setenv("DVC_ROOT", root)
    file = Path("params.yaml")
    assert kept_values(file) == ""
    file.write_text("r: 0.75\n")
    assert ("`git restore params.yaml` removes them" in kept_values(file)) == said


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_repository_of_another_user_is_refused_with_the_command_that_allows_it(place, monkeypatch):
    require_own(place)
    require_own(place.parent)  # no repository
    for path in (place, *place.rglob("*")):
        os.chown(path, 1234, 1234)
    command = f"git config --global --add safe.directory {place}"
    with pytest.raises(FailedError, match=rf"{place} belongs to another user.*; .*`{command}`$"):
        require_own(place)
    Repo.init(str(place), no_scm=True).close()
    for arguments in (["compare"], ["gc"]):
        result = CliRunner().invoke(main, [*arguments, "--root", str(place)])
        assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
        assert command in result.stderr
    state, text = git(place, {})
    assert state == STOP
    assert command in text
