import errno
import pickle

import pytest

from genie.core.errors import (
    FailedError,
    GenieError,
    InvalidValueError,
    MissingFileError,
    disk_is_full,
    one_line,
    out_of_memory,
    require_choice,
    shown,
)

KINDS = [
    (GenieError, Exception),
    (InvalidValueError, ValueError),
    (MissingFileError, FileNotFoundError),
    (FailedError, RuntimeError),
]
KEYS = {"steps": "generator.steps", "path": "data.path", "broken": "data.broken"}


@pytest.mark.parametrize(("kind", "builtin"), KINDS)
def test_error_is_also_the_builtin_one_of_its_kind(kind, builtin):
    error = kind("must be at least 1", argument="steps", value=0)
    assert isinstance(error, GenieError)
    assert isinstance(error, builtin)
    assert str(error) == "steps must be at least 1, got 0"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"rule": "no image can be read"}, "no image can be read"),
        ({"rule": "must be 1", "argument": "n"}, "n must be 1"),
        ({"rule": "must be 1", "argument": "n", "value": None}, "n must be 1, got None"),
        ({"rule": "must be 1", "argument": "n", "value": "2"}, "n must be 1, got '2'"),
        ({"rule": "must be 1", "argument": "n", "remedy": "raise it"}, "n must be 1; raise it"),
        (
            {"rule": "must be 1", "argument": "n", "value": 0, "remedy": "raise it"},
            "n must be 1, got 0; raise it",
        ),
        ({"rule": "has\nlines", "argument": "n", "remedy": "a\n b"}, "n has lines; a b"),
    ],
)
def test_message_names_argument_rule_value_and_remedy_on_one_line(fields, text):
    assert str(InvalidValueError(fields.pop("rule"), **fields)) == text


def test_error_has_the_given_fields():
    error = InvalidValueError("must be 1", argument="n", value=[0], remedy="raise it")
    assert (error.argument, error.rule, error.value, error.remedy) == (
        *("n", "must be 1"),
        *([0], "raise it"),
    )
    bare = FailedError("it broke")
    assert (bare.argument, bare.rule, bare.value, bare.remedy) == (None, "it broke", None, "")


def test_text_has_keys_in_place_of_the_argument_and_of_arguments_in_backticks():
    error = InvalidValueError(
        "must have only images that can be read",
        argument="path",
        value="path",
        remedy="repair them, or set `broken` to skip, and run `dvc repro` or `genie`",
    )
    assert error.text(KEYS) == (
        "data.path must have only images that can be read, got 'path'; repair them, or set "
        "`data.broken` to skip, and run `dvc repro` or `genie`"
    )
    assert "data." not in str(error)
    assert error.text() == str(error)


def test_argument_that_is_renamed_later_is_in_the_message():
    error = MissingFileError("must be an existing folder", argument="path", value="x")
    error.argument = "dataset"
    assert str(error) == "dataset must be an existing folder, got 'x'"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # noqa: S301


@pytest.mark.parametrize(("kind", "_"), KINDS)
@pytest.mark.parametrize("value", [0, None, "text", ["a"]])
def test_error_survives_pickling_with_its_fields(kind, _, value):
    error = kind("must be at least 1", argument="steps", value=value, remedy="raise `steps`")
    back = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(back) is kind
    assert vars(back) == vars(error)
    assert str(back) == str(error)
    assert back.text(KEYS) == error.text(KEYS)
    without = pickle.loads(pickle.dumps(kind("it broke")))  # noqa: S301
    assert str(without) == "it broke"


class Block:
    def __repr__(self) -> str:
        return "array([1,\n       2])"


@pytest.mark.parametrize(
    ("value", "text"),
    [("a  b", "'a  b'"), ("`steps`", "'`steps`'"), (Block(), "array([1,        2])")],
)
def test_value_is_shown_as_it_is_on_one_line(value, text):
    error = InvalidValueError("must be 1", argument="n", value=value)
    assert error.text(KEYS) == f"n must be 1, got {text}"


def test_long_and_nested_values_are_shortened():
    assert len(shown("x" * 1000)) <= 100
    assert shown([[[["deep"]]]]) == "[[[...]]]"
    assert len(str(InvalidValueError("must be short", argument="n", value="y" * 9999))) < 200


def test_missing_file_error_has_no_error_number():
    error = MissingFileError("does not exist", argument="params.yaml")
    assert (error.errno, error.filename) == (None, None)
    assert not disk_is_full(error)


def test_choice_that_does_not_exist_is_refused_with_the_nearest_one():
    require_choice("regime", "shots", ["all", "shots"])
    with pytest.raises(InvalidValueError) as caught:
        require_choice("regime", "shot", iter(["all", "shots"]))
    assert str(caught.value) == (
        "regime must be one of all, shots, got 'shot'; did you mean shots?"
    )


def test_message_of_any_exception_is_one_line_and_never_empty():
    assert one_line(ValueError("a\n  b")) == "a b"
    assert one_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.ENOENT, "No such file or directory"), False),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (ValueError("database or disk is full"), True),
        (InvalidValueError("must be at least 1", argument="steps"), False),
    ],
)
def test_full_disk_is_recognised_in_errors_of_other_libraries(error, full):
    assert disk_is_full(error) == full


@pytest.mark.parametrize(
    ("error", "exhausted"),
    [
        (MemoryError(), True),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("shapes differ"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_exhausted_memory_is_recognised(error, exhausted):
    assert out_of_memory(error) == exhausted
