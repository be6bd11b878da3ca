"""What commands take before they work: `python tests/benchmarks/bench_startup.py [--against FOLDER] [--rounds 3] [--imports] [--only NAME,...]`.

CPU and wall seconds, medians over rounds, of `icr --help`, the help of every entry point, `icr check demo`, `icr iterate --config demo` over
finished work, and `import mlflow` beside them. The demo runs once in each tree, and is what the finished work is of. With --against the
same commands run in another checkout, such as a git worktree of an older commit, in turn in each round.

--imports shows instead where the time of imports goes: the own time of all modules of a package, of the ten packages that take most.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parents[2]
ICR = ("-m", "icr_platform")
DEMO, FINISHED, CHECK, MLFLOW = "demo, first time", "iterate, finished work", "check demo", "import mlflow"
_IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| *([\w.]+)")


class Took(NamedTuple):
    """Seconds of a command and of the processes that it waited for."""

    cpu: float
    wall: float


class Tree(NamedTuple):
    """A checkout, and the folder in which its commands run, with an MLflow store of its own."""

    code: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        own = {"PYTHONPATH": str(self.code), "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"}
        return {**os.environ, **own, "PYTHONWARNINGS": "ignore"}

    def run(self, arguments: Sequence[str]) -> Took:
        with (self.folder / "last.log").open("wb") as log:
            start = time.monotonic()
            child = subprocess.Popen(
                [sys.executable, *arguments], cwd=self.folder, env=self.environment, stdout=log, stderr=log
            )
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            raise SystemExit(f"{' '.join(arguments)}: {(self.folder / 'last.log').read_text()[-2000:]}")
        return Took(used.ru_utime + used.ru_stime, time.monotonic() - start)


def commands() -> dict[str, tuple[str, ...]]:
    """Arguments of Python by the name of what is measured, in the order in which they run."""
    from icr_platform.cli.commands import TOOLS
    from icr_platform.pipeline.stages import CONFIGURED

    helps = {f"{name} --help": (*ICR, name, "--help") for name in (*CONFIGURED, *TOOLS)}
    return {
        "--help": (*ICR, "--help"), **helps,
        MLFLOW: ("-c", "import mlflow"),
        CHECK: (*ICR, "check", "demo"),
        DEMO: (*ICR, "iterate", "--config", "demo"),
        FINISHED: (*ICR, "iterate", "--config", "demo"),
    }  # fmt: skip


def measured(
    trees: Sequence[Tree], chosen: dict[str, tuple[str, ...]], rounds: int
) -> Iterator[tuple[str, list[Took]]]:
    """The medians of each command, a tree after the other."""
    for name, arguments in chosen.items():
        times: list[list[Took]] = [[] for _ in trees]
        if name not in (DEMO, MLFLOW) and "--help" not in name:
            for tree in trees:  # what is compiled or probed once is no part of it
                tree.run(arguments)
        for number in range(1 if name == DEMO else rounds):
            for place in range(len(trees)) if number % 2 == 0 else reversed(range(len(trees))):
                times[place].append(trees[place].run(arguments))
        yield name, [Took(*(statistics.median(side) for side in zip(*of, strict=True))) for of in times]


def show_imports(tree: Tree, name: str, arguments: Sequence[str]) -> None:
    """Print the ten packages whose modules take most."""
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        cwd=tree.folder, env=tree.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    own = Counter[str]()
    for line in answer.stderr.splitlines():
        if found := _IMPORTED.match(line):
            own[found[3].split(".")[0]] += int(found[1])
    most = ", ".join(f"{package} {took / 1e6:.2f}" for package, took in own.most_common(10))
    print(f"{name}: {own.total() / 1e6:.2f} s of imports: {most}", flush=True)


def main() -> None:
    """Measure, and print a line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--imports", action="store_true")
    parser.add_argument("--only", help="names of the table, comma-separated; iterate needs the demo before it")
    given = parser.parse_args()
    chosen = commands()
    if given.only:
        chosen = {name: of for name, of in chosen.items() if name in re.split(r",(?! )", given.only)}
    with tempfile.TemporaryDirectory() as temporary:
        codes = [given.against.resolve(), HERE] if given.against else [HERE]
        trees = [Tree(code, Path(temporary) / str(number)) for number, code in enumerate(codes)]
        for tree in trees:
            tree.folder.mkdir()
        if given.imports:
            for name, arguments in chosen.items():
                if name not in (DEMO, FINISHED):
                    show_imports(trees[-1], name, arguments)
            return
        heads = ("before", "after") if given.against else ("",)
        print(f"{'':<26}" + "".join(f"{f'{head} CPU s':>14}{f'{head} wall s':>15}" for head in heads), flush=True)
        for name, medians in measured(trees, chosen, given.rounds):
            print(f"{name:<26}" + "".join(f"{took.cpu:>14.2f}{took.wall:>15.2f}" for took in medians), flush=True)


if __name__ == "__main__":
    main()
