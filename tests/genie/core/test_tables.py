import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genie.core import tables
from genie.core.errors import InvalidValueError, MissingFileError
from genie.core.tables import (
    IMAGES,
    MEMBERS,
    TASKS,
    TRAJECTORIES,
    empty,
    inside,
    read_images,
    read_support,
    read_table,
    write_table,
)

SCHEMAS = {
    name: value
    for name, value in vars(tables).items()
    if name.isupper() and not name.startswith("_") and isinstance(value, dict)
}
BINARY = ("IMAGES", "THUMBNAILS", "TRAJECTORIES")  # bytes and vectors: Parquet alone
CSV = {name: schema for name, schema in SCHEMAS.items() if name not in BINARY}
HARD = (
    "007",
    "1.50",
    "",
    "None",
    "NaN",
    "nan",
    "null",
    "True",
    " a ",
    'a, "b"',
    "it's",
    "a\nb",
    "a\rb",
)

# surrogates are no UTF-8
texts = st.sampled_from(HARD) | st.text(
    st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=8
)
values = {
    str: texts,
    int: st.integers(-(2**62), 2**62),
    float: st.floats(allow_infinity=False),
    bool: st.booleans(),
}


def test_every_schema_is_either_csv_or_has_bytes_or_vectors():
    assert len(CSV) > 10
    for name, schema in SCHEMAS.items():
        assert (name in BINARY) == bool({bytes, list} & set(schema.values()))


@pytest.mark.parametrize("name", CSV)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_table_survives_csv(name, data, tmp_path_factory):
    schema = CSV[name]
    rows = data.draw(st.lists(st.tuples(*(values[kind] for kind in schema.values())), max_size=4))
    path = tmp_path_factory.mktemp("tables") / "table.csv"
    write_table(pd.DataFrame(rows, columns=list(schema)), path, schema)
    back = read_table(path, schema)
    assert list(back.columns) == list(schema)
    for i, (column, kind) in enumerate(schema.items()):
        written, read = [row[i] for row in rows], back[column].tolist()
        if kind is float:
            assert read == pytest.approx(written, nan_ok=True, rel=1e-15)
        else:
            assert read == written


@pytest.mark.parametrize("name", CSV)
def test_text_columns_keep_texts_that_look_like_numbers_or_missing_values(name, tmp_path):
    schema = CSV[name]
    other = {int: 1, float: 0.5, bool: True}
    rows = [
        {column: text if kind is str else other[kind] for column, kind in schema.items()}
        for text in HARD
    ]
    write_table(pd.DataFrame(rows), tmp_path / "table.csv", schema)
    back = read_table(tmp_path / "table.csv", schema)
    for column in (c for c, kind in schema.items() if kind is str):
        assert tuple(back[column]) == HARD


@pytest.mark.parametrize("text", ["a\rb", "\r", "a\r\nb", 'a"\rb'])
def test_carriage_return_in_a_text_survives_csv(text, tmp_path):
    """Python before 3.13 writes it without quotes."""
    table = pd.DataFrame({"class": [text, "bag"], "name": ["x", text]})
    write_table(table, tmp_path / "names.csv", tables.NAMES)
    pd.testing.assert_frame_equal(read_table(tmp_path / "names.csv", tables.NAMES), table)


def test_table_without_carriage_returns_is_written_without_needless_quotes(tmp_path):
    table = pd.DataFrame({"class": ["bag"], "name": ["a bag"]})
    write_table(table, tmp_path / "names.csv", tables.NAMES)
    assert (tmp_path / "names.csv").read_text() == "class,name\nbag,a bag\n"


@pytest.mark.parametrize("name", SCHEMAS)
def test_missing_column_is_named_with_its_file(name, tmp_path):
    schema = SCHEMAS[name]
    ending = "parquet" if name in BINARY else "csv"
    for column in schema:
        path = tmp_path / f"without {column}.{ending}"
        rest = {c: kind for c, kind in schema.items() if c != column} or {"other": str}
        write_table(empty(rest), path, rest)
        message = rf"without {column}\.{ending} must have the column '{column}'"
        with pytest.raises(InvalidValueError, match=message):
            read_table(path, schema)


@pytest.mark.parametrize(
    ("name", "ending"), [*((n, "csv") for n in CSV), *((n, "parquet") for n in SCHEMAS)]
)
def test_table_without_rows_keeps_its_columns(name, ending, tmp_path):
    schema = SCHEMAS[name]
    path = tmp_path / "deep" / f"table.{ending}"
    write_table(empty(schema), path, schema)
    back = read_table(path, schema)
    assert back.empty
    assert list(back.columns) == list(schema)


def test_columns_are_written_and_read_in_the_order_of_the_schema_and_no_others(tmp_path):
    path = tmp_path / "tasks.csv"
    row = {"label": "a", "extra": 1, "image_id": "i", "role": "query", "task": 0}
    write_table(pd.DataFrame([row]), path, TASKS)
    assert path.read_text() == "task,role,image_id,label\n0,query,i,a\n"
    path.write_text("extra,label,image_id,role,task\n1,a,i,query,0\n")
    assert list(read_table(path, TASKS).columns) == list(TASKS)


def test_bytes_and_missing_text_survive_parquet(tmp_path):
    table = pd.DataFrame([("007", "None", b"\x00\xff"), ("", None, b"")], columns=list(IMAGES))
    write_table(table, tmp_path / "images.parquet", IMAGES)
    back = read_images(tmp_path)
    assert back["image_id"].tolist() == ["007", ""]
    assert back["label"][0] == "None"
    assert back["label"].isna().tolist() == [False, True]
    assert back["png"].tolist() == [b"\x00\xff", b""]


def test_empty_cell_is_nan_in_a_float_column_and_empty_in_a_text_column(tmp_path):
    path = tmp_path / "members.csv"
    path.write_text(",".join(MEMBERS) + "\n0,coat,k,f.png,,,\n")
    (row,) = read_table(path, MEMBERS).to_dict("records")
    assert row["r"] != row["r"]
    assert row["source_id"] == row["source_label"] == ""


def test_missing_table_is_named_with_the_remedy(tmp_path):
    with pytest.raises(MissingFileError, match=r"images\.parquet does not exist; run `dvc repro`"):
        read_images(tmp_path)


OLD = "r,images,shift_ratio,unclear,called_target,label_consistency\n0.7,3,1.5,0.0,{},\n"


@pytest.mark.parametrize(("cell", "share"), [("0.25", 0.25), ("", None)])
def test_column_of_version_0_1_is_read_by_its_new_name(tmp_path, cell, share):
    path = tmp_path / "choices.csv"
    path.write_text(OLD.format(cell))
    table = read_table(path, tables.CHOICES)
    assert list(table.columns) == list(tables.CHOICES)
    assert table["predicted_target"].dtype == float
    (found,) = table["predicted_target"]
    assert found == share if share is not None else found != found


def test_trajectories_of_version_0_1_are_read_and_written_with_the_new_column(tmp_path):
    row = {c: {str: "a", int: 1, float: 0.5, bool: True}.get(k) for c, k in TRAJECTORIES.items()}
    old = pd.DataFrame([row | {"embedding": [0.5]}])
    new = old.copy()
    path = tmp_path / "trajectories.parquet"
    old.rename(columns={"predicted_target": "called_target"}).to_parquet(path)
    back = read_table(path, TRAJECTORIES)
    pd.testing.assert_frame_equal(back.drop(columns="embedding"), new.drop(columns="embedding"))
    write_table(back, path, TRAJECTORIES)
    assert "predicted_target" in pd.read_parquet(path).columns


def test_new_column_is_read_where_a_table_has_both_names(tmp_path):
    path = tmp_path / "choices.csv"
    path.write_text(
        "r,images,shift_ratio,unclear,predicted_target,label_consistency,called_target\n"
        "0.7,3,1.5,0.0,0.75,0.5,0.25\n"
    )
    assert read_table(path, tables.CHOICES)["predicted_target"].tolist() == [0.75]


@pytest.mark.parametrize(
    "text",
    [b"", b"task,label\n1,2,3,4\n5,6,7,8,9,10\n", b"task,role\n\xff\xfe,1\n", b"task\nfour\n"],
)
def test_malformed_csv_is_named(tmp_path, text):
    path = tmp_path / "tasks.csv"
    path.write_bytes(text)
    with pytest.raises(InvalidValueError, match=r"tasks\.csv must") as caught:
        read_table(path, TASKS)
    assert "\n" not in str(caught.value)


def test_malformed_parquet_is_named(tmp_path):
    (tmp_path / "images.parquet").write_text("text")
    with pytest.raises(InvalidValueError, match=r"images\.parquet must be a Parquet file \("):
        read_images(tmp_path)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x.png", "a/../../x.png", "a\0b"])
def test_file_that_a_table_names_outside_its_folder_is_refused(tmp_path, name):
    with pytest.raises(InvalidValueError, match="must name files inside"):
        inside(tmp_path, name)
    assert inside(tmp_path, "a/x.png") == tmp_path / "a/x.png"


def test_only_support_rows_of_a_tasks_table_are_read(tmp_path):
    rows = [(0, "support", "i", "a"), (0, "query", "j", "a"), (1, "support", "k", "b")]
    write_table(pd.DataFrame(rows, columns=list(TASKS)), tmp_path / "tasks.csv", TASKS)
    assert list(read_support(tmp_path / "tasks.csv")["image_id"]) == ["i", "k"]
