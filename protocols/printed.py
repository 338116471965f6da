"""The numbers that a Markdown page prints, and the names of records that its sections give."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

_MARK = re.compile(r"<!-- *(?:paper|machine)(?:: *(?P<heading>.*?))? *-->")
_TAG = re.compile(r"<!--.*?-->|<[^>]*>", re.DOTALL)
_COVER = "\x01"  # stands for a mark within a line
_MINUS = "\N{MINUS SIGN}"
_NUMBER = re.compile(
    rf"(?<![\w.,])(?P<sign>[+{_MINUS}-]?)(?P<mean>\d[\d,]*(?:\.\d+)?)(?P<percent> ?%)?"
    r"(?:\s±\s(?P<half>\d+(?:\.\d+)?))?(?P<after> ?%)?(?!\d|[.,]\d)"
    r"|(?<!\d )±\s(?P<alone>\d+(?:\.\d+)?)(?!\d|[.,]\d)"
)
_LEVEL = re.compile(r"95 ?%\s(?:confidence )?interval")
_RATIO = re.compile(r"\br =\s$")


@dataclass(frozen=True)
class Number:
    """A number as printed, with its line; mean or half is None where it is not given.

    `places` are the decimal places of both. `signed`: it has a sign. `ratio`: it follows "r = ".
    """

    line: int
    text: str
    mean: float | None
    half: float | None
    places: tuple[int, int]
    signed: bool
    percent: bool
    ratio: bool


@dataclass
class Section:
    """The names of records that a section gives, its numbers without a mark, and what is above."""

    level: int
    above: "Section | None" = None
    names: list[str] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)

    def in_force(self) -> list[str]:
        """The names that hold here: its own and those of the sections above."""
        return [*self.names, *(self.above.in_force() if self.above else [])]


def sections_of(text: str) -> list[Section]:
    """The sections of a Markdown page; the first is what stands above the first heading."""
    found = [Section(0)]
    tree = SyntaxTreeNode(MarkdownIt("commonmark").enable("table").parse(text))
    for node, mark in _marked(tree.children):
        if node.type == "heading":
            found.append(_below(found[-1], int(node.tag[1])))
        found[-1].names += chain.from_iterable(map(_names, node.walk()))
        found[-1].numbers += _numbers_in(node, mark)
    return found


def _below(last: Section, level: int) -> Section:
    above = last
    while above.above and above.level >= level:
        above = above.above
    return Section(level, above)


def _marked(nodes: Sequence[SyntaxTreeNode]) -> Iterator[tuple[SyntaxTreeNode, re.Match | None]]:
    """Each block with the mark that stands alone before it, if any."""
    mark = None
    for node in nodes:
        yield node, mark
        mark = _MARK.fullmatch(node.content.strip()) if node.type == "html_block" else None


def _names(node: SyntaxTreeNode) -> list[str]:
    """The names in a link, an image or code."""
    if node.type in ("link", "image"):
        return [str(node.attrs.get("href", node.attrs.get("src", "")))]
    return node.content.split() if node.type in ("code_inline", "fence") else []


def _numbers_in(node: SyntaxTreeNode, mark: re.Match | None = None) -> Iterator[Number]:
    """The numbers of a block that no mark covers."""
    if mark and not mark["heading"]:
        return
    if node.type == "html_block":
        yield from _numbers(_TAG.sub(_blank, node.content), _line(node))
    elif node.type == "inline":
        yield from _numbers(_plain(node), _line(node))
    elif node.type == "table":
        yield from _numbers_of_table(node, mark["heading"] if mark else None)
    else:
        for inner, own in _marked(node.children):
            yield from _numbers_in(inner, own)


def _numbers_of_table(table: SyntaxTreeNode, marked: str | None) -> Iterator[Number]:
    """The numbers of the cells, but those of columns whose heading begins with `marked`."""
    rows = list(chain.from_iterable(part.children for part in table.children))
    for row in rows:
        for heading, cell in zip(rows[0].children, row.children, strict=True):
            if marked is None or not heading.children[0].content.startswith(marked):
                yield from _numbers_in(cell)


def _line(node: SyntaxTreeNode) -> int:
    return node.map[0] + 1 if node.map else 0


def _plain(inline: SyntaxTreeNode) -> str:
    """The text of a paragraph, line by line; code is left out and marks are _COVER."""
    if inline.type == "text":
        return inline.content
    if inline.type in ("softbreak", "hardbreak"):
        return "\n"
    if inline.type == "html_inline":
        return _COVER if _MARK.fullmatch(inline.content) else " "
    if inline.type in ("code_inline", "image"):
        return "`"
    return "".join(map(_plain, inline.children))


def _blank(found: re.Match) -> str:
    return "\n" * found[0].count("\n") or " "


def _numbers(text: str, line: int) -> Iterator[Number]:
    """The decimals and percentages in a text whose first line is `line`."""
    covered = -1
    for found in _NUMBER.finditer(text):
        mark = text.rfind(_COVER, 0, found.start())
        if mark > covered:
            covered = mark
        elif _is_measured(found) and not _LEVEL.match(text, found.start()):
            yield _number(found, line + text.count("\n", 0, found.start()))


def _is_measured(found: re.Match) -> bool:
    """Whether it is a decimal or a percentage."""
    parts = (found["mean"], found["half"], found["alone"])
    return bool(found["percent"] or found["after"]) or any("." in part for part in parts if part)


def _number(found: re.Match, line: int) -> Number:
    mean, half = found["mean"], found["half"] or found["alone"]
    value = float(mean.replace(",", "")) if mean else None
    return Number(
        line,
        text=" ".join(found[0].split()),
        mean=-value if value and found["sign"] in (_MINUS, "-") else value,
        half=float(half) if half else None,
        places=(_places(mean), _places(half)),
        signed=bool(found["sign"]),
        percent=bool(found["percent"] or found["after"]),
        ratio=bool(_RATIO.search(found.string, 0, found.start())),
    )


def _places(number: str | None) -> int:
    return len(number.partition(".")[2]) if number else 0
