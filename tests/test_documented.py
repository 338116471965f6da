"""The commands in README.md and docs/ are of this repository; acceptance tests run them."""

import doctest
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml
from markdown_it import MarkdownIt

import genie
from genie.cli.main import main
from genie.plan.methods import methods_table
from tests.documented import DOCUMENTS, ELSEWHERE, NEEDS, SHELL, Block, blocks, commands, script
from tests.scratch import ROOT

PARAMETERS = yaml.safe_load((ROOT / "params.yaml").read_text())
BLOCKS = [block for document in DOCUMENTS for block in blocks(document)]
COMMANDS = [
    pytest.param(words, id=f"{block.where} {command}"[:90])
    for block in BLOCKS
    for command in commands(block)
    for words in [shlex.split(part) for part in re.split(r"'&&'|&&", command)]
]

CODE = (".py", ".yaml", ".jinja", ".sh")

PAGES = [
    *DOCUMENTS,
    *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "zoo").rglob("README.md")),
]


def arguments(words: list[str]) -> tuple[str, list[str]]:
    """The program of a command and what follows, without leading assignments."""
    while words and re.fullmatch(r"\w+=.*", words[0]):
        words = words[1:]
    return words[0], words[1:]


def test_documents_have_commands_of_every_kind():
    programs = {arguments(p.values[0])[0] for p in COMMANDS}  # type: ignore[arg-type]
    assert programs >= {"make", "dvc", "genie", "git", "python"}


@pytest.mark.parametrize("block", [pytest.param(b, id=b.where) for b in BLOCKS])
def test_block_is_run_or_names_what_it_needs(block: Block):
    assert block.language in (*SHELL, "python", "csv", "yaml", "mermaid")
    assert block.needs <= NEEDS
    if block.append:
        assert (ROOT / block.append).is_file()


@pytest.mark.parametrize("words", COMMANDS)
def test_command_is_one_that_exists(words: list[str]):
    program, rest = arguments(words)
    if program == "genie":
        command = main.commands[rest[0]]
        command.make_parser(click.Context(command)).parse_args(list(rest[1:]))
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert rest[0] in targets
    elif program == "python" and rest[0] == "-m" and rest[1].startswith("protocols"):
        assert (ROOT / f"{rest[1].replace('.', '/')}.py").is_file()
    elif program.startswith(".ci/"):
        assert (ROOT / program).is_file()
    else:
        assert shutil.which(program) or program in ("cd", "source"), program


@pytest.mark.parametrize("words", [p for p in COMMANDS if "-S" in p.values[0]])
def test_parameter_that_is_set_exists(words: list[str]):
    for flag, setting in pairwise(words):
        if flag == "-S":
            section, _, key = setting.partition("=")[0].partition(".")
            assert section in PARAMETERS
            assert not key or key in PARAMETERS[section]


@pytest.mark.parametrize("command", ELSEWHERE)
def test_command_that_no_test_can_run_is_run_elsewhere(command):
    assert command in (ROOT / ELSEWHERE[command]).read_text()


def test_script_does_what_a_reader_does(tmp_path):
    document = tmp_path / "page.md"
    document.write_text(
        "# A page\n\n```\nmake test   # elsewhere\necho one \\\n  two  # a comment\n```\n"
        "<!-- needs: gpu -->\n```\nrender\n```\n\n"
        "1. In a list:\n\n   ```\n   echo three\n   ```\n\n"
        "<!-- append: notes.txt -->\n```python\nx = 'y'\n```\n\n```csv\na,b\n```\n"
        "```python\nprint(4)\n```\n"
    )
    found = [block for block in blocks(document)]
    assert [block.needs for block in found[:3]] == [set(), {"gpu"}, set()]
    assert [commands(block) for block in found[:3]] == [
        ["make test", "echo one two"],
        ["render"],
        ["echo three"],
    ]

    done = subprocess.run(
        ["bash", "-euc", script(document)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "one two\nthree\n4\n"
    assert (tmp_path / "notes.txt").read_text() == "\n\nx = 'y'\n"


@pytest.mark.parametrize("page", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in PAGES])
def test_every_link_of_a_page_leads_somewhere(page: Path):
    for link in links(page):
        target, _, anchor = link.partition("#")
        found = page.parent / target if target else page
        assert found.exists(), link
        assert not anchor or anchor in anchors(found), link


def links(page: Path) -> list[str]:
    """The targets of links and images that are not on the web."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    inline = [child for token in tokens for child in token.children or []]
    found = [str(token.attrGet("href") or token.attrGet("src") or "") for token in inline]
    return [link for link in found if link and not link.startswith(("http:", "https:"))]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_that_code_or_parameters_name_exists():
    files = [ROOT / name for name in ("params.yaml", "Makefile", ".ci/run", "dvc.yaml")]
    for folder in ("genie", "stages", "zoo", "benchmarks", "protocols"):
        files += [p for p in (ROOT / folder).rglob("*") if p.suffix in CODE]
    for file in files:
        for page in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8")):
            assert (ROOT / page).is_file(), f"{file.relative_to(ROOT)} names {page}"


def test_guide_and_readme_stay_short():
    guide = (ROOT / "docs/guide").glob("*.md")
    assert sum(len(page.read_text().split()) for page in guide) <= 5_200
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


def test_table_of_methods_is_the_generated_one():
    assert methods_table() in (ROOT / "docs/reference/methods.md").read_text()


def test_snippet_of_the_readme_is_that_of_the_docstring():
    (block,) = (b for b in blocks(ROOT / "README.md") if b.language == "python")
    examples = doctest.DocTestParser().get_examples(genie.__doc__ or "")
    assert [line for line in block.code.splitlines() if line] == [
        line for example in examples for line in example.source.splitlines()
    ]


def test_glossary_has_each_term_once():
    text = (ROOT / "docs/reference/design.md").read_text().partition("Glossary\n\nOne word")[2]
    terms = re.findall(r"^\| (.*?) \| ", text, re.MULTILINE)[1:]
    assert 20 < len(terms) == len(set(terms)) <= 45
