"""One arm of an experiment: what its stages gave, while it runs and once it is finished."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import file_digest, read_json, text_digest
from icr_platform.core.config import validate
from icr_platform.core.errors import InputError
from icr_platform.evaluation.config import BenchmarksConfig, EvalConfig, InstructionsConfig
from icr_platform.evaluation.reward_bench_config import RewardBenchConfig
from icr_platform.generation.config import GenerateConfig
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.cost import COST, CostedRun, costs_by_iteration
from icr_platform.pipeline.finished_work import stage_from_store
from icr_platform.pipeline.schedule import generating_policy, iteration_seed, reward_reference
from icr_platform.pipeline.session import Session, StageRun
from icr_platform.training.config import TrainConfig
from icr_platform.translation.config import TranslateConfig

if TYPE_CHECKING:
    from icr_platform.tracking.run_handle import RunHandle
    from icr_platform.tracking.tracker import Run

CONFIG, STEP, STOPPED = "config.json", "icr.step", "icr.stopped"
ARM_KEY = "icr.arm_key"
"""Tag of an arm of a sweep: what its whole work depends on."""
OWN_SAMPLES = "own_samples"
"""The step of an iteration in which reward_bench looks at the policy's own samples; other steps have the names of their stages."""
START = "start"
"""The step of iteration 0 in which pi_0 is trained, where it is not given."""
COMPARED = (
    "win_rate_change", "regressions/", "line_pass_rate_change", "word_pass_rate_change", "prompt_accuracy_change", "gain",
)  # fmt: skip
"""How the names of metrics begin that compare iterations, and so are no stage's."""
_EVALS_TOO = ("line_pass_rate", "word_pass_rate")


@dataclass(frozen=True)
class SweepPlace:
    """Where an arm stands in a sweep.

    run: the sweep's. label: name of the arm at one seed, under which its run, model and report go. key: `ARM_KEY`.
    """

    run: RunHandle
    label: str
    key: str


@dataclass
class Arm:
    """One arm while it runs: its configuration as given and resolved, its run, pi_0 .. pi_t, and what each iteration measured."""

    given: IterateConfig
    config: IterateConfig
    run: RunHandle | None
    policies: list[str]
    checker: str = ""
    """What says which of the policy's own samples are right; '' for nothing."""
    label: str = ""
    """What it is called where several runs have the arm's name, as at several seeds; '' where one has."""
    metrics: dict[int, dict[str, float]] = field(default_factory=dict)
    trainings: dict[int, TrainConfig] = field(default_factory=dict)
    stages: dict[tuple[int, str], StageRun] = field(default_factory=dict)
    changes: dict[int, dict[str, float]] = field(default_factory=dict)
    """Metrics of the comparison with the iteration before, of those that were compared now."""
    costs: dict[int, dict[str, float]] = field(default_factory=dict)
    """What each iteration cost, in metrics as `pipeline/cost.py` has them."""
    iteration_runs: dict[int, str] = field(default_factory=dict)
    """Id of each iteration's run."""
    stopped: str = ""
    """Why it ended before its last iteration; '' where it did not."""

    @property
    def model_name(self) -> str:
        """Name of the arm's registered model, whose aliases iteration-1 .. iteration-T are the policies in use."""
        return f"{self.name}-policy"

    @property
    def name(self) -> str:
        """Of its registered model and its report."""
        return self.label or self.config.arm

    @property
    def first_made(self) -> int:
        """The first iteration whose policy is trained here."""
        return 0 if self.config.start_preferences else 1

    @property
    def made(self) -> Sequence[str]:
        """The policies so far that were trained here."""
        return self.policies[self.first_made :]

    @property
    def devices(self) -> str:
        """What its stages ran on, in words."""
        return ", ".join(dict.fromkeys(done.devices for done in self.stages.values() if done.devices))

    def generating(self, iteration: int) -> GenerateConfig:
        """generate of an iteration: the policy before answers."""
        return self.config.generate_config(generating_policy(self.policies, iteration), self._seed(iteration))

    def translating(self, iteration: int, texts: str) -> TranslateConfig:
        """translate of an iteration: the policy's answers, or given pairs, by the policy where no translator is named."""
        return self.config.translate_config(generating_policy(self.policies, iteration), texts, self._seed(iteration))

    def annotating(self, iteration: int, responses: str, translations: str = "") -> AnnotateConfig:
        """annotate of an iteration: the implicit reward of the policy that answered ranks its answers, or their translations do."""
        policy = generating_policy(self.policies, iteration)
        mode = self.config.reward_reference
        reference = reward_reference(self.policies, self.config.reference, iteration, mode)
        return self.config.annotate_config(policy, reference, responses, self._seed(iteration), translations)

    def training(self, iteration: int, preferences: str) -> TrainConfig:
        """train of an iteration: the pairs turn the policy that answered into the next one."""
        policy = generating_policy(self.policies, iteration)
        return self.config.train_config(policy, preferences, self._seed(iteration))

    def starting(self) -> TrainConfig:
        """The training of pi_0, of iteration 0."""
        return self.config.start_config(self.config.policy, self._seed(0))

    def evaluating(self, iteration: int) -> EvalConfig:
        """eval of an iteration's policy, pi_0 of iteration 0."""
        return self.config.eval_config(self.policies[iteration])

    def checking_own_samples(self, iteration: int) -> RewardBenchConfig:
        """reward_bench of an iteration's samples and rewards, once they are annotated."""
        responses = self.stages[iteration, "generate"].reference("responses")
        annotated = self.stages[iteration, "annotate"]
        rewards, preferences = annotated.reference("rewards"), annotated.reference("preferences")
        return self.config.own_samples_config(responses, rewards, preferences, self.checker)

    def benching(self, iteration: int) -> RewardBenchConfig:
        """reward_bench of an iteration's policy, with the reference that its reward would have in the next iteration."""
        reference = reward_reference(self.policies, self.config.reference, iteration + 1, self.config.reward_reference)
        return self.config.reward_bench_config(self.policies[iteration], reference)

    def following(self, iteration: int) -> InstructionsConfig:
        """instructions of an iteration's policy."""
        return self.config.instructions_config(self.policies[iteration])

    def asking(self, iteration: int) -> BenchmarksConfig:
        """benchmarks of an iteration's policy; later ones are compared with those of pi_0."""
        first = self.stages.get((0, "benchmarks"))
        config = self.config.benchmarks_config(self.policies[iteration])
        return config.model_copy(update={"baseline": first.reference("benchmarks")}) if first and iteration else config

    def _seed(self, iteration: int) -> int:
        return iteration_seed(self.config.seed, iteration)

    def count_costs(self) -> None:
        """Take in what the stages cost that are finished."""
        runs = [
            CostedRun(iteration, done.run.run_id if done.run else "", done.reused, done.cost)
            for (iteration, _), done in self.stages.items()
        ]
        self.costs = costs_by_iteration(runs)

    def keep(self, iteration: int, stage: str, done: StageRun) -> None:
        """Take a finished stage in, and its figures under the names that people compare."""
        self.stages[iteration, stage] = done
        # Lengths, fidelity and pass rates without a prefix are those of eval's outputs; other stages measure them on other prompts.
        own = {"generate": ("",), START: ("",), "instructions": _EVALS_TOO}.get(stage, ())
        figures = {
            f"{stage}/{name}" if name.startswith(own) else name: value for name, value in done.result.metrics.items()
        }
        self.metrics.setdefault(iteration, {}).update(figures)


def arm_from_artifacts(session: Session, run_id: str) -> Arm:
    """A finished arm, from the artifacts of its runs alone.

    Raises:
        InputError: no such run, or it is not a finished arm.
    """
    from icr_platform.tracking.run_handle import RunHandle

    tracker = session.tracker
    if tracker is None:
        raise InputError("icr report: needs MLflow; leave --no-tracking out")
    path = Path(tracker.resolve(f"runs:/{run_id}/{CONFIG}"))
    config = validate(IterateConfig, read_json(path), str(path), session.worlds)
    arm = Arm(config, config, RunHandle(tracker.uri, run_id, tracker.experiment_id), [])
    arm.stopped = tracker.tags_of(run_id).get(STOPPED, "")
    for iteration_run in tracker.children(run_id):
        iteration = int(iteration_run.data.tags["icr.iteration"])
        compared = {name: value for name, value in iteration_run.data.metrics.items() if name.startswith(COMPARED)}
        arm.metrics[iteration] = compared
        arm.iteration_runs[iteration] = iteration_run.info.run_id
        arm.costs[iteration] = {n: value for n, value in iteration_run.data.metrics.items() if n.startswith(COST)}
        for stage_run in tracker.children(iteration_run.info.run_id):
            step = stage_run.data.tags.get(STEP, stage_run.data.tags["icr.stage"])
            arm.keep(iteration, step, stage_from_store(tracker, stage_run))
    return arm


def key_of(stages: Iterable[StageRun], modules: Sequence[str], *more: str) -> str:
    """Digest of the stage runs that something was made from, and of the code that made it."""
    runs = [done.run.run_id if done.run else "" for done in stages]
    files = [Path(__file__).parent.parent / name for name in modules]
    return text_digest(*runs, *(file_digest(file) for file in files), *more)


def earlier_run(session: Session, stages: Iterable[StageRun], tag: str, key: str) -> Run | None:
    """The FINISHED run of an earlier command that made something from the very same stage runs; None if any of them is new."""
    if session.tracker is None or not session.options.reuse or not all(done.reused for done in stages):
        return None
    return next(iter(session.tracker.find_tagged({tag: key}, limit=1)), None)
