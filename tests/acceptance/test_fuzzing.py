"""Thousands of wild params files, tables, images and class names; tests/fuzzing.py makes them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import fuzzing
from tests.scratch import contents

SLOW = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def many(count: int) -> settings:
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=SLOW)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder beside which nothing may be written."""
    place = tmp_path / "workspace"
    place.mkdir()
    (tmp_path / "neighbour").write_text("untouched")
    return place


def check(run: Callable[[], object], folder: Path) -> None:
    run()
    assert set(contents(folder.parent)) - {"neighbour"} == {
        name for name in contents(folder.parent) if name.startswith("workspace/")
    }


@given(content=fuzzing.params_files())
@many(10_000)
def test_params_files(content: bytes, folder: Path) -> None:
    check(lambda: fuzzing.check_params_file(content, folder), folder)


@given(content=fuzzing.csv_files())
@many(2000)
def test_tables(content: bytes, folder: Path) -> None:
    check(lambda: fuzzing.check_csv_file(content, folder), folder)


@given(name=fuzzing.FILE_NAMES)
@many(10_000)
def test_file_names_of_tables(name: str, folder: Path) -> None:
    fuzzing.check_file_name(name, folder)


@given(file=fuzzing.image_files())
@many(2000)
def test_images(file: tuple[bytes, str], folder: Path) -> None:
    check(lambda: fuzzing.check_image_file(*file, folder), folder)


@given(names=st.lists(fuzzing.CLASS_NAMES, min_size=5, max_size=5, unique=True))
@many(100)
def test_500_class_names(names: list[str], folder: Path) -> None:
    check(lambda: fuzzing.check_class_names(names, folder), folder)
