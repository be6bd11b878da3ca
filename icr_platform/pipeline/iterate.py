"""iterate: pi_0 -> pi_1 -> ... -> pi_T. Chains the stages, keeps one MLflow run per arm, iteration and stage."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.annotation.reward_kinds import needs_translations
from icr_platform.core.artifacts import atomic_path, file_digest, open_artifact, read_json, text_digest
from icr_platform.core.config import Config, validate
from icr_platform.core.errors import InputError, TrackingError, WeightsRemovedError
from icr_platform.core.parts import split_world
from icr_platform.models.removed_weights import removed_weights
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.identity import artifact_identity
from icr_platform.pipeline.runner import (
    Session,
    StageRun,
    code_tags,
    logged_params,
    notes_of,
    run_stage,
    stage_from_store,
    track_status,
)
from icr_platform.pipeline.schedule import generating_policy, iteration_seed, reward_reference
from icr_platform.tracking.final_metrics import final_metrics
from icr_platform.tracking.model_registry import forget_iterations, register_checkpoint
from icr_platform.tracking.removed_checkpoints import other_uses, remove_checkpoint, was_removed
from icr_platform.training.checkpoint import remove_weights
from icr_platform.training.config import TrainConfig

if TYPE_CHECKING:
    from rich.console import Console

    from icr_platform.report.arm_report import ExamplePair, Report
    from icr_platform.tracking.run_handle import RunHandle
    from icr_platform.tracking.tracker import Run

CONFIG = "config.json"
# Tags of the runs that made a comparison or a report, and of which files these depend on besides the stage runs.
_COMPARISON, _COMPARING = "icr.comparison", ("evaluation/comparison.py", "evaluation/changes.py")
_REPORT, _REPORTING = (
    "icr.report",
    (
        "pipeline/iterate.py", "report/arm_report.py", "report/arm_report.html.j2", "report/leaderboard.py", "report/published.csv",
        "report/iteration_metrics.py", "report/figures.py", "report/svg.py", "report/charts.css", "report/numbers.py", *_COMPARING,
    ),
)  # fmt: skip


@dataclass
class Arm:
    """One arm under way: its configuration as given and resolved, its run, pi_0 .. pi_t, and what each iteration measured."""

    given: IterateConfig
    config: IterateConfig
    run: RunHandle | None
    policies: list[str]
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    trainings: dict[int, TrainConfig] = field(default_factory=dict)
    stages: dict[tuple[int, str], StageRun] = field(default_factory=dict)
    changes: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics of the comparison with the iteration before, of those that were compared now."""


def iterate(session: Session, config: IterateConfig) -> Arm:
    """Run T iterations and evaluate every policy, pi_0 included.

    A stage that is FINISHED in MLflow, or in the work folder, with the same inputs and settings is not run again, so the same
    command goes on wherever an earlier one stopped.

    Raises:
        InputError: bad input, found before anything runs.
        IcrError: a stage failed; what is finished stays.
    """
    try:
        return _iterate(session, config)
    finally:
        session.close()


def _iterate(session: Session, config: IterateConfig) -> Arm:
    resolved = session.resolver.resolve(config, config.seed, fetch=False)
    if not session.resolver.known(resolved):  # else the stages check them, when they fetch them
        check_models(session, resolved)
    run = _start(session, config)
    arm = Arm(config, resolved, run, [resolved.policy])
    with track_status(run):
        for iteration in range(config.iterations + 1):
            with _iteration(session, arm, iteration) as parent:
                if iteration > 0:
                    _improve(session, arm, iteration, parent)
                if resolved.eval_prompts:
                    _evaluate(session, arm, iteration, parent)
                    _compare(session, arm, iteration, parent)
                _publish(arm, iteration, parent)
                for given_up in checkpoints_to_give_up(arm.config, iteration, arm.metrics):
                    _give_up(session, arm, given_up)
        if session.tracker is not None:
            forget_iterations(session.tracker, _model_of(arm), after=config.iterations)
        if not _found_report(session, arm):
            _report(session, arm)
    for stage in arm.stages.values():
        stage.clean_up()
    return arm


def check_models(session: Session, config: IterateConfig) -> tuple[str, ...]:
    """Check what the first stage does not look at, so that hours of it are not for nothing; loads no weights.

    Returns: lines for a person to read.

    Raises:
        InputError: policy and reference tokenise differently, or one of the models lacks tensors.
    """
    from icr_platform.models.loading import check_same_tokenisation, check_weights, load_tokenizer

    models = [config.policy, config.reference]
    check_same_tokenisation(config.policy, config.reference, config)
    if needs_translations(config.annotate.reward_kind) and config.annotate.translator:
        models.append(session.resolver.local(config.annotate.translator, config.seed))
        load_tokenizer(models[-1], config)
    return tuple(note for model in dict.fromkeys(models) for note in check_weights(model))


def _start(session: Session, config: IterateConfig) -> RunHandle | None:
    if session.tracker is None:
        return None
    run = session.tracker.start(config.arm, {"icr.kind": "arm", "icr.arm": config.arm, **code_tags()})
    run.log_params({f"iterate.{name}": value for name, value in logged_params(config).items()})
    run.log_text(config.model_dump_json(indent=1), CONFIG)
    return run


@contextmanager
def _iteration(session: Session, arm: Arm, iteration: int) -> Iterator[RunHandle | None]:
    if session.tracker is None:
        yield None
        return
    tags = {"icr.kind": "iteration", "icr.arm": arm.config.arm, "icr.iteration": iteration}
    run = session.tracker.start(f"{arm.config.arm} iteration {iteration}", tags, arm.run)
    run.log_params({"arm": arm.config.arm, "iteration": iteration})
    with track_status(run):
        yield run


def _improve(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    config = arm.config
    policy = generating_policy(arm.policies, iteration)
    reference = reward_reference(arm.policies, config.reference, iteration, config.reward_reference)
    seed = iteration_seed(config.seed, iteration)
    generated = _stage(session, arm, iteration, "generate", parent, config.generate_config(policy, seed))
    responses = generated.reference("responses")
    annotated = _stage(
        session, arm, iteration, "annotate", parent, config.annotate_config(policy, reference, responses, seed)
    )
    arm.trainings[iteration] = config.train_config(policy, annotated.reference("preferences"), seed)
    trained = _train(session, arm, iteration, parent)
    arm.policies.append(trained.reference("checkpoint"))


def _model_of(arm: Arm) -> str:
    """Name of the arm's registered model, whose aliases iteration-1 .. iteration-T are the policies in use."""
    return f"{arm.config.arm}-policy"


def _train(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> StageRun:
    trained = _stage(session, arm, iteration, "train", parent, arm.trainings[iteration])
    tracker = session.tracker
    if tracker is not None and trained.run is not None and not was_removed(tracker, trained.run.run_id):
        register_checkpoint(tracker, _model_of(arm), trained.run, iteration)
    return trained


def checkpoints_to_give_up(
    config: IterateConfig, iteration: int, metrics: Mapping[int, Mapping[str, float]]
) -> list[int]:
    """Iterations whose checkpoints `keep_checkpoints` gives up once `iteration` is evaluated. pi_0 is never among them.

    The next iteration starts from the last policy, and with reward_reference=previous scores under the one before. The best has
    the highest mean win rate, the later of equals; where none was measured it is the last.
    """
    if config.keep_checkpoints == "all":
        return []
    rates = {t: metrics.get(t, {}).get("win_rate/mean", math.nan) for t in range(1, iteration + 1)}
    judged = [t for t, rate in rates.items() if not math.isnan(rate)]
    is_best = config.keep_checkpoints == "best" and judged
    kept = {max(judged, key=lambda t: (rates[t], t)) if is_best else iteration}
    if iteration < config.iterations:
        kept |= {iteration, iteration - 1} if config.reward_reference == "previous" else {iteration}
    return [t for t in range(1, iteration + 1) if t not in kept]


def _give_up(session: Session, arm: Arm, iteration: int) -> None:
    """Remove a checkpoint's weights wherever they lie, unless they are another arm's or another alias leads to them."""
    trained, tracker = arm.stages[iteration, "train"], session.tracker
    name, alias = _model_of(arm), f"iteration-{iteration}"
    if tracker is None or trained.run is None:
        remove_weights(trained.artifact("checkpoint"))
        return
    if was_removed(tracker, trained.run.run_id):
        return
    uses = other_uses(tracker, trained.run.run_id, arm.config.arm, name, alias)
    if uses:
        print(f"iteration {iteration}: its checkpoint stays for {', '.join(uses)}", file=sys.stderr, flush=True)
        return
    folder = trained.artifact("checkpoint")
    names = remove_weights(folder)
    try:
        remove_checkpoint(tracker, trained.run.run_id, name, alias, folder, names)
        trained.run.tag_content(folder, "checkpoint", artifact_identity(folder, "checkpoint"))
    except TrackingError as error:  # a store that cannot delete must not end an iteration that is done
        print(f"iteration {iteration}: {error}", file=sys.stderr, flush=True)


def _with_weights(session: Session, arm: Arm, parent: RunHandle | None, config: Config) -> Config | None:
    """The stage's configuration after policies that it needs, and whose weights are gone, were trained again; None without any."""
    again = {}
    for name in ("policy", "reference"):
        value = getattr(config, name, "")
        if value in arm.policies[1:] and removed_weights(Path(session.resolver.local(value, arm.config.seed))):
            again[name] = _train_again(session, arm, parent, arm.policies.index(value))
    return config.model_copy(update=again) if again else None


def _train_again(session: Session, arm: Arm, parent: RunHandle | None, iteration: int) -> str:
    """The new checkpoint of an earlier iteration, whose weights were given up and are needed all the same."""
    gone = Path(arm.policies[iteration])
    for place in (session.work, Path(arm.config.output or session.work).resolve()):
        if gone.is_relative_to(place):  # else it is MLflow's, where the run keeps what is left of it
            shutil.rmtree(gone, ignore_errors=True)
    afresh = dataclasses.replace(session, options=session.options.model_copy(update={"reuse": False}))
    trained = _train(afresh, arm, iteration, parent)
    arm.policies[iteration] = trained.reference("checkpoint")
    return arm.policies[iteration]


def _evaluate(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    _stage(session, arm, iteration, "eval", parent, arm.config.eval_config(arm.policies[iteration]))


def _compare(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """Paired differences against the iteration before, and the prompts that flipped, when a judge was asked.

    Those that an earlier command computed of the same two runs are not computed again: their run is named in a tag.
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
    key = _key_of(evals, _COMPARING)
    earlier = _earlier(session, evals, _COMPARISON, key)
    found = final_metrics(earlier) if session.tracker is not None and earlier is not None else None
    if parent is not None and earlier is not None and found is not None:
        arm.metrics[iteration].update(found)
        parent.set_tags({f"{_COMPARISON}_run": earlier.info.run_id})
        return
    before, after = (judgments_by_language(open_artifact(done.artifact("judgments"), JUDGMENTS)) for done in evals)
    differences, flips = difference_table(before, after), flip_table(before, after)
    arm.changes[iteration] = change_metrics(differences, flips)
    arm.metrics[iteration].update(arm.changes[iteration])
    if parent is not None:
        parent.log_table(differences, "comparison")
        parent.log_table(flips, "flipped_prompts")
        parent.log_text(flips.to_csv(index=False), "flipped_prompts.csv")  # whole; a table holds 1,000 rows at most
        parent.set_tags({_COMPARISON: key})


def _key_of(stages: Iterable[StageRun], modules: Sequence[str], *more: str) -> str:
    """Digest of which stage runs something was made from, and of the code that made it."""
    runs = [done.run.run_id if done.run else "" for done in stages]
    files = [Path(__file__).parent.parent / name for name in modules]
    return text_digest(*runs, *(file_digest(file) for file in files), *more)


def _earlier(session: Session, stages: Iterable[StageRun], tag: str, key: str) -> Run | None:
    """The FINISHED run of an earlier command that made something of the very same stage runs, all of them found."""
    if session.tracker is None or not session.options.reuse or not all(done.reused for done in stages):
        return None
    return next(iter(session.tracker.find_tagged({tag: key}, limit=1)), None)


def _stage(
    session: Session, arm: Arm, iteration: int, stage: str, parent: RunHandle | None, config: Config
) -> StageRun:
    output = arm.config.output
    if output:
        config = config.model_copy(update={"output": str(Path(output) / f"iteration-{iteration}" / stage)})
    print(f"iteration {iteration}: {stage}", file=sys.stderr, flush=True)
    tags = {"icr.arm": arm.config.arm, "icr.iteration": iteration}
    try:
        done = run_stage(session, stage, config, parent=parent, tags=tags, own_process=arm.config.stage_processes)
    except WeightsRemovedError:
        restored = _with_weights(session, arm, parent, config)
        if restored is None:
            raise
        done = run_stage(session, stage, restored, parent=parent, tags=tags, own_process=arm.config.stage_processes)
    _keep(arm, iteration, stage, done)
    return done


def _keep(arm: Arm, iteration: int, stage: str, done: StageRun) -> None:
    arm.stages[iteration, stage] = done
    prefix = "generate/" if stage == "generate" else ""  # the samples' lengths and fidelity; eval's are the outputs'
    figures = {f"{prefix}{name}": value for name, value in done.result.metrics.items()}
    arm.metrics.setdefault(iteration, {}).update(figures)


def _publish(arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """The same keys on the iteration run (MLflow's Compare page) and, by step, on the arm (its chart is the curve)."""
    figures = arm.metrics.get(iteration, {})
    for run, step in ((parent, iteration), (arm.run, iteration)):
        if run is not None and figures:
            run.log_metrics(figures, step)
    if parent is not None and iteration in arm.changes:
        parent.tag_final_metrics(arm.changes[iteration])


def _found_report(session: Session, arm: Arm) -> bool:
    """Show the arm's figures, and name the report that an earlier command wrote of the same work; False when there is none."""
    earlier = _earlier(session, arm.stages.values(), _REPORT, _report_key(arm))
    if session.tracker is None or arm.run is None or earlier is None:
        return False
    path = _report_path(session, arm)
    stored = session.tracker.stored(earlier, path.name)
    if stored is None:
        return False
    _show(arm, figures_of(session, arm, with_texts=False))
    if path.exists() and file_digest(path) != earlier.data.tags.get(f"{_REPORT}_digest"):  # of another configuration
        with atomic_path(path) as temporary:
            shutil.copyfile(stored.folder(), temporary)
    arm.run.set_tags({f"{_REPORT}_run": earlier.info.run_id})
    elsewhere = f"{stored.reference} (`icr report {earlier.info.run_id}` writes it here)"
    print(f"report: {path if path.exists() else stored.local or elsewhere}", flush=True)
    return True


def _report(session: Session, arm: Arm) -> None:
    """The table on the terminal and the HTML report, which is logged as an artifact."""
    from icr_platform.report.arm_report import write_report

    report = figures_of(session, arm)
    _show(arm, report)
    path = _report_path(session, arm)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(path, report)
    if arm.run is not None:
        arm.run.log_file(path)
        arm.run.set_tags({_REPORT: _report_key(arm), f"{_REPORT}_digest": file_digest(path)})
    print(f"report: {path}", flush=True)


def _report_path(session: Session, arm: Arm) -> Path:
    folder = Path(arm.config.output) if arm.config.output else session.base
    return folder / f"report-{arm.config.arm}.html"


def _report_key(arm: Arm) -> str:
    stages = [done for _, done in sorted(arm.stages.items())]
    return _key_of(stages, _REPORTING, arm.given.model_dump_json())


def _show(arm: Arm, report: Report) -> None:
    from rich.console import Console

    from icr_platform.report.terminal_tables import terminal_table

    prefix = "win_rate" if any("win_rate/mean" in measured.metrics for measured in report.iterations) else "fidelity"
    title = {"win_rate": "Win rate, %", "fidelity": "Outputs in the asked language, %"}[prefix]
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(terminal_table(report.iterations, prefix, title))
    if report.published:
        show_leaderboard(report, arm.run, console)


def show_leaderboard(report: Report, run: RunHandle | None, console: Console) -> None:
    """The arm's policies beside the published figures: win rates on the terminal, both kinds as tables of the arm's run."""
    from icr_platform.report.arm_report import policies_of
    from icr_platform.report.leaderboard import leaderboard
    from icr_platform.report.terminal_tables import leaderboard_terminal_table

    policies = policies_of(report)
    tables = {"x_alpacaeval": leaderboard(policies), "x_alpacaeval_lc": leaderboard(policies, "lc_win_rate")}
    if len(tables["x_alpacaeval"]):
        console.print(leaderboard_terminal_table(tables["x_alpacaeval"]))
    for name, table in tables.items():
        if run is not None and len(table):
            run.log_table(table, name)


def report_again(session: Session, run_id: str) -> None:
    """Rebuild the report of an arm from the artifacts of its runs alone.

    Raises:
        InputError: no such run, or it is no finished arm.
    """
    _report(session, _arm_from_artifacts(session, run_id))


def _arm_from_artifacts(session: Session, run_id: str) -> Arm:
    from icr_platform.tracking.run_handle import RunHandle

    tracker = session.tracker
    if tracker is None:
        raise InputError("icr report: needs MLflow; leave --no-tracking out")
    path = Path(tracker.resolve(f"runs:/{run_id}/{CONFIG}"))
    config = validate(IterateConfig, read_json(path), str(path), session.worlds)
    arm = Arm(config, config, RunHandle(tracker.uri, run_id, tracker.experiment_id), [])
    for iteration_run in tracker.children(run_id):
        iteration = int(iteration_run.data.tags["icr.iteration"])
        for stage_run in tracker.children(iteration_run.info.run_id):
            stage = stage_run.data.tags["icr.stage"]
            _keep(arm, iteration, stage, stage_from_store(tracker, stage_run))
    return arm


def figures_of(session: Session, arm: Arm, with_texts: bool = True) -> Report:
    """What the report shows of a finished arm; with_texts: its example pairs and notes, too, which may have to be fetched."""
    from icr_platform.report.arm_report import Report
    from icr_platform.report.iteration_metrics import IterationMetrics

    last, noted = (arm.config.iterations, arm.stages.values()) if with_texts else (0, ())
    found, tracker = split_world(arm.given.prompts, session.worlds), session.tracker
    world = found[0] if found else None
    runs = {f"iteration {t}, {stage}": done.run.run_id for (t, stage), done in arm.stages.items() if done.run}
    return Report(
        title=world.title if world else "Implicit cross-lingual rewarding",
        arm=arm.config.arm,
        iterations=[IterationMetrics(t, metrics) for t, metrics in sorted(arm.metrics.items())],
        description=world.description if world else "",
        config_digest=text_digest(arm.given.model_dump_json())[:12],
        runs={"arm": arm.run.run_id, **runs} if arm.run else {},
        examples=[pair for t in range(1, last + 1) for pair in _examples(arm, t)],
        notes=[note for done in noted for note in (notes_of(tracker, done) if tracker else done.result.notes)],
        published=world is None,
    )


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
        pairs.append(ExamplePair(iteration=iteration, **typical.to_dict()))
    return pairs
