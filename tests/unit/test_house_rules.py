"""The rules of CONTRIBUTING that no linter checks."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = sorted((ROOT / "service").rglob("*.py"))
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
ARCHAIC = re.compile(
    r"\b(nobody|anew|somebody|shall|meanwhile|mend(s|ed|ing)?|whoever|perhaps|surely|beside)\b", re.IGNORECASE
)
MAX_PORT_METHODS = 8
MAX_FOLDER_FILES = 14
MAX_FUNCTION_LINES = 50
MAX_TERMS = 40


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _nodes(*kinds: type[ast.AST]) -> list[tuple[Path, ast.AST]]:
    return [(path, node) for path in CODE for node in ast.walk(_parse(path)) if isinstance(node, kinds)]


def test_code_and_documents_are_in_plain_english() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (*CODE, *DOCUMENTS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if ARCHAIC.search(line)
    ]
    assert found == []


def test_ports_are_narrow() -> None:
    wide = [
        node.name
        for _, node in _nodes(ast.ClassDef)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases)
        and sum(isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef) for member in node.body) > MAX_PORT_METHODS
    ]
    assert wide == []


def test_one_package_decodes_images() -> None:
    """Another decoder would show a model other pixels of the same file."""
    others = [path for path in CODE if "images" not in path.parent.parts]
    found = [path.name for path in others if re.search(r"\bImage\.open\(|ImageFile\(", path.read_text())]
    assert found == []


def test_folders_hold_few_files() -> None:
    counts = Counter(path.parent.relative_to(ROOT) for path in CODE if path.name != "__init__.py")
    assert {folder: count for folder, count in counts.items() if count > MAX_FOLDER_FILES} == {}


def test_functions_fit_on_a_screen() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path, node in _nodes(ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


def test_the_glossary_is_short() -> None:
    rows = re.findall(r"^\| (?!term|---)", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert len(rows) <= MAX_TERMS
