"""A quick sample of what tests/acceptance/test_fuzzing.py does many times."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import fuzzing

SAMPLE = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@given(content=fuzzing.params_files())
@SAMPLE
def test_wild_params_file_is_valid_or_named(content: bytes, tmp_path: Path) -> None:
    fuzzing.check_params_file(content, tmp_path)


@given(content=fuzzing.csv_files())
@SAMPLE
def test_wild_table_is_read_or_named(content: bytes, tmp_path: Path) -> None:
    fuzzing.check_csv_file(content, tmp_path)


@given(name=fuzzing.FILE_NAMES)
@SAMPLE
def test_file_named_by_a_table_is_inside_its_folder(name: str, tmp_path: Path) -> None:
    fuzzing.check_file_name(name, tmp_path)


@given(file=fuzzing.image_files())
@SAMPLE
def test_wild_image_is_read_or_named(file: tuple[bytes, str], tmp_path: Path) -> None:
    fuzzing.check_image_file(*file, tmp_path)


@given(names=st.lists(fuzzing.CLASS_NAMES, min_size=2, max_size=8, unique=True))
@settings(SAMPLE, max_examples=20)
def test_wild_class_names_are_told_apart_or_named(names: list[str], tmp_path: Path) -> None:
    fuzzing.check_class_names(names, tmp_path)


@pytest.mark.parametrize("name", fuzzing.RESERVED + fuzzing.AWKWARD)
def test_awkward_class_name_passes_through_the_files(name: str, tmp_path: Path) -> None:
    assert fuzzing.check_class_names([name, "other"], tmp_path) is None
