"""Digest of the code that makes a stage's numbers: its modules' syntax trees, without docstrings, comments and positions, and
the files that it names in the folder `data` next to it.

The modules are those that the stage's own reaches by imports, at their top or within functions, but for two kinds: plumbing,
which moves numbers and makes none, and engines that a configuration does not use.
"""

from __future__ import annotations

import ast
import hashlib
import os
import pkgutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import icr_platform
from icr_platform.core.artifacts import text_digest

_PACKAGE = "icr_platform"
# Rooms above the stages (pipeline, tracking, planning, cli) are not listed: no stage imports them.
PLUMBING = frozenset(
    f"{_PACKAGE}.{name}"
    for name in (
        "core.config", "core.template_arguments", "core.faults", "models.settings", "engines.sampling.settings", "engines.judging.settings", "engines.execution.settings", "engines.scoring.settings",  # defaults
        "generation.config", "translation.config", "annotation.config", "training.config", "evaluation.config", "evaluation.reward_bench_config",  # enter by value, help not at all
        "core.yaml_files", "core.errors", "core.failures", "core.progress", "core.spending", "core.stage_protocol", "core.parts", "core.arrays",  # what people see; the shape of calls and of arrays
        "core.schemas", "core.artifacts", "core.file_digests", "core.folder_content", "core.disk_rows",  # tables on disk
        "engines.execution.map_parts", "engines.scoring.part_jobs", "engines.scoring.machine_choice", "engines.execution.ray_pool", "engines.execution.forks", "core.cores", "core.measured_here", "core.parent_process", "core.part_job", "engines.execution.part_worker", "engines.execution.shared_folder",  # where parts are made, not what is in them
        "core.secrets", "core.guarded_output",  # what people see
        "core.earlier",  # rows as they were made
        "report.figures", "report.calibration",  # draw what a stage measured
        "data.prompts", "data.verifiable", "data.constraints", "data.variant_parts", "data.verifiable_answers", "data.sources", "data.row_sources", "data.hub_sets", "data.text_pairs", "data.labelled_pairs", "data.bad_rows", "data.answered_rows", "data.text_documents", "data.row_files", "data.row_fields", "data.row_messages", "data.json_rows", "data.opened_files", "data.wording",  # readers: the rows they give are digested
        "annotation.prompt_index",  # the same
        "annotation.response_checks", "annotation.pair_notes", "engines.sampling.prompt_checks",  # raise, or say something
        "engines.endpoints.reply_cache", "engines.endpoints.served_model",  # the one keeps replies as they came, the other says whose they are
        "models.checkpoint_files", "models.hub", "models.loading_errors", "models.not_finite", "models.vocabulary",  # raise or do nothing
        "training.checkpoint", "training.checkpoint_work", "data.labelled_examples", "training.policy_checks", "training.loss_checks", "training.resume_points", "training.model_card", "training.launch",  # files, processes, prose
    )
)  # fmt: skip
_GIT_SECONDS = 10
_INSTALLED = {Path(path) for path in sysconfig.get_paths().values()}


@dataclass(frozen=True)
class Code:
    """The code that makes a stage's numbers.

    digest: of its modules' syntax trees.
    commit: what `git describe` says of a checkout, else "version X.Y.Z": for people, never compared.
    """

    digest: str
    commit: str


def code_of(modules: tuple[str, ...], unused: frozenset[str] = frozenset()) -> Code:
    """The code that the modules run.

    Args:
        modules: by their full names, such as a stage's.
        unused: modules and packages (with all below them) of engines that this configuration leaves alone.
    """
    return Code(_digest(modules, unused), commit())


@cache
def commit() -> str:
    """What `git describe` says of the checkout that this package runs from, with a mark when files differ from it; else its
    version."""
    root = Path(icr_platform.__file__).parent
    git = ["git", "-C", str(root)]
    try:
        # Installed below some other repository, the package is not one of its files, and that commit says nothing about it.
        for command in (
            ["ls-files", "--error-unmatch", "__init__.py"],
            ["describe", "--always", "--dirty", "--abbrev=12"],
        ):
            done = subprocess.run(
                [*git, *command], capture_output=True, text=True, check=True, timeout=_GIT_SECONDS
            )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return f"version {icr_platform.__version__}"
    return done.stdout.strip()


@cache
def _digest(modules: tuple[str, ...], unused: frozenset[str]) -> str:
    found = modules_of(modules, unused)
    trees = [_tree_digest(name) for name in found]
    if None in trees:  # installed without sources: nothing else tells versions of the code apart
        return text_digest("version", icr_platform.__version__)
    return text_digest(*(part for name, tree in zip(found, trees, strict=True) for part in (name, str(tree))))


def modules_of(modules: tuple[str, ...], unused: frozenset[str] = frozenset()) -> list[str]:
    """Names of the modules that `code_of` digests, sorted."""
    found: set[str] = set()
    left = list(modules)
    while left:
        name = left.pop()
        if name in found or name in PLUMBING or name == _PACKAGE or _is_below(name, unused):
            continue
        found.add(name)
        left += _imports(name)
    return sorted(found)


def _is_below(name: str, packages: frozenset[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@cache
def _tree(name: str) -> ast.Module | None:
    """The module's syntax tree; None without its source."""
    source = source_of(name)
    return ast.parse(source) if source is not None else None


def _spec(name: str) -> ModuleSpec | None:
    """How a module would be imported; None where there is none. Only the packages above it are imported for this."""
    try:
        return find_spec(name)
    except Exception:  # noqa: BLE001 - someone's own package may raise anything; the stage says so when it loads the part
        return None


def source_of(name: str) -> str | None:
    """The text of a module, which is not imported; None where only its bytecode is installed."""
    spec = _spec(name)
    loader = spec.loader if spec else None
    return loader.get_source(name) if isinstance(loader, InspectLoader) else None


@cache
def _tree_digest(name: str) -> str | None:
    tree = _tree(name)
    if tree is None:
        return None
    text = _data(name, tree)
    _write(tree, text)
    return hashlib.sha256("".join(text).encode("utf-8", "surrogatepass")).hexdigest()


def _data(name: str, tree: ast.Module) -> list[str]:
    """Name and digest of each file in the folder `data` of the module's package that the module has a string of."""
    package = name if _is_package(name) else name.rpartition(".")[0]
    if not package or not (folder := files(package) / "data").is_dir():
        return []
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = sorted((file for file in folder.iterdir() if file.name in strings), key=lambda file: file.name)
    return [f"{file.name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n" for file in named]


def _write(node: Any, text: list[str]) -> None:
    """The tree as text, the same under all versions of Python that parse it alike: empty fields and statements that are only
    a string (docstrings, those of attributes included) are left out."""
    if isinstance(node, ast.AST):
        text.append(f"({type(node).__name__}")
        for field in node._fields:
            value = getattr(node, field, None)
            if value is not None and value != [] and field not in ("kind", "type_comment"):
                text.append(f" {field}=")
                _write(value, text)
        text.append(")")
    elif isinstance(node, list):
        text.append("[")
        for value in node:
            if not _is_docstring(value):  # docstrings, those of attributes included, may be reworded freely
                _write(value, text)
        text.append("]")
    else:
        text.append(f"{type(node).__name__} {node!r} ")


def _is_docstring(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


@cache
def _imports(name: str) -> tuple[str, ...]:
    """Modules whose code counts that the module imports anywhere, but for what only type checkers see."""
    tree = _tree(name)
    return tuple(dict.fromkeys(_imported(tree, name))) if tree is not None else ()


def _imported(node: ast.AST, importer: str) -> Iterator[str]:
    # What only type checkers import never runs: `if TYPE_CHECKING:` or `if typing.TYPE_CHECKING:`.
    if isinstance(node, ast.If) and getattr(node.test, "id", getattr(node.test, "attr", None)) == "TYPE_CHECKING":
        for statement in node.orelse:
            yield from _imported(statement, importer)
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if _counts(alias.name, importer))
    elif isinstance(node, ast.ImportFrom):
        module = _absolute(node, importer)
        if _counts(module, importer):
            yield module
            yield from (name for alias in node.names if _is_module(name := f"{module}.{alias.name}"))
    for child in ast.iter_child_nodes(node):
        yield from _imported(child, importer)


def _absolute(node: ast.ImportFrom, importer: str) -> str:
    """The module that `from X import ...` names, relative ones included."""
    if not node.level:
        return node.module or ""
    package = importer if _is_package(importer) else importer.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def _counts(name: str, importer: str) -> bool:
    """Whether an imported module's code counts: if it is of this package or, where the importer is someone's own part, of the part's
    package or a file that lies with it."""
    top, own = name.partition(".")[0], importer.partition(".")[0]
    return top == _PACKAGE or (
        own != _PACKAGE and (top == own or _folder(top) == _folder(own) not in (None, *_INSTALLED))
    )


def _folder(top: str) -> Path | None:
    """Where a top-level module or package lies."""
    spec = _spec(top)
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return Path(spec.origin).parents[1 if spec.submodule_search_locations else 0]


def _is_package(name: str) -> bool:
    if _is_below(name, frozenset({_PACKAGE})):
        return _modules().get(name, False)
    spec = _spec(name)
    return spec is not None and spec.submodule_search_locations is not None


def _is_module(name: str) -> bool:
    return name in _modules() if _is_below(name, frozenset({_PACKAGE})) else _spec(name) is not None


@cache
def _modules() -> dict[str, bool]:
    """All modules of this package by full name, none of them imported, and whether each is a package."""
    found: dict[str, bool] = {}
    left = [(_PACKAGE, list(icr_platform.__path__))]
    while left:
        package, folders = left.pop()
        found[package] = True
        for info in pkgutil.iter_modules(folders):
            name = f"{package}.{info.name}"
            found[name] = info.ispkg
            if info.ispkg:
                left.append((name, [os.path.join(folder, info.name) for folder in folders]))
    return found
