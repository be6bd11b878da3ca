"""What an arm shows: differences between iterations, learning curves, the table on the terminal and the HTML report."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from icr_platform.core.artifacts import atomic_path, file_digest, open_artifact, text_digest
from icr_platform.core.config import without_secrets
from icr_platform.core.errors import InputError
from icr_platform.core.parts import split_world
from icr_platform.pipeline.arm import Arm, arm_from_artifacts, earlier_run, key_of
from icr_platform.pipeline.cost import DEVICES, total
from icr_platform.pipeline.finished_work import notes_of
from icr_platform.pipeline.session import Session, StageRun
from icr_platform.pipeline.stopping import GAIN, GAIN_SINCE_START, measuring
from icr_platform.tracking.final_metrics import final_metrics

if TYPE_CHECKING:
    from markupsafe import Markup
    from rich.console import Console

    from icr_platform.pipeline.config import IterateConfig
    from icr_platform.report.arm_report import ExamplePair, Report
    from icr_platform.report.comparison import Answer
    from icr_platform.report.iteration_metrics import IterationMetrics
    from icr_platform.tracking.run_handle import RunHandle

# Tags of the runs that made a comparison or a report, and the files on which these depend in addition to the stage runs.
_COMPARISON, _COMPARING = (
    "icr.comparison",
    ("evaluation/comparison.py", "evaluation/comparison_tables.py", "evaluation/prompt_preferences.py"),
)
_FOLLOWED, _FOLLOWING = "icr.instructions", ("evaluation/instruction_scores.py",)
_PASSED, _PASSING = "icr.pass_rates", ("evaluation/confusion.py", "evaluation/confusion_table.py")
_CHANGE, _SINCE_START = "prompt_accuracy_change", "prompt_accuracy_change_since_0"
_GAINED, _GAINING = "icr.gain", ("evaluation/gains.py", "evaluation/comparison.py", "pipeline/stopping.py")
_REPORT, _REPORTING = (
    "icr.report",
    (
        "pipeline/arm.py", "pipeline/arm_results.py", "report/arm_report.py", "report/arm_report.html.j2", "report/run_description.py", "report/leaderboard.py", "report/published.csv",
        "report/comparison.py", "report/comparison.html.j2", "report/report.css", "evaluation/arm_comparison.py", "evaluation/prompt_values.py",
        "pipeline/compare.py",
        "report/iteration_metrics.py", "report/evidence.py", "report/figures.py", "report/svg.py", "report/charts.css", "report/numbers.py", "report/cost_table.py", *_COMPARING,
    ),
)  # fmt: skip

_BY_LANGUAGE = ("win_rate", "lc_win_rate", "fidelity", "mt_bench")
"""Metrics of which an arm's page has every language; of those _BY_MEAN it has the means."""
_BY_MEAN = tuple(
    f"{name}/"
    for name in (
        "win_rate_change", "line_pass_rate", "word_pass_rate", "truncated", "reward_accuracy", "own_reward_accuracy",
        "instruction_accuracy", "prompt_accuracy", "benchmark", "margin/median", "length_correlation", "chosen_longer", "length/characters",
    )
)  # fmt: skip


def compare_with_previous(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """Add paired differences from the iteration before, and the prompts that flipped, if a judge was asked.

    What an earlier command computed from the same two runs is not computed again: a tag names its run.
    """
    from icr_platform.core.schemas import JUDGMENTS
    from icr_platform.evaluation.comparison_tables import (
        change_metrics,
        difference_table,
        flip_table,
        judgments_by_language,
    )

    if iteration == 0 or arm.config.eval.judge == "none":
        return
    evals = [arm.stages[t, "eval"] for t in (iteration - 1, iteration)]
    key = key_of(evals, _COMPARING)
    if _take_earlier(session, arm, iteration, parent, evals, _COMPARISON, key, ("win_rate_change", "regressions/")):
        return
    before, after = (judgments_by_language(open_artifact(done.artifact("judgments"), JUDGMENTS)) for done in evals)
    differences, flips = difference_table(before, after), flip_table(before, after)
    _keep_changes(arm, iteration, change_metrics(differences, flips))
    if parent is not None:
        parent.log_table(differences, "comparison")
        parent.log_table(flips, "flipped_prompts")
        parent.log_text(flips.to_csv(index=False), "flipped_prompts.csv")  # whole; a table holds 1,000 rows at most
        parent.set_tags({_COMPARISON: key})


def compare_pass_rates(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """Add paired differences from the iteration before in the outputs whose lines, and words, are in the asked language.

    They are looked at again, because outputs that an earlier version finished have no table of their lines; what an earlier command
    computed from the same two runs is not computed again.
    """
    from icr_platform.core.schemas import OUTPUTS
    from icr_platform.evaluation.confusion import english_words
    from icr_platform.evaluation.confusion_table import confusion_parts, pass_rate_change_metrics, pass_rate_changes

    if iteration == 0:
        return
    evals = [arm.stages[t, "eval"] for t in (iteration - 1, iteration)]
    key = key_of(evals, _PASSING)
    names = ("line_pass_rate_change", "word_pass_rate_change")
    if _take_earlier(session, arm, iteration, parent, evals, _PASSED, key, names):
        return
    english = english_words(arm.config.eval.confusion_words)
    outputs = (open_artifact(done.artifact("outputs"), OUTPUTS) for done in evals)
    changes = pass_rate_changes(*(confusion_parts(side, english) for side in outputs))
    _keep_changes(arm, iteration, pass_rate_change_metrics(changes))
    if parent is not None:
        if len(changes):
            parent.log_table(changes, "pass_rate_changes")
        parent.set_tags({_PASSED: key})


def compare_instructions(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """Add paired differences in instructions followed: from the iteration before, and from pi_0 (`prompt_accuracy_change_since_0`).

    What an earlier command computed from the same runs is not computed again.
    """
    from icr_platform.core.schemas import INSTRUCTION_CHECKS
    from icr_platform.evaluation.instruction_scores import change_metrics, change_table, flip_table

    if iteration == 0:
        return
    runs = [arm.stages[t, "instructions"] for t in (0, iteration - 1, iteration)]
    key = key_of(runs, _FOLLOWING)
    if _take_earlier(session, arm, iteration, parent, runs, _FOLLOWED, key, ("prompt_accuracy_change",)):
        return
    first, before, after = (
        open_artifact(done.artifact("instruction_checks"), INSTRUCTION_CHECKS).read().to_pandas() for done in runs
    )
    changes, since_start = change_table(before, after), change_table(first, after)
    _keep_changes(arm, iteration, change_metrics(changes))
    _keep_changes(
        arm,
        iteration,
        {f"{_SINCE_START}{name.removeprefix(_CHANGE)}": value for name, value in change_metrics(since_start).items()},
    )
    if parent is not None:
        parent.log_table(changes, "instruction_changes")
        parent.log_table(since_start, "instruction_changes_since_0")
        parent.log_table(flip_table(before, after), "instruction_flips")
        parent.set_tags({_FOLLOWED: key})


def compare_gains(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """Add what the policy gained over non-English languages: `gain` against the iteration before, `gain_since_0` against pi_0, each
    in points with the ends of its interval, of what `stopping.measuring` names.

    What an earlier command computed from the same runs is not computed again.
    """
    from icr_platform.core.schemas import INSTRUCTION_CHECKS, JUDGMENTS, REWARD_BENCH
    from icr_platform.evaluation.gains import mean_gain, paired_scores

    measured = measuring(arm.config)
    if iteration == 0 or measured is None:
        return
    runs = [arm.stages[t, measured.stage] for t in (0, iteration - 1, iteration)]
    key = key_of(runs, _GAINING, measured.measure, measured.kind)
    if _take_earlier(session, arm, iteration, parent, runs, _GAINED, key, (GAIN,)):
        return
    schema = {table.name: table for table in (JUDGMENTS, INSTRUCTION_CHECKS, REWARD_BENCH)}[measured.artifact]
    first, before, after = (open_artifact(done.artifact(measured.artifact), schema) for done in runs)
    figures: dict[str, float] = {}
    for name, earlier in ((GAIN, before), (GAIN_SINCE_START, first)):
        found = mean_gain(paired_scores(measured.measure, earlier, after, measured.kind))
        figures |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    _keep_changes(arm, iteration, {name: value for name, value in figures.items() if not math.isnan(value)})
    if parent is not None:
        parent.set_tags({_GAINED: key, f"{_GAINED}_of": " ".join((measured.measure, measured.kind)).strip()})


def _take_earlier(
    session: Session,
    arm: Arm,
    iteration: int,
    parent: RunHandle | None,
    stages: Sequence[StageRun],
    tag: str,
    key: str,
    names: tuple[str, ...],
) -> bool:
    """Take the figures that an earlier command computed from the very same stage runs, and name its run; False without one.

    names: how those figures' names begin, among all that the run compared.
    """
    earlier = earlier_run(session, stages, tag, key)
    found = final_metrics(earlier) if earlier is not None else None
    if parent is None or earlier is None or found is None:
        return False
    arm.metrics[iteration].update({name: value for name, value in found.items() if name.startswith(names)})
    parent.set_tags({f"{tag}_run": earlier.info.run_id})
    return True


def _keep_changes(arm: Arm, iteration: int, figures: Mapping[str, float]) -> None:
    arm.changes.setdefault(iteration, {}).update(figures)
    arm.metrics[iteration].update(figures)


def show_own_samples(iteration: int, metrics: Mapping[str, float]) -> None:
    """Print how well the reward ranks the samples that an iteration is about to train on."""
    from rich.console import Console

    from icr_platform.report.terminal_tables import own_samples_terminal_table

    table = own_samples_terminal_table(iteration, metrics)
    if table.row_count:
        Console(width=None if sys.stdout.isatty() else 120).print(table)


def publish_figures(arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """Log the figures on the iteration run (MLflow's Compare page) and those that come first, by step, on the arm (its chart is the curve).

    Costs add up on the arm: its last value is what all of it cost.
    """
    arm.count_costs()
    figures, own = arm.metrics.get(iteration, {}), arm.costs.get(iteration, {})
    so_far = total(cost for t, cost in arm.costs.items() if t <= iteration)
    first = {name: value for name, value in figures.items() if is_headline(name)}
    for run, logged in ((parent, {**figures, **own}), (arm.run, {**first, **so_far})):
        if run is not None and logged:
            run.log_metrics(logged, iteration)
    if arm.run is not None and arm.devices:
        arm.run.set_tags({DEVICES: arm.devices})
    if parent is not None and iteration in arm.changes:
        parent.tag_final_metrics(arm.changes[iteration])


def is_headline(name: str) -> bool:
    """Whether a metric is one that arms are compared by at a glance: what an arm's page has beside costs.

    >>> [is_headline(name) for name in ("win_rate/es", "win_rate_se/es", "reward_accuracy/cross-lingual/mean", "gain_since_0_low")]
    [True, False, True, True]
    >>> [is_headline(name) for name in ("reward_accuracy/cross-lingual/es", "margin/median/mean", "dropped_samples/empty/mean")]
    [False, True, False]
    """
    family = name.partition("/")[0]
    if family in _BY_LANGUAGE or family.startswith("gain"):
        return True
    return name.startswith(_BY_MEAN) and name.rpartition("/")[2] in ("mean", "mean_non_english")


def show_earlier_report(session: Session, arm: Arm) -> bool:
    """Show the arm's figures and where the report is that an earlier command wrote of the same work; False without one."""
    earlier = earlier_run(session, arm.stages.values(), _REPORT, _report_key(arm))
    if session.tracker is None or arm.run is None or earlier is None:
        return False
    path = _report_path(session, arm)
    stored = session.tracker.stored(earlier, path.name)
    if stored is None:
        return False
    figures = figures_of(session, arm, with_texts=False)
    _show(arm, figures)
    describe(arm, figures, path.name, earlier.info.run_id)
    if path.exists() and file_digest(path) != earlier.data.tags.get(f"{_REPORT}_digest"):  # of another configuration
        with atomic_path(path) as temporary:
            shutil.copyfile(stored.folder(), temporary)
    arm.run.set_tags({f"{_REPORT}_run": earlier.info.run_id})
    elsewhere = f"{stored.reference} (`icr report {earlier.info.run_id}` writes it here)"
    print(f"report: {path if path.exists() else stored.local or elsewhere}", flush=True)
    return True


def write_arm_report(session: Session, arm: Arm) -> None:
    """Print the table on the terminal, and write and log the HTML report."""
    from icr_platform.report.arm_report import write_report

    report = figures_of(session, arm)
    _show(arm, report)
    path = _report_path(session, arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(path, report)
    if arm.run is not None:
        arm.run.log_file(path)
        arm.run.set_tags({_REPORT: _report_key(arm), f"{_REPORT}_digest": file_digest(path)})
        describe(arm, report, path.name, arm.run.run_id)
    print(f"report: {path}", flush=True)


def describe(arm: Arm, report: Report, name: str, holder: str) -> None:
    """Say on the arm's page what was run and what came out, with links. holder: the run that has the report, a file of this name."""
    from icr_platform.report.run_description import NOTE, what_came_out
    from icr_platform.tracking.run_handle import page_of_run

    if arm.run is None:
        return
    links = {"report": page_of_run(arm.run.experiment_id, holder, f"artifacts/{name}")}
    links |= {
        f"iteration {t}": page_of_run(arm.run.experiment_id, run_id) for t, run_id in sorted(arm.iteration_runs.items())
    }
    stopped = [f"It ended before its last iteration: {arm.stopped}."] if arm.stopped else []
    arm.run.set_tags(
        {NOTE: "\n\n".join([said_of(arm.given, report.iterations), *stopped, what_came_out(report.iterations, links)])}
    )


def said_of(config: IterateConfig, iterations: Sequence[IterationMetrics] = ()) -> str:
    """Markdown of what an arm of this configuration runs, and of what came of it."""
    from icr_platform.report.run_description import what_is_run

    count = config.iterations
    title = (
        f"Arm {config.arm}: {count} iteration{'' if count == 1 else 's'}"
        if count
        else f"Arm {config.arm}: pi_0 measured"
    )
    trained = {"loss": config.train.loss, "beta": config.train.beta, "learning rate": config.train.learning_rate}
    facts = {
        "policy": config.policy, "reference": config.reference, "prompts": config.preferences or config.prompts,
        "languages": config.languages, "reward": ",".join(config.annotate.reward_kind) if config.ranks_by_rewards else "",
        **(trained if count else {}), "judge": config.eval.judge, "seed": config.seed,
    }  # fmt: skip
    return what_is_run(title, facts, iterations)


def report_again(session: Session, run_id: str) -> None:
    """Rebuild the report of an arm from the artifacts of its runs alone.

    Raises:
        InputError: no such run, or it is not a finished arm.
    """
    write_arm_report(session, arm_from_artifacts(session, run_id))


def show_leaderboard(report: Report, run: RunHandle | None, console: Console) -> None:
    """Set the arm's policies next to the published figures: win rates on the terminal, both kinds as tables of the arm's run."""
    from icr_platform.report.arm_report import costs_of, policies_of
    from icr_platform.report.leaderboard import leaderboard
    from icr_platform.report.terminal_tables import leaderboard_terminal_table

    policies, costs = policies_of(report), costs_of(report)
    tables = {
        "x_alpacaeval": leaderboard(policies, "win_rate", costs),
        "x_alpacaeval_lc": leaderboard(policies, "lc_win_rate", costs),
    }
    if len(tables["x_alpacaeval"]):
        console.print(leaderboard_terminal_table(tables["x_alpacaeval"]))
    for name, table in tables.items():
        if run is not None and len(table):
            run.log_table(table, name)


def figures_of(session: Session, arm: Arm, with_texts: bool = True) -> Report:
    """What the report shows of a finished arm; with_texts: also its example pairs and notes, which may have to be fetched."""
    from icr_platform.report.arm_report import Report
    from icr_platform.report.iteration_metrics import IterationMetrics

    annotated = [t for t, step in sorted(arm.stages) if step == "annotate"] if with_texts else []
    noted = arm.stages.values() if with_texts else ()
    found, tracker = split_world(arm.given.prompts, session.worlds), session.tracker
    world = found[0] if found else None
    runs = {f"iteration {t}, {stage}": done.run.run_id for (t, stage), done in arm.stages.items() if done.run}
    compared = _last_against_first(session, arm) if with_texts else _NOT_COMPARED
    return Report(
        title=world.title if world else "Implicit cross-lingual rewarding",
        arm=arm.config.arm,
        iterations=[
            IterationMetrics(t, {**metrics, **arm.costs.get(t, {})}) for t, metrics in sorted(arm.metrics.items())
        ],
        devices=arm.devices,
        description=world.description if world else "",
        config_digest=text_digest(without_secrets(arm.given).model_dump_json())[:12],
        runs={"arm": arm.run.run_id, **runs} if arm.run else {},
        examples=[pair for t in annotated for pair in _examples(arm, t)],
        notes=[
            *([arm.stopped] if arm.stopped else []),
            *(note for done in noted for note in (notes_of(tracker, done) if tracker else done.result.notes)),
            *compared.notes,
        ],
        published=world is None,
        answer=compared.answer,
        comparison=compared.tables,
    )


class _LastAgainstFirst(NamedTuple):
    """What the last policy is against the first one, on everything that was measured of both; notes, such as why nothing is."""

    answer: Answer | None = None
    tables: Markup | None = None
    notes: tuple[str, ...] = ()


_NOT_COMPARED = _LastAgainstFirst()


def _last_against_first(session: Session, arm: Arm) -> _LastAgainstFirst:
    from icr_platform.pipeline.compare import compare_sides
    from icr_platform.pipeline.sides import side_of_arm
    from icr_platform.report.comparison import answer_of, comparison_html

    iterations = sorted({t for t, _ in arm.stages})
    sides = [side_of_arm(arm, t) for t in (iterations[0], iterations[-1])] if len(iterations) > 1 else []
    if not sides or not set(sides[0].runs[0].places) & set(sides[1].runs[0].places):
        return _NOT_COMPARED
    try:
        found = compare_sides(sides, session.resolver.local)
    except InputError as error:
        return _LastAgainstFirst(notes=(f"the last policy is not compared with the first: {error}",))
    return _LastAgainstFirst(answer_of(found.table), comparison_html(found.table, found.margin), found.notes)


def _examples(arm: Arm, iteration: int) -> list[ExamplePair]:
    """The pair of median margin of each language: typical, not picked."""
    from icr_platform.core.schemas import PREFERENCES
    from icr_platform.report.arm_report import ExamplePair

    preferences = open_artifact(arm.stages[iteration, "annotate"].artifact("preferences"), PREFERENCES)
    columns = ["language", "prompt_id", "instruction", "english_instruction", "chosen", "rejected", "margin"]
    rows = preferences.read(columns).to_pandas()
    pairs = []
    for _, group in rows.groupby("language", sort=False):
        typical = group.sort_values("margin", kind="stable").iloc[len(group) // 2]
        margin = None if typical["margin"] != typical["margin"] else float(typical["margin"])
        pairs.append(ExamplePair(iteration=iteration, **{**typical.to_dict(), "margin": margin}))
    return pairs


def _show(arm: Arm, report: Report) -> None:
    from rich.console import Console

    from icr_platform.report.terminal_tables import cost_terminal_table, evidence_terminal_tables, terminal_table

    prefix = "win_rate" if any("win_rate/mean" in measured.metrics for measured in report.iterations) else "fidelity"
    title = {"win_rate": "Win rate, %", "fidelity": "Outputs in the asked language, %"}[prefix]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(terminal_table(report.iterations, prefix, title))
    for table in evidence_terminal_tables(report.iterations):
        console.print(table)
    costs = cost_terminal_table(report.iterations, report.devices)
    if costs.row_count:
        console.print(costs)
    if report.published:
        show_leaderboard(report, arm.run, console)


def _report_path(session: Session, arm: Arm) -> Path:
    folder = Path(arm.config.output) if arm.config.output else session.base
    return folder / f"report-{arm.name}.html"


def _report_key(arm: Arm) -> str:
    stages = [done for _, done in sorted(arm.stages.items())]
    return key_of(stages, _REPORTING, without_secrets(arm.given).model_dump_json())
