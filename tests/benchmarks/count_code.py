"""How the code reads, in figures: `python tests/benchmarks/count_code.py [--list] [--json PATH] [FOLDER ...]`.

Of all functions, methods and nested ones included, the share of private ones that are used at one place only; the share of lines
that hold a comment; the median length of a function. Bounds to keep: under 18%, over 3%, under 15 lines. --list names the functions
that are used once, the shortest first: those are the first to fold back into their callers.

"By name": the name is written twice in all files, where it is defined and where it is used; a name that two modules have is not
counted. "By module": the function's own module mentions it once outside of its body, whatever other modules call the same. Lines are
those that are not blank; docstrings are no comments; comments for tools (noqa, type, fmt) are counted apart.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import statistics
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    """path, line: where it is defined. lines: with decorators and docstring. uses: mentions of its name outside of its body."""

    path: str
    line: int
    name: str
    lines: int
    uses: int

    @property
    def is_private(self) -> bool:
        return self.name.startswith("_") and not self.name.startswith("__")


class Figures(NamedTuple):
    """Percentages of functions and of lines; median in lines."""

    functions: int
    used_once_by_name: float
    used_once_by_module: float
    lines: int
    comment_lines: float
    comment_lines_for_people: float
    median_length: float
    longest: int


def functions_of(source: str, path: str) -> list[Function]:
    """Every function of a module.

    >>> [(f.name, f.uses) for f in functions_of("def _a(): return _a()\\ndef b(): return _a() + _a\\nx = b", "m.py")]
    [('_a', 2), ('b', 1)]
    """
    tree = ast.parse(source)
    return [
        Function(path, node.lineno, node.name, _length(node), len(mentions(tree, node.name, node)))
        for node in ast.walk(tree)
        if isinstance(node, AnyFunction)
    ]


def mentions(tree: ast.AST, name: str, apart_from: AnyFunction) -> list[ast.AST]:
    """Where `name` is read, as a variable or as an attribute, outside of the function of that name."""
    inside = {id(node) for node in ast.walk(apart_from)}
    return [
        node
        for node in ast.walk(tree)
        if id(node) not in inside
        and (
            (isinstance(node, ast.Name) and node.id == name) or (isinstance(node, ast.Attribute) and node.attr == name)
        )
    ]


def _length(node: AnyFunction) -> int:
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return (node.end_lineno or node.lineno) - first + 1


def comments_of(source: str) -> list[bool]:
    """One entry per line that holds a comment, alone or behind code: whether a person is meant, not a tool.

    >>> comments_of("# why\\nx = 1  # noqa: E1\\ny = '#'  # how\\n")
    [True, False, True]
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [
        not token.string.lstrip("# ").startswith(("noqa", "type:", "fmt:", "pragma", "!"))
        for token in tokens
        if token.type == tokenize.COMMENT
    ]


def count(folders: list[Path]) -> tuple[Figures, list[Function]]:
    """The figures of all Python files below some folders, and their functions."""
    functions: list[Function] = []
    words: Counter[str] = Counter()
    comments: list[bool] = []
    lines = 0
    for path in _files(folders):
        source = path.read_text(encoding="utf-8")
        functions += functions_of(source, str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path))
        words.update(re.findall(r"\w+", source))
        comments += comments_of(source)
        lines += sum(bool(line.strip()) for line in source.splitlines())
    if not functions:
        sys.exit("no functions there")
    private = [function for function in functions if function.is_private]
    lengths = [function.lines for function in functions]
    return (
        Figures(
            functions=len(functions),
            used_once_by_name=100 * sum(words[function.name] == 2 for function in private) / len(functions),
            used_once_by_module=100 * sum(function.uses == 1 for function in private) / len(functions),
            lines=lines,
            comment_lines=100 * len(comments) / lines,
            comment_lines_for_people=100 * sum(comments) / lines,
            median_length=statistics.median(lengths),
            longest=max(lengths),
        ),
        functions,
    )


def _files(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from sorted(folder.rglob("*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, default=[ROOT / "icr_platform", ROOT / "ui"])
    parser.add_argument("--list", action="store_true", help="name the private functions that are used once")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there too")
    given = parser.parse_args()
    figures, functions = count([folder.resolve() for folder in given.folders])
    if given.list:
        once = [function for function in functions if function.is_private and function.uses == 1]
        for function in sorted(once, key=lambda function: (function.lines, function.path, function.line)):
            print(f"{function.lines:4} lines  {function.path}:{function.line}  {function.name}")
    by_name, by_module = figures.used_once_by_name, figures.used_once_by_module
    print(f"{figures.functions} functions; private and used once: {by_name:.1f}% by name, {by_module:.1f}% by module")
    for_people = figures.comment_lines_for_people
    print(f"{figures.lines} lines; with a comment: {figures.comment_lines:.1f}%, for people {for_people:.1f}%")
    print(f"length of a function: median {figures.median_length:g} lines, longest {figures.longest}")
    if given.json:
        given.json.write_text(json.dumps(figures._asdict(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
