"""Wild values for everything that users give, and what must hold for each of them.

Each check either passes or meets a GenieError on one line that names what is wrong. Anything else,
a traceback among them, fails it.
"""

import io
import re
import string
import struct
import zlib
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from hypothesis import strategies as st
from PIL import Image

from genie.cli.messages import in_keys
from genie.core.errors import GenieError, shown
from genie.core.tables import MEMBERS, TASKS, inside, read_table, write_table
from genie.data.augmented_set import read_set
from genie.data.images import decode_image, encode_png
from genie.data.prompts import class_name, slug
from genie.data.readers import read_pools
from genie.data.tasks import Draws, make_tasks
from genie.settings import read_params, require_paths
from tests.tracked import set_with, trajectories

BASE = yaml.safe_load((Path(__file__).parent.parent / "params.yaml").read_text())
KEYS = [(a, b) for a, section in BASE.items() if isinstance(section, dict) for b in section] + [
    (a,) for a in BASE
]


def error_of(run: Callable[[], object]) -> str | None:
    """The message of the GenieError that the call ends with, as a stage shows it; None if none."""
    try:
        run()
    except GenieError as error:
        message = in_keys(error)
        assert message
        assert "\n" not in message
        return message
    return None


# params.yaml

NUMBERS = st.one_of(
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, -1, 1, 2, 0.5, 1.0, 1e308, -0.0, float("inf"), float("nan"), 2**63, 2**64]),
)
NAMES = st.one_of(
    st.text(),
    st.sampled_from(
        [
            *("", ".", "..", "/", "~", "\0", "a\0b", "../../etc/passwd", "/dev/zero", "/a/" * 3000),
            *("{class}", "{", "{0}", "%s", "é" * 500, "x" * 5000, "ada", "probe", "none", "null"),
            *("{class}\nand more", "\u202e{class}", "😀 {class}", "yes", "1e3", "0x10", "*a", "&a"),
        ]
    ),
)
SCALARS = st.one_of(
    st.none(), st.booleans(), NUMBERS, NAMES, st.dates(), st.datetimes(), st.binary(max_size=20)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(SCALARS, inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def params_files(draw: st.DrawFn) -> bytes:
    """A params.yaml with wild values for some keys, keys left out or added, or no YAML at all."""
    kind = draw(st.sampled_from(["values"] * 6 + ["left out", "added", "whole", "text", "bytes"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "text":
        text = yaml.safe_dump(BASE)
        start = draw(st.integers(0, len(text)))
        return (text[:start] + draw(st.text(max_size=20)) + text[start:]).encode(errors="replace")
    if kind == "whole":
        return _dumped(draw(VALUES))
    raw = deepcopy(BASE)
    for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=3)):
        section = raw if len(key) == 1 else raw.get(key[0])
        if not isinstance(section, dict):
            continue
        if kind == "left out":
            section.pop(key[-1], None)
        elif kind == "added":
            section[draw(st.one_of(NAMES, SCALARS))] = draw(VALUES)
        else:
            section[key[-1]] = draw(VALUES)
    return _dumped(raw)


def _dumped(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode(errors="surrogatepass")


def check_params_file(content: bytes, folder: Path) -> str | None:
    """params.yaml is either valid, with paths that exist, or its error names a key or the file."""
    path = folder / "params.yaml"
    path.write_bytes(content)
    message = error_of(lambda: require_paths(read_params(path)))
    if message is not None:
        keys = {".".join(key) for key in KEYS}
        assert str(path) in message or any(key in message for key in keys), message
        assert len(message) < 5000
    return message


# tables


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """A tasks.csv with wrong, missing, doubled or wild columns, cells and bytes."""
    rows = [list(TASKS), *[[str(i % 2), "support", f"id{i}", "bag"] for i in range(3)]]
    kind = draw(st.sampled_from(["cell", "column", "missing", "longer", "text", "bytes", "empty"]))
    if kind == "bytes":
        return draw(st.binary(max_size=200))
    if kind == "empty":
        return b""
    column = draw(st.integers(0, 3))
    if kind == "cell":
        rows[draw(st.integers(1, 3))][column] = draw(st.text(max_size=20))
    if kind == "column":
        rows[0][column] = draw(st.text(max_size=20))
    if kind == "missing":
        rows = [row[:column] + row[column + 1 :] for row in rows]
    if kind == "longer":
        rows[draw(st.integers(0, 3))] += draw(st.lists(st.text(max_size=5), min_size=1, max_size=3))
    text = "\n".join(",".join(row) for row in rows)
    if kind == "text":
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(st.text(max_size=10)) + text[start:]
    return text.encode(errors="replace")


def check_csv_file(content: bytes, folder: Path) -> str | None:
    """The table is either read with its columns and types, or its error names the file."""
    path = folder / "tasks.csv"
    path.write_bytes(content)
    tables: list[pd.DataFrame] = []
    message = error_of(lambda: tables.append(read_table(path, TASKS)))
    if message is None:
        assert list(tables[0].columns) == list(TASKS)
        assert tables[0]["task"].dtype == int
    else:
        assert str(path) in message
    return message


FILE_NAMES = st.one_of(
    st.text(max_size=30),
    st.text(alphabet="./\\a~ \0", max_size=12),
    st.sampled_from(
        ["/etc/passwd", "../x.png", "a/../../x.png", "a/b.png", "", ".", "a/..", "//a"]
    ),
)


def check_file_name(name: str, folder: Path) -> str | None:
    """A name in a table is either inside the folder or an error that shows it."""
    found: list[Path] = []
    message = error_of(lambda: found.append(inside(folder, name)))
    if message is None:
        assert found[0].resolve().is_relative_to(folder.resolve())
        assert found[0].resolve() != folder.resolve()
    else:
        assert shown(name) in message
    return message


# images

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
ENDINGS = (".png", ".jpg", ".webp", ".bmp", ".tiff", ".png")


def picture(seed: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with no pixels behind it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )


@st.composite
def image_files(draw: st.DrawFn) -> tuple[bytes, str]:
    """The bytes of an image file and its ending: cut, changed, empty, huge, animated, tiny."""
    which = draw(st.integers(0, len(FORMATS) - 1))
    size = draw(st.sampled_from([(1, 1), (1, 9), (9, 1), (8, 8)]))
    data = encoded(picture(which, size), FORMATS[which])
    kind = draw(
        st.sampled_from(["cut", "bytes", "header", "huge", "animated", "as it is", "noise"])
    )
    if kind == "cut":
        data = data[: draw(st.integers(0, len(data)))]
    if kind in ("bytes", "header"):
        changed, end = bytearray(data), 40 if kind == "header" else len(data)
        for _ in range(draw(st.integers(1, 8))):
            changed[draw(st.integers(0, min(end, len(data)) - 1))] = draw(st.integers(0, 255))
        data = bytes(changed)
    if kind == "huge":
        sides = st.sampled_from([0, 1, 20_000, 60_000, 2**31 - 1, 2**32 - 1])
        data = png_of_size(draw(sides), draw(sides))
    if kind == "animated":
        frames = [picture(i, size) for i in range(3)]
        data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:])
    if kind == "noise":
        data = draw(st.binary(max_size=300))
    return data, draw(st.sampled_from([ENDINGS[which], ".png", ".JPG"]))


def check_image_file(content: bytes, ending: str, folder: Path) -> str | None:
    """The image is either read as a square of its smaller side, or its error names the file."""
    for label in ("a", "b"):
        (folder / label).mkdir(exist_ok=True)
        (folder / label / "0.png").write_bytes(encode_png(picture(ord(label))))
    for old in (folder / "a").glob("fuzzed*"):
        old.unlink()
    path = folder / "a" / f"fuzzed{ending}"
    path.write_bytes(content)
    found: list[pd.DataFrame] = []
    message = error_of(lambda: found.append(read_pools(folder)[0]))
    if message is None:
        for png in found[0]["png"]:
            image = decode_image(png)
            assert image.mode == "RGB"
            assert image.width == image.height >= 1
    else:
        assert str(path) in message
    return message


# class names

RESERVED = ["CON", "nul", "aux.txt", "COM1", "lpt9", "PRN .x", "con", "CLOCK$", "NUL.tar.gz"]
AWKWARD = [
    ".",
    "..",
    "...",
    "/",
    "a/b",
    "../../x",
    "a\\b",
    "%2F",
    "%",
    "%zz",
    " ",
    "a ",
    ".a",
    "a.",
]
AWKWARD += [
    "é",
    "e\u0301",
    "\u202eabc",
    "😀",
    "a\nb",
    "a\rb",
    "a\tb",
    '"',
    "a,b",
    "'",
    "\0",
    "None",
]
AWKWARD += [
    "x" * 300,
    "é" * 300,
    "😀" * 300,
    "{class}",
    "nan",
    "007",
    "-",
    "~",
    "a" * 199,
    "a" * 201,
]
CLASS_NAMES = st.one_of(
    st.sampled_from(RESERVED + AWKWARD),
    st.text(min_size=1, max_size=300),
    st.text(min_size=1, alphabet=string.printable, max_size=40),
)


def check_class_names(names: list[str], folder: Path) -> str | None:
    """Classes are either told apart through the whole chain of files, or the error names one."""
    for old in folder.glob("*.parquet"):
        old.unlink()
    rows = [
        {"png": encode_png(picture(7 * i + j)), "label": name}
        for i, name in enumerate(names)
        for j in range(4)
    ]
    pd.DataFrame(rows).to_parquet(folder / "images.parquet")
    return error_of(lambda: _through_the_files(folder))


def _through_the_files(folder: Path) -> None:
    images, _ = read_pools(folder / "images.parquet")
    labels = sorted(images["label"].unique())
    slugs = [slug(label) for label in labels]
    assert len(set(slugs)) == len(labels)
    for label, name in zip(labels, slugs, strict=True):
        assert re.fullmatch(r'[^/\\:*?"<>|\x00-\x1f]+', name), name
        assert len(name.encode()) <= 255
        assert not name.startswith(".")
        assert not name.endswith(".")
        assert not re.match(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\.|$)", name)
        assert "%-" in name or class_name(name) == label
    ids = images.groupby("label")["image_id"]
    halves = [images[images["image_id"].isin(set(ids.nth(part)))] for part in ([0, 1], [2, 3])]
    tasks = make_tasks(halves[0], halves[1], Draws("shots", seed=0, shots=1, tasks=1))
    write_table(tasks, folder / "tasks.csv", TASKS)
    again = read_table(folder / "tasks.csv", TASKS)
    assert list(again["label"]) == list(tasks["label"])
    table = trajectories(len(labels), levels=2)
    table["target_label"] = np.repeat(labels, 2)
    pngs = {key: encode_png(picture(i)) for i, key in enumerate(table["key"])}
    written = set_with(table, pngs.__getitem__)
    written.save(folder / "set")
    members = read_table(folder / "set/members.csv", MEMBERS)
    assert list(members["label"]) == list(written.members["label"])
    files, pictures = read_set(folder / "set", members)
    assert len(files) == len(pictures) == len(labels)
