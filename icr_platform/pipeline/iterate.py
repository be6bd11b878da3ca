"""iterate: pi_0 -> pi_1 -> ... -> pi_T. Chains the stages, keeps one MLflow run per arm, iteration and stage."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.core.config import Config, without_secrets
from icr_platform.core.errors import InputError, WeightsRemovedError
from icr_platform.engines.scoring.reward_kinds import REWARD_KINDS
from icr_platform.models.removed_weights import removed_weights
from icr_platform.pipeline.arm import ARM_KEY, CONFIG, OWN_SAMPLES, START, STEP, STOPPED, Arm, SweepPlace
from icr_platform.pipeline.arm_results import (
    compare_gains,
    compare_instructions,
    compare_pass_rates,
    compare_with_previous,
    publish_figures,
    said_of,
    show_earlier_report,
    show_own_samples,
    write_arm_report,
)
from icr_platform.pipeline.checkpoint_removal import checkpoints_to_give_up, give_up_checkpoint
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.measures import check_measures, check_something_is_done, checker_of
from icr_platform.pipeline.model_checks import check_models_once
from icr_platform.pipeline.runner import code_tags, logged_params, run_stage, track_status
from icr_platform.pipeline.session import Session, StageRun
from icr_platform.pipeline.stages import STAGES
from icr_platform.pipeline.stopping import best_iteration, check_stop, reason_to_stop
from icr_platform.report.run_description import NOTE
from icr_platform.tracking.model_registry import forget_best, forget_iterations, point_best, register_checkpoint
from icr_platform.tracking.removed_checkpoints import was_removed

if TYPE_CHECKING:
    from icr_platform.tracking.run_handle import RunHandle


def iterate(session: Session, config: IterateConfig, place: SweepPlace | None = None) -> Arm:
    """Run T iterations and evaluate every policy, pi_0 included.

    place: where the arm stands in a sweep, if it is part of one.

    A stage that is FINISHED in MLflow, or in the work folder, with the same inputs and settings is not run again, so the same
    command continues wherever an earlier one stopped.

    Raises:
        InputError: bad input, found before anything runs.
        IcrError: a stage failed; what is finished stays.
    """
    try:
        check_something_is_done(config)
        check_losses(config)
        check_pair_rules(config)
        resolved = session.resolver.resolve(config, config.seed, fetch=False)
        if not session.resolver.known(resolved):  # models in a remote store are checked by the stages, which fetch them
            check_models_once(session, resolved)
            check_english(resolved)
            check_pairs_source(session, resolved)
            check_measures(resolved)
        check_stop(resolved)
        checker = checker_of(config, resolved, session.worlds)
        arm = Arm(
            config, resolved, _start(session, config, place), [resolved.policy], checker, place.label if place else ""
        )
        with track_status(arm.run):
            for iteration in range(config.iterations + 1):
                with _iteration_run(session, arm, iteration) as parent:
                    if iteration > 0:
                        _improve(session, arm, iteration, parent)
                    elif resolved.start_preferences:
                        _make_start(session, arm, parent)
                    _measure(session, arm, iteration, parent)
                    publish_figures(arm, iteration, parent)
                    arm.stopped = reason_to_stop(resolved, iteration, arm.metrics.get(iteration, {}))
                    for given_up in checkpoints_to_give_up(resolved, iteration, arm.metrics, bool(arm.stopped)):
                        give_up_checkpoint(session, arm, given_up)
                    _point_best(session, arm, iteration)
                if arm.stopped:
                    _tell_stopped(arm)
                    break
            if session.tracker is not None:  # an earlier command may have run more iterations
                forget_iterations(session.tracker, arm.model_name, range(arm.first_made, len(arm.policies)))
            if not show_earlier_report(session, arm):
                write_arm_report(session, arm)
        for stage in arm.stages.values():
            stage.clean_up()
        return arm
    finally:
        session.close()


def check_english(config: IterateConfig) -> None:
    """Raise an InputError where the training prompts lack the English instructions that responses will be scored after."""
    from icr_platform.annotation.prompt_index import check_english as check
    from icr_platform.data.prompts import load_prompts

    kinds = config.annotate.reward_kind
    if config.iterations and config.ranks_by_rewards and any(REWARD_KINDS[kind].needs_english for kind in kinds):
        check(config.prompts, load_prompts(config.prompts, config.languages, config.limit).table, kinds)


def check_pairs_source(session: Session, config: IterateConfig) -> tuple[str, ...]:
    """Check the pairs that are given, and who translates, before any work; loads no weights.

    Returns: lines for a person to read.

    Raises:
        InputError: the pairs cannot be read or trained on, or the translator cannot work here; or languages are named that nothing
            is translated into.
    """
    from icr_platform.annotation.translated_pairs import check_ranking
    from icr_platform.engines.sampling.translators import check_translator

    if not config.iterations:
        return ()
    arm = Arm(config, config, None, [config.policy])
    if config.preferences:
        translates = bool(config.translate.into)
        of_stage = arm.translating(1, config.preferences) if translates else arm.training(1, config.preferences)
        stage = STAGES["translate" if translates else "train"].load()
        return tuple(getattr(stage.read(session.resolver.resolve(of_stage, config.seed)), "notes", ()))
    if config.pairs_are_translated:
        check_ranking(config.annotate)
        translating = session.resolver.resolve(arm.translating(1, ""), config.seed)
        return check_translator(translating, translating, translating.into or config.languages)
    if config.translate.into:
        raise InputError(
            "config: field 'translate.into' is given, and nothing is translated; give preferences, or annotate.pair_source translation"
        )
    return ()


def _start(session: Session, config: IterateConfig, place: SweepPlace | None) -> RunHandle | None:
    """Start the arm's run, with the configuration as it was given."""
    if session.tracker is None:
        return None
    tags = {"icr.kind": "arm", "icr.arm": config.arm, "icr.seed": config.seed, **code_tags()}
    if place is not None:
        tags[ARM_KEY] = place.key
    run = session.tracker.start(place.label if place else config.arm, tags, place.run if place else None)
    run.log_params({f"iterate.{name}": value for name, value in logged_params(config).items()})
    run.log_text(without_secrets(config).model_dump_json(indent=1), CONFIG)
    run.set_tags({NOTE: said_of(config)})
    return run


@contextmanager
def _iteration_run(session: Session, arm: Arm, iteration: int) -> Iterator[RunHandle | None]:
    if session.tracker is None:
        yield None
        return
    tags = {"icr.kind": "iteration", "icr.arm": arm.config.arm, "icr.iteration": iteration}
    run = session.tracker.start(f"{arm.config.arm} iteration {iteration}", tags, arm.run)
    run.log_params({"arm": arm.config.arm, "iteration": iteration})
    arm.iteration_runs[iteration] = run.run_id
    with track_status(run):
        yield run


def check_losses(config: IterateConfig) -> None:
    """Raise an InputError where a training is asked for that its loss cannot be, hours before it would begin."""
    from icr_platform.training.loss_checks import check_loss

    check_loss(config.train, "train.")
    if config.start_preferences:
        check_loss(config.start, "start.")
    elif "start_preferences" not in config.model_fields_set and config.start != type(config.start)():
        raise InputError(
            "config: section 'start' says how pi_0 is trained, but field 'start_preferences' is missing; give English preferences, or "
            "set it to '' where `policy` is pi_0"
        )


def check_pair_rules(config: IterateConfig) -> None:
    """Raise an InputError where settings of pairs contradict each other, hours before annotate would say so."""
    from icr_platform.annotation.pair_notes import check_pair_settings

    check_pair_settings(config.annotate)


def _make_start(session: Session, arm: Arm, parent: RunHandle | None) -> None:
    """English preferences turn the policy that was given into pi_0."""
    arm.trainings[0] = arm.starting()
    arm.policies[0] = _train(session, arm, 0, parent).reference("checkpoint")


def _improve(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """pi_{t-1} -> pi_t: the policy answers, its implicit reward ranks the answers, and the pairs train it; or given pairs do."""
    preferences = arm.config.preferences
    if not preferences:
        preferences = _make_pairs(session, arm, iteration, parent)
    elif arm.config.translate.into:
        translating = arm.translating(iteration, preferences)
        preferences = _stage(session, arm, iteration, "translate", parent, translating).reference("translated")
    arm.trainings[iteration] = arm.training(iteration, preferences)
    trained = _train(session, arm, iteration, parent)
    arm.policies.append(trained.reference("checkpoint"))


def _make_pairs(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> str:
    """The policy answers, and its answers become pairs: by their rewards, or by their translations. Returns the preferences."""
    generated = _stage(session, arm, iteration, "generate", parent, arm.generating(iteration))
    responses, translations = generated.reference("responses"), ""
    if arm.config.pairs_are_translated:
        translated = _stage(session, arm, iteration, "translate", parent, arm.translating(iteration, responses))
        translations = translated.reference("translated")
    annotating = arm.annotating(iteration, responses, translations)
    annotated = _stage(session, arm, iteration, "annotate", parent, annotating)
    _look_at_own_samples(session, arm, iteration, parent)
    return annotated.reference("preferences")


def _look_at_own_samples(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """Say how well the reward ranks the samples that the iteration is about to train on, where a checker knows which are right."""
    if arm.checker:
        checking = arm.checking_own_samples(iteration)
        done = _stage(session, arm, iteration, "reward_bench", parent, checking, step=OWN_SAMPLES)
        show_own_samples(iteration, done.result.metrics)


def _measure(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> None:
    """Everything that is measured of pi_t: win rates, its reward on labelled pairs, instructions that it follows, what it knows."""
    config = arm.config
    if config.eval_prompts:
        _stage(session, arm, iteration, "eval", parent, arm.evaluating(iteration))
        compare_with_previous(session, arm, iteration, parent)
        compare_pass_rates(session, arm, iteration, parent)
    if config.reward_pairs:
        _stage(session, arm, iteration, "reward_bench", parent, arm.benching(iteration))
    if config.instruction_prompts:
        _stage(session, arm, iteration, "instructions", parent, arm.following(iteration))
        compare_instructions(session, arm, iteration, parent)
    compare_gains(session, arm, iteration, parent)
    if config.benchmarks.are_asked:
        _stage(session, arm, iteration, "benchmarks", parent, arm.asking(iteration))


def _point_best(session: Session, arm: Arm, iteration: int) -> None:
    """Let `models:/ARM-policy@best` lead to the best iteration so far, as long as its weights are kept."""
    tracker, best = session.tracker, best_iteration(arm.metrics, range(1, iteration + 1))
    if tracker is None or iteration == 0:
        return
    trained = arm.stages[best, "train"].run if best else None
    if trained is None or was_removed(tracker, trained.run_id):
        forget_best(tracker, arm.model_name)
    else:
        point_best(tracker, arm.model_name, trained)


def _tell_stopped(arm: Arm) -> None:
    """Say that the arm ends before its last iteration, and why, here and on its run."""
    print(f"{arm.stopped}; the arm ends here, as stop: no-gain asks", file=sys.stderr, flush=True)
    if arm.run is not None:
        arm.run.set_tags({STOPPED: arm.stopped})


def _train(session: Session, arm: Arm, iteration: int, parent: RunHandle | None) -> StageRun:
    """Train, and register the checkpoint as the arm's policy of this iteration."""
    step = "" if iteration else START
    trained = _stage(session, arm, iteration, "train", parent, arm.trainings[iteration], step)
    tracker = session.tracker
    if tracker is not None and trained.run is not None and not was_removed(tracker, trained.run.run_id):
        register_checkpoint(tracker, arm.model_name, trained.run, iteration)
    return trained


def _stage(
    session: Session,
    arm: Arm,
    iteration: int,
    stage: str,
    parent: RunHandle | None,
    config: Config,
    step: str = "",
) -> StageRun:
    """Run one stage of an iteration, and first train again the policies whose weights it needs and that were removed.

    step: what the stage is there, where an iteration has it twice.
    """
    output, name = arm.config.output, step or stage
    if output:
        config = config.model_copy(update={"output": str(Path(output) / f"iteration-{iteration}" / name)})
    print(f"iteration {iteration}: {name}", file=sys.stderr, flush=True)
    tags = {"icr.arm": arm.config.arm, "icr.iteration": iteration} | ({STEP: step} if step else {})
    own_process = arm.config.stage_processes
    try:
        done = run_stage(session, stage, config, parent=parent, tags=tags, own_process=own_process)
    except WeightsRemovedError:
        restored = {}
        for field in ("policy", "reference"):
            value = getattr(config, field, "")
            if value in arm.made and removed_weights(Path(session.resolver.local(value, arm.config.seed))):
                restored[field] = _train_again(session, arm, parent, arm.policies.index(value))
        if not restored:
            raise
        config = config.model_copy(update=restored)
        done = run_stage(session, stage, config, parent=parent, tags=tags, own_process=own_process)
    arm.keep(iteration, name, done)
    return done


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
