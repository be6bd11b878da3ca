"""`icr compare`: two or more sides, each against the first; on the terminal, as LaTeX, CSV or an HTML page."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.cli.flags import Parser, add_flags_of, joined
from icr_platform.cli.worlds import WORLDS
from icr_platform.core.artifacts import atomic_path
from icr_platform.core.config import nest, validate
from icr_platform.core.errors import InputError
from icr_platform.pipeline.compare_settings import CompareSettings
from icr_platform.pipeline.session import RunOptions, Session, open_session

if TYPE_CHECKING:
    from icr_platform.pipeline.compare import Comparison
    from icr_platform.report.comparison import Examples

HELP = """\
Compare arms, iterations, runs or files of outputs, each with the first: per language and over languages, paired by prompt and seed.

SIDE is an arm's name (all its seeds), the id of a run, RUN@ITERATION, a sweep (each of its arms), an artifact's folder, or outputs in any \
layout that `icr eval --outputs` takes. With --judge, the outputs of all sides are judged now: each against --reference-outputs, or \
against those of the first side."""
_EXAMPLES = """\
icr compare icr random
icr compare 1f2e3d4c@1 1f2e3d4c@2 --equivalence 2
icr compare 'outputs/{language}/a.json' 'outputs/{language}/b.json' --judge logprob --judge-model MODEL
icr compare my-sweep --format latex --output table.tex"""


def compare(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = Parser("icr compare", HELP, add_help=False, epilog=_EXAMPLES)
    parser.usage = "icr compare SIDE SIDE ... [--FLAG VALUE ...]"
    add_flags_of(parser, CompareSettings)
    if "-h" in arguments or "--help" in arguments:
        parser.print_help()
        return 0
    words = joined(arguments, parser._option_string_actions)
    sides = [word for word in words if not word.startswith("-")]
    values = {
        name: value
        for name, value in vars(parser.parse_args([word for word in words if word.startswith("-")])).items()
        if value is not None
    }
    options = validate(
        RunOptions, {name: values[name] for name in RunOptions.model_fields if name in values}, "icr compare"
    )
    own = {name: value for name, value in values.items() if name not in RunOptions.model_fields}
    settings = validate(CompareSettings, nest(own), "icr compare", WORLDS)
    if not options.tracking:
        raise InputError("icr compare: sides and judgments are in MLflow; leave --no-tracking out")
    with closing(open_session(options, WORLDS)) as session:
        _compare(session, settings, sides)
    return 0


def _compare(session: Session, settings: CompareSettings, given: Sequence[str]) -> None:
    from icr_platform.pipeline.compare import compare_sides
    from icr_platform.pipeline.judged_sides import judge_sides
    from icr_platform.pipeline.sides import Store, open_sides
    from icr_platform.tracking.reader import TrackingReader

    assert session.tracker is not None
    output = session.base / Path(settings.output).expanduser() if settings.output else None
    if output is not None and not output.parent.is_dir():
        raise InputError(
            f"--output {settings.output}: there is no folder {output.parent}; make it, or give another place"
        )
    reader = TrackingReader(session.tracker.uri)
    with closing(reader):
        store = Store(reader, session.work / "artifacts", session.base, session.options.experiment)
        judged = judge_sides(session, settings, open_sides(store, given))
        found = compare_sides(
            judged.sides, session.resolver.local, margin=settings.equivalence, metrics=settings.metrics, languages=settings.languages,
            head_to_head=judged.head_to_head,
        )  # fmt: skip
        for note in (*judged.notes, *found.notes):
            print(f"compare: {note}", file=sys.stderr, flush=True)
        _show(settings, output, found, judged.notes)
    for stage in judged.stages:
        stage.clean_up()


def _examples(found: Comparison) -> list[Examples]:
    """What the first side and each other answered, of the first run of each: prompts whose verdict changed, and slices."""
    from icr_platform.evaluation.prompt_values import SLICES, example_rows, slice_table
    from icr_platform.report.comparison import Examples

    first, *others = found.sides
    shown = []
    for second in others:
        rows = example_rows(first.runs[0].open, second.runs[0].open)
        slices = {by: table for by in SLICES if len(table := slice_table(rows, by)) > 1}
        shown.append(Examples(first.name, second.name, rows, slices))
    return shown


def _show(settings: CompareSettings, output: Path | None, found: Comparison, notes: Sequence[str]) -> None:
    """Write the comparison in the format that was asked for, to a file or the terminal."""
    from rich.console import Console

    from icr_platform.report import comparison as shown

    everything = (*notes, *found.notes)
    if settings.format == "html":
        place = output or Path("comparison.html")
        tables = shown.comparison_html(found.table, found.margin, found.costs)
        sides = {side.name: ", ".join(run.label for run in side.runs) for side in found.sides}
        title = " and ".join(side.name for side in found.sides)
        shown.write_comparison(place, title, tables, sides, _examples(found), everything)
        print(f"comparison: {place}", flush=True)
        return
    written = sys.stdout if output is None else io.StringIO()
    if settings.format == "terminal":
        console = Console(file=written, width=None if written.isatty() else 140)
        for table in shown.comparison_terminal_tables(found.table, found.margin):
            console.print(table)
        if len(found.costs):
            console.print(shown.costs_terminal_table(found.costs))
    elif settings.format == "latex":
        written.write(shown.comparison_latex(found.table, found.margin, everything))
    else:
        written.write(shown.comparison_csv(found.table, found.costs))
    if output is not None and isinstance(written, io.StringIO):
        with atomic_path(output) as temporary:
            temporary.write_text(written.getvalue(), encoding="utf-8")
        print(f"comparison: {output}", flush=True)
