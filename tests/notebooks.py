"""What the tests and tools know about the notebooks."""

import ast
import json
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(notebook: dict) -> list[dict]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tags(cell: dict) -> set[str]:
    return set(cell["metadata"].get("tags", []))


def definitions(code: str) -> dict[str, ast.AST]:
    """Top-level functions and classes by name; lines that only IPython understands are left out."""
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in code.split("\n")]
    body = ast.parse("\n".join(lines)).body
    return {node.name: node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


def functions(node: ast.AST) -> Iterator[tuple[str, ast.FunctionDef]]:
    """A function, or the methods of a class, under their qualified names."""
    if isinstance(node, ast.FunctionDef):
        yield node.name, node
    else:
        for child in node.body:
            if isinstance(child, ast.FunctionDef):
                yield f"{node.name}.{child.name}", child


def promoted(notebook: dict) -> Iterator[tuple[str, ast.FunctionDef, str]]:
    """Every function of the cells tagged `promoted`: (qualified name, node, the cell's source)."""
    for cell in code_cells(notebook):
        if "promoted" in tags(cell):
            defined = definitions(source(cell))
            assert defined, f"a cell is tagged `promoted` but defines nothing:\n{source(cell)}"
            for node in defined.values():
                for name, function in functions(node):
                    yield name, function, source(cell)


def shape(function: ast.FunctionDef) -> str:
    """What has to be equal: the code without docstrings, comments and layout."""
    function = ast.parse(ast.unparse(function)).body[0]
    for node in ast.walk(function):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(function, include_attributes=False)
