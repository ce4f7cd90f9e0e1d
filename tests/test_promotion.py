"""What a notebook promotes is what `helpers` holds, method by method; later notebooks import it."""

import ast
from functools import cache
from pathlib import Path

import pytest

from .notebooks import NOTEBOOKS, ROOT, code_cells, definitions, functions, promoted, read, shape, source, tags
from .promote import promote


@cache
def helper_functions() -> dict[str, list[str]]:
    """Qualified name -> the shapes found under it in helpers/."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for name, function in functions(node):
                    found.setdefault(name, []).append(shape(function))
    return found


def test_promoted_code_is_the_helpers_code():
    checked = 0
    for path in NOTEBOOKS:
        for name, function, _ in promoted(read(path)):
            assert name in helper_functions(), f"{path.name} promotes {name}, which helpers/ does not have"
            assert shape(function) in helper_functions()[name], (
                f"{path.name}: {name} differs from its namesake in helpers/"
            )
            checked += 1
    assert checked >= 20


def test_every_chapter_from_01_on_promotes():
    for path in NOTEBOOKS[1:]:
        assert list(promoted(read(path))), f"{path.name} promotes nothing"


def test_later_notebooks_do_not_redefine_what_was_promoted():
    owners: dict[str, str] = {}
    for path in NOTEBOOKS:
        here = {name.split(".")[0] for name, *_ in promoted(read(path))}
        for cell in code_cells(read(path)):
            for name in definitions(source(cell)):
                assert name not in owners, f"{path.name} defines {name} again; {owners[name]} has promoted it"
        owners |= dict.fromkeys(here, path.name)


def test_at_most_five_cells_agree_instead_of_being_copied():
    agreeing = [path.name for path in NOTEBOOKS for cell in code_cells(read(path)) if "agrees" in tags(cell)]
    assert len(agreeing) <= 5, agreeing


CELL = '''import math
@cache
def area(r):
    """Short."""
    return math.pi * r**2  # round
class Box:
    def __init__(self, side):
        self.side = side
'''
MODULE = '''def area(r):
    """Long.

    Longer.
    """
    return 3 * r * r


class Box:
    def __init__(self, side):
        """Of a side."""
        self.side = 2 * side

    def volume(self):
        return self.side**3
'''
PROMOTED = '''@cache
def area(r):
    """Long.

    Longer.
    """
    return math.pi * r**2  # round


class Box:
    def __init__(self, side):
        """Of a side."""
        self.side = side

    def volume(self):
        return self.side**3
'''


def test_promoting_copies_the_code_and_keeps_the_docstring():
    def notebook(code, tag="promoted"):
        return {"cells": [{"cell_type": "code", "metadata": {"tags": [tag]}, "source": [code]}]}

    path = Path("shapes.py")
    assert promote(notebook(CELL), {path: MODULE}) == {path: PROMOTED}
    assert promote(notebook(CELL), {path: PROMOTED}) == {}
    assert promote(notebook(CELL, tag="agrees"), {path: MODULE}) == {}
    with pytest.raises(ValueError, match="cube stands in no module"):
        promote(notebook("def cube(a):\n    return a**3"), {path: MODULE})
    with pytest.raises(ValueError, match=r"area stands in shapes.py, more.py"):
        promote(notebook(CELL), {path: MODULE, Path("more.py"): MODULE})
