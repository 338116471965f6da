from pathlib import Path

import pytest

from genie.cli.origin import is_on_this_machine, requirement
from tests.scratch import call, commit


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A committed checkout of a package, without a remote."""
    folder = tmp_path / "a checkout"
    (folder / "genie").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[project]\n")
    call(folder, "git", "init", "--quiet", "--initial-branch", "main")
    commit(folder)
    return folder


def test_checkout_without_remote_is_a_folder_of_this_machine(checkout):
    assert requirement(checkout / "genie") == f"genie-pipeline @ {checkout.as_uri()}"
    assert is_on_this_machine(requirement(checkout / "genie"))


def test_commit_on_the_remote_is_named(checkout, tmp_path):
    call(tmp_path, "git", "init", "--quiet", "--bare", "remote.git")
    call(checkout, "git", "remote", "add", "origin", (tmp_path / "remote.git").as_uri())
    assert is_on_this_machine(requirement(checkout / "genie"))  # not pushed yet
    call(checkout, "git", "push", "--quiet", "origin", "main")
    head = call(checkout, "git", "rev-parse", "HEAD").strip()
    remote = (tmp_path / "remote.git").as_uri()
    assert requirement(checkout / "genie") == f"genie-pipeline @ git+{remote}@{head}"
    call(checkout, "git", "remote", "set-url", "origin", "git@example.org:team/genie.git")
    expected = f"genie-pipeline @ git+ssh://git@example.org/team/genie.git@{head}"
    assert requirement(checkout / "genie") == expected
    (checkout / "pyproject.toml").write_text("[project]\nname = 'edited'\n")
    assert is_on_this_machine(requirement(checkout / "genie"))


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, "genie-pipeline==1.2"),
        ('{"url": "file:///w/g.whl", "archive_info": {}}', "genie-pipeline @ file:///w/g.whl"),
        (
            '{"url": "https://example.org/g", "vcs_info": {"vcs": "git", "commit_id": "abc"}}',
            "genie-pipeline @ git+https://example.org/g@abc",
        ),
        (
            '{"url": "https://example.org/g.whl", "archive_info": {}}',
            "genie-pipeline @ https://example.org/g.whl",
        ),
    ],
)
def test_installed_package_names_where_pip_found_it(tmp_path, monkeypatch, origin, expected):
    info = tmp_path / "genie_pipeline-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: genie-pipeline\nVersion: 1.2\n")
    if origin:
        (info / "direct_url.json").write_text(origin)
    monkeypatch.syspath_prepend(tmp_path)
    assert requirement(tmp_path / "genie") == expected
