"""docs/reference/reliability.md names a test for each fault, and the tests exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINES = (ROOT / "docs/reference/reliability.md").read_text().splitlines()
ROWS = [
    line
    for line, above in zip(LINES[1:], LINES, strict=False)
    if line.startswith("|") and above.startswith("|") and not line.startswith("|--")
]
NAMES = sorted({name for row in ROWS for name in re.findall(r"`(tests/[^`]+\.py::\w+)`", row)})


def test_every_fault_has_a_test():
    assert len(ROWS) > 40
    for row in ROWS:
        assert len(row.strip("|").split(" | ")) == 3, row
        assert "::test_" in row, row


@pytest.mark.parametrize("name", NAMES)
def test_named_test_exists(name):
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
