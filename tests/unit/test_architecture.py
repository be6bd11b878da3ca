"""The rooms and the imports between them, read from the sources: `ls` is the architecture, and imports go one way."""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

# Whom each room may import, beside itself. A room is a folder of icr_platform/, of icr_platform/engines/ or of ui/.
ENGINES = {
    "engines.sampling", "engines.scoring", "engines.judging", "engines.identification", "engines.segmentation", "engines.execution", "engines.endpoints",
}  # fmt: skip
STAGES = {"generation", "translation", "annotation", "training", "evaluation"}
FLOOR = {"core", "models", "data"}  # what all four stages stand on, together with the engines
ALLOWED: dict[str, set[str]] = {
    "core": set(),
    "models": {"core"},
    "data": {"core", "models"},
    "engines.execution": {"core"},
    "engines.identification": {"core"},
    "engines.segmentation": {"core"},
    "engines.endpoints": {"core"},
    "engines.scoring": {"core", "models", "engines.execution"},
    "engines.judging": {"core", "models", "engines.endpoints"},
    "engines.sampling": {
        "core",
        "models",
        "engines.endpoints",
        "engines.execution",
        "engines.identification",
        "engines.scoring",
    },
    **dict.fromkeys(STAGES, FLOOR | ENGINES),
    "evaluation": FLOOR | ENGINES | {"report"},  # the radar lies within the ratings
    "tracking": {"core"},
    "report": {"core"},
    "pipeline": FLOOR | ENGINES | STAGES | {"tracking", "report"},
    "planning": FLOOR | ENGINES | STAGES | {"pipeline"},
    "demo": FLOOR | ENGINES | STAGES,
    # `evaluation`: what marks lines in another language is handed to the inspector, as the demo's parts are to the stages.
    "cli": {"core", "pipeline", "planning", "tracking", "report", "demo", "evaluation", "ui.server"},
    "ui.html": {"core", "report"},
    "ui.tables": {
        "core",
        "data",
        "evaluation",
        "tracking",
    },  # the statistics of a comparison are those of `icr compare`
    "ui.review": {"core", "ui.html", "ui.tables"},
    "ui.pages": {"core", "tracking", "report", "ui.html", "ui.tables", "ui.review"},
    "ui.server": {"core", "tracking", "report", "ui.html", "ui.tables", "ui.review", "ui.pages"},
}
BESIDE_THE_ROOMS = {"icr_platform.__main__": {"cli"}}
"""What the modules beside the rooms may import."""

# Found today, and only ever fewer: what is gone must leave these lists too.
KNOWN_IMPORTS: set[tuple[str, str]] = set()
KNOWN_CIRCLES: set[frozenset[str]] = set()

# Libraries that are not anyone's engine: arrays, tables, files, text. All others are imported in exactly one room.
COMMON = {
    "filelock", "fsspec", "jinja2", "markupsafe", "numpy", "pandas", "psutil", "pyarrow", "pydantic", "rapidfuzz", "regex", "rich",
    "safetensors", "torch", "transformers", "yaml",
}  # fmt: skip
EXCEPTIONS = {
    ("sqlalchemy", "tracking"): "MLflow's database migration raises SQLAlchemy's errors",
    ("datasets", "training"): "TRL takes pairs as a Dataset only",
    ("trl", "engines.scoring"): "its kernel for log-probabilities, on a GPU",
}
STAGE_CONFIGS = {
    "GenerateConfig",
    "TranslateConfig",
    "AnnotateConfig",
    "TrainConfig",
    "SftConfig",
    "EvalConfig",
    "MtBenchConfig",
    "InstructionsConfig",
    "BenchmarksConfig",
    "RewardBenchConfig",
    "IterateConfig",
}
KNOWN_STAGE_CONFIGS_IN_ENGINES: set[tuple[str, str]] = set()


class Import(NamedTuple):
    """importer and imported: modules by full name (imported: a third-party package by its own)."""

    importer: str
    imported: str


def sources() -> dict[str, Path]:
    """Every module of icr_platform and ui by full name."""
    found = {}
    for top in ("icr_platform", "ui"):
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found[name] = path
    return found


def imports_of(module: str, source: str, modules: set[str], is_package: bool = False) -> Iterator[Import]:
    """Every import of a module: at its top, within functions, and for type checkers alone.

    >>> [i.imported for i in imports_of("a.b", "from a import c\\nimport numpy.linalg", {"a", "a.b", "a.c"})]
    ['a.c', 'numpy']
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".") if is_package else module.split(".")[:-1]
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            known = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
            yield Import(module, next((ours for ours in known if ours in modules), parts[0]))


@cache
def all_imports() -> frozenset[Import]:
    paths = sources()
    return frozenset(
        found
        for module, path in paths.items()
        for found in imports_of(module, path.read_text(encoding="utf-8"), set(paths), path.name == "__init__.py")
    )


def room(module: str) -> str:
    """Room of a module of ours; '' for what stands beside the rooms.

    >>> room("icr_platform.engines.sampling.response_parts"), room("icr_platform.core.errors"), room("ui.pages"), room("icr_platform")
    ('engines.sampling', 'core', 'ui.pages', '')
    """
    top, *rest = module.split(".")
    if not rest or rest[0].startswith("__"):
        return ""
    if top == "ui":
        return f"ui.{rest[0]}"
    return ".".join(rest[:2]) if rest[0] == "engines" else rest[0]


def is_allowed(found: Import) -> bool:
    importer, imported = room(found.importer), room(found.imported)
    if not imported or importer == imported:  # the package itself is its version, which anyone may have
        return True
    allowed = ALLOWED[importer] if importer else BESIDE_THE_ROOMS.get(found.importer, set())
    return imported in allowed


def circles(edges: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of modules that import each other, directly or not (Tarjan's strongly connected components of two or more).

    >>> sorted(map(sorted, circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"d"}})))
    [['b', 'c']]
    """
    number: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: set[frozenset[str]] = set()

    def visit(name: str) -> None:
        number[name] = lowest[name] = len(number)
        stack.append(name)
        for other in edges.get(name, ()):
            if other not in number:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], number[other])
        if lowest[name] == number[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.add(frozenset(group))

    for name in edges:
        if name not in number:
            visit(name)
    return found


def test_beside_the_rooms_is_nothing_else() -> None:
    for top, files in (
        ("icr_platform", {"__init__.py", "__main__.py", "py.typed", "README.md", "LICENSE"}),
        ("ui", {"__init__.py"}),
    ):
        found = [path for path in (ROOT / top).iterdir() if path.name != "__pycache__"]
        assert {path.name for path in found if path.is_file()} <= files
        folders = {path.name for path in found if path.is_dir()}
        assert len(folders) <= 15
        rooms = {name.removeprefix("ui.") for name in ALLOWED if name.startswith("ui.") == (top == "ui")}
        assert folders == {name.split(".")[0] for name in rooms}, (
            "a room without a line in ALLOWED, or a line without a room"
        )
    assert {path.name for path in (ROOT / "icr_platform" / "engines").iterdir() if path.is_dir()} - {"__pycache__"} == {
        name.removeprefix("engines.") for name in ENGINES
    }


def test_rooms_import_only_what_lies_below_them() -> None:
    modules = set(sources())
    found = {(i.importer, i.imported) for i in all_imports() if i.imported in modules and not is_allowed(i)}
    new, gone = found - KNOWN_IMPORTS, KNOWN_IMPORTS - found
    assert not new, "imports against the direction:\n" + "\n".join(f"{a} -> {b}" for a, b in sorted(new))
    assert not gone, f"these are gone, take them out of KNOWN_IMPORTS: {sorted(gone)}"


def test_the_allowed_imports_go_one_way() -> None:
    assert not circles(ALLOWED)
    assert all(not ALLOWED[stage] & (STAGES - {stage}) for stage in STAGES)
    assert all("demo" not in allowed for name, allowed in ALLOWED.items() if name != "cli")


def mentions_of_the_demo(source: str) -> list[str]:
    """Comments and strings, docstrings included, that speak of the demo; to name its preset in a command is none.

    >>> mentions_of_the_demo("x = f'{1}demo:prompts'  # a demonstration" + chr(10) + "y = 'demos'  # for the demo")
    ['# for the demo', 'demo:prompts']
    """
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = [token.string for token in tokens if token.type == tokenize.COMMENT]
    strings = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    return [
        text
        for text in (*comments, *strings)
        if isinstance(text, str) and re.search(r"(?<!--config )\bdemo\b", text, re.IGNORECASE)
    ]


def test_no_other_room_knows_the_demo() -> None:
    """Its judge, its identifier and its inputs are handed in, by one module of the command line."""
    found = {
        name: mentions_of_the_demo(path.read_text(encoding="utf-8"))
        for name, path in sources().items()
        if room(name) not in ("demo", "cli")
    }
    assert {name: said for name, said in found.items() if said} == {}
    importers = {i.importer for i in all_imports() if room(i.imported) == "demo" != room(i.importer)}
    assert importers == {"icr_platform.cli.worlds"}


def test_no_module_imports_itself_through_others() -> None:
    modules = set(sources())
    edges: dict[str, set[str]] = {name: set() for name in modules}
    for found in all_imports():
        if found.imported in modules and found.imported != found.importer:
            edges[found.importer].add(found.imported)
    found_circles = circles(edges)
    shown = "\n".join(" <-> ".join(sorted(group)) for group in found_circles - KNOWN_CIRCLES)
    assert not found_circles - KNOWN_CIRCLES, f"circles:\n{shown}"
    assert not KNOWN_CIRCLES - found_circles, "a circle is gone, take it out of KNOWN_CIRCLES"


def test_each_engine_is_imported_in_one_room() -> None:
    ours, rooms = set(sources()), defaultdict(set)
    for found in all_imports():
        name = found.imported
        is_foreign = name not in ours and name not in sys.stdlib_module_names
        if is_foreign and name not in COMMON and (name, room(found.importer)) not in EXCEPTIONS:
            rooms[name].add(room(found.importer))
    shared = {name: sorted(where) for name, where in rooms.items() if len(where) > 1}
    assert not shared
    assert rooms["openai"] == {"engines.endpoints"}
    assert rooms["mlflow"] == {"tracking"}
    assert rooms["ray"] == {"engines.execution"}
    assert rooms["vllm"] == {"engines.sampling"}
    assert rooms["trl"] == {"training"}
    assert rooms["gradio"] == {"ui.server"}


def test_engines_take_their_own_settings() -> None:
    """An engine that knows a stage's configuration cannot serve another stage."""
    found = {
        (name, alias.name)
        for name, path in sources().items()
        if room(name) in ENGINES | FLOOR - {"core"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name in STAGE_CONFIGS
    }
    assert found == KNOWN_STAGE_CONFIGS_IN_ENGINES


def test_types_of_arrays_and_the_width_of_intervals_are_declared_once() -> None:
    declaring = {"NDArray": "icr_platform.core.arrays", "1.95": "icr_platform.core.intervals"}
    declaring["1.96"] = declaring["1.95"]
    for text, owner in declaring.items():
        found = {name for name, path in sources().items() if text in path.read_text(encoding="utf-8")}
        assert found <= {owner}, f"{text}: take it from {owner}"


@pytest.mark.parametrize(
    ("importer", "source", "wrong"),
    [
        ("icr_platform.evaluation.x", "def f():\n    from icr_platform.generation import stage", True),
        ("icr_platform.evaluation.x", "if TYPE_CHECKING:\n    import icr_platform.generation.stage", True),
        ("icr_platform.evaluation.x", "from ..generation.stage import run", True),
        ("icr_platform.core.x", "from icr_platform.pipeline.runner import run_stage", True),
        ("icr_platform.pipeline.x", "from icr_platform.demo.bootstrap import prepare", True),
        ("icr_platform.core.x", "from icr_platform import __version__", False),
        ("icr_platform.evaluation.x", "from icr_platform.engines.judging.pairwise import Pair", False),
        ("ui.tables.x", "from ui.pages import shell", True),
    ],
)
def test_the_test_sees(importer: str, source: str, wrong: bool) -> None:
    ours = [found for found in imports_of(importer, source, set(sources())) if found.imported in sources()]
    assert [is_allowed(found) for found in ours] == [not wrong]
