"""Copy what a notebook promotes into its modules: python -m tests.promote 03

Every function or method of a cell tagged `promoted` replaces its namesake in helpers/. The namesake keeps its own
docstring, which says more than there is room for in a lesson. A new function has to be put into its module once by hand.
"""

import ast
import sys
from pathlib import Path

from .notebooks import NOTEBOOKS, ROOT, definitions, functions, promoted, read, shape


def span(function: ast.FunctionDef) -> slice:
    """Its lines, decorators included."""
    return slice(min(node.lineno for node in (function, *function.decorator_list)) - 1, function.end_lineno)


def docstring(function: ast.FunctionDef) -> slice:
    """The lines of its docstring within its own; an empty slice where the body starts if it has none."""
    first, start = function.body[0], span(function).start
    if ast.get_docstring(function) is None:
        return slice(first.lineno - 1 - start, first.lineno - 1 - start)
    return slice(first.lineno - 1 - start, first.end_lineno - start)


def promote(notebook: dict, modules: dict[Path, str]) -> dict[Path, str]:
    """The modules (path -> source) that change, with what the notebook's promoted cells say.

    Raises ValueError for a function that no module, or more than one, holds.
    """
    changed = {}
    for name, mine, code in promoted(notebook):
        modules = modules | changed
        found = [
            (path, function)
            for path, module in modules.items()
            for node in definitions(module).values()
            for their_name, function in functions(node)
            if their_name == name
        ]
        if any(shape(function) == shape(mine) for _, function in found):
            continue
        if len(found) != 1:
            where = ", ".join(path.name for path, _ in found) or "no module"
            raise ValueError(f"{name} stands in {where}; put it into one module of helpers/ by hand first")
        path, theirs = found[0]
        lines, new = modules[path].split("\n"), code.split("\n")[span(mine)]
        new[docstring(mine)] = lines[span(theirs)][docstring(theirs)]
        lines[span(theirs)] = new
        changed[path] = "\n".join(lines)
    return changed


if __name__ == "__main__":
    sources = {path: path.read_text(encoding="utf-8") for path in sorted((ROOT / "helpers").rglob("*.py"))}
    for notebook in NOTEBOOKS:
        if notebook.name[:2] in sys.argv[1:]:
            try:
                for path, code in promote(read(notebook), sources).items():
                    path.write_text(code, encoding="utf-8")
                    print(f"{notebook.name} -> {path.relative_to(ROOT)}")
            except ValueError as error:
                sys.exit(f"{notebook.name}: {error}")
