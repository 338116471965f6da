"""The commands in README.md and docs/, and which of them tests can run.

A code block without a language has shell commands. `<!-- needs: network, gpu, hours -->` before a
block keeps it from being run, and `<!-- append: FILE -->` appends it to a file. Python blocks
without a comment are run as well.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tests.scratch import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEEDS = {"network", "gpu", "hours"}
SHELL = ("", "sh", "bash")
ELSEWHERE = {"make repro": ".ci/run", "make test": ".ci/run", "make setup": ".ci/run"}
"""Commands that no test can run, by the file that runs them."""

_BLOCK = re.compile(
    r"(?:<!-- *(?P<mark>needs|append): *(?P<what>[^>]*?) *-->\n+)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """A code block: its text without indent, its language and its marks."""

    document: Path
    line: int
    language: str
    code: str
    needs: frozenset[str]
    append: str | None

    @property
    def where(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(document: Path) -> Iterator[Block]:
    """All code blocks of a Markdown file, in order."""
    text = document.read_text()
    for found in _BLOCK.finditer(text):
        mark, what = found["mark"], found["what"]
        yield Block(
            document,
            line=text.count("\n", 0, found.start("code")) + 1,
            language=found["language"],
            code=dedent(found["code"]),
            needs=frozenset(re.split(", *", what)) if mark == "needs" else frozenset(),
            append=what if mark == "append" else None,
        )


def commands(block: Block) -> list[str]:
    """The commands of a shell block: its lines without comments, continuation lines joined."""
    if block.language not in SHELL:
        return []
    joined = block.code.replace("\\\n", " ")
    split = (shlex.join(shlex.split(line, comments=True)) for line in joined.splitlines())
    return [line for line in split if line]


def script(document: Path) -> str:
    """Everything that a reader of the document would run, as one shell script."""
    parts = []
    for block in blocks(document):
        if block.needs:
            continue
        if block.append:
            parts.append(f"printf '\\n\\n' >> {block.append}")
            parts.append(f"cat >> {block.append} <<'END'\n{block.code}END")
        elif block.language in SHELL:
            parts += [_without_elsewhere(block.code)]
        elif block.language == "python":
            parts.append(f"python - <<'END'\n{block.code}END")
    return "\n".join(parts)


def _without_elsewhere(code: str) -> str:
    lines = code.splitlines()
    return "\n".join(x for x in lines if x.split("#")[0].strip() not in ELSEWHERE)
