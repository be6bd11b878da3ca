"""Sides of a comparison, opened by what people call them: an arm, an iteration, a stage's run, a sweep, an artifact, or files of outputs.

| given | side |
|---|---|
| `NAME` | all seeds of the arms of this name, each at its last iteration; of a sweep, one side for each of its arms |
| `RUN_ID`, or its first characters | one arm, iteration, stage run or sweep |
| `ID,ID,ID` | these runs of an arm, as its seeds |
| `SWEEP/NAME` | one arm of a sweep |
| `NAME@2`, `RUN_ID@2` | the same at iteration 2 |
| `runs:/RUN_ID/outputs`, a folder | an artifact, or the folder in which a stage left its artifacts |
| any other path, address or name of a data set | outputs, in any layout that `--outputs` of `icr eval` takes |
"""

from __future__ import annotations

import difflib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from icr_platform.core.artifacts import Artifact, open_artifact, own_manifest, read_json
from icr_platform.core.config import leaves, role
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import (
    BENCHMARKS,
    CONFUSION,
    INSTRUCTION_CHECKS,
    JUDGMENTS,
    MT_BENCH,
    OUTPUTS,
    REWARD_BENCH,
    TableSchema,
)
from icr_platform.evaluation.config import EvalConfig
from icr_platform.pipeline.arm import CONFIG, OWN_SAMPLES, STEP, Arm
from icr_platform.pipeline.config import IterateConfig
from icr_platform.tracking.reader import RunRecord, TrackingReader

ARTIFACTS: Mapping[str, tuple[str, TableSchema]] = {
    "outputs": ("eval", OUTPUTS),
    "judgments": ("eval", JUDGMENTS),
    "confusion": ("eval", CONFUSION),
    "reward_bench": ("reward_bench", REWARD_BENCH),
    "instruction_outputs": ("instructions", OUTPUTS),
    "instruction_checks": ("instructions", INSTRUCTION_CHECKS),
    "benchmarks": ("benchmarks", BENCHMARKS),
    "ratings": ("mt_bench", MT_BENCH),
}
"""What is compared: the stage that makes each artifact, and its table."""
_OPTIONAL = {"confusion"}  # which earlier versions did not leave
_COST = "cost/"
_RUN_ID = re.compile(r"[0-9a-f]{6,32}")
_OF_A_JUDGE = (
    "judge", "judge_model", "judge_api_model", "judge_identity", "judge_answer", "judge_samples", "judge_min_mass", "judge_template", "both_orders",
)  # fmt: skip
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

Kind = Literal["arm", "iteration", "stage", "artifact", "file"]


class Judged(NamedTuple):
    """Who judged a run's outputs, and against what.

    judge, references: in words. settings: what identifies the judge, None where only its name is known. digest: of the reference outputs as
    they were joined to the prompts, '' where it is not known.
    """

    judge: str
    references: str
    settings: Mapping[str, str] | None = None
    digest: str = ""


@dataclass(frozen=True)
class SideRun:
    """One run of a side: an iteration of an arm, a stage run, a folder.

    label: names it in messages. places: where each of `ARTIFACTS` lies, fetched when asked. costs: of an arm's policy, the sums of the
    metrics `cost/...` by name. params: of its evaluation.
    """

    label: str
    seed: int | None = None
    places: Mapping[str, Callable[[], Path]] = field(default_factory=dict)
    judged: Judged | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    identity: str = ""
    """The same for the same run and iteration."""
    _opened: dict[str, Artifact | None] = field(default_factory=dict, compare=False, repr=False)

    def open(self, name: str) -> Artifact | None:
        """An artifact of `ARTIFACTS`; None where the run has none.

        Raises:
            InputError: it is damaged, or lies where it cannot be reached.
        """
        if name not in self._opened:
            self._opened[name] = self._open(name)
        return self._opened[name]

    def _open(self, name: str) -> Artifact | None:
        if name not in self.places:
            return None
        try:
            folder = self.places[name]()
        except InputError:
            if name in _OPTIONAL:
                return None
            raise
        return open_artifact(folder, ARTIFACTS[name][1])


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    name: short, in tables. given: as it was typed. runs: of its seeds. iterations: runs of every finished iteration, of an arm; iteration:
    the one that `runs` are of. is_finished: whether all of an arm's runs are. is_pinned: whether the iteration was asked for.
    source: of a file of outputs.
    """

    name: str
    given: str
    kind: Kind
    runs: tuple[SideRun, ...] = ()
    iterations: Mapping[int, tuple[SideRun, ...]] = field(default_factory=dict)
    iteration: int | None = None
    is_finished: bool = True
    is_pinned: bool = False
    source: str = ""
    notes: tuple[str, ...] = ()

    @property
    def seeds(self) -> tuple[int | None, ...]:
        return tuple(run.seed for run in self.runs)

    def at(self, iteration: int) -> Side:
        """The same arm at another iteration; raises InputError where not all of its runs have finished it."""
        if iteration not in self.iterations:
            known = ", ".join(map(str, sorted(self.iterations))) or "none"
            raise InputError(f"{self.given}: iteration {iteration} is not finished; finished: {known}")
        return replace(self, iteration=iteration, runs=self.iterations[iteration])


@dataclass(frozen=True)
class Store:
    """Where sides are looked for. cache: folder for copies of remote artifacts. base: where relative paths begin. experiment: '' for all."""

    reader: TrackingReader
    cache: Path
    base: Path
    experiment: str = ""

    def experiments(self) -> list[str]:
        """Ids of the experiments that names are looked for in.

        Raises:
            InputError: there is no experiment of the name.
        """
        found = self.reader.experiments()
        ids = [key for key, name in found.items() if not self.experiment or name == self.experiment]
        if not ids and self.experiment:
            raise InputError(
                f"--experiment {self.experiment}: no such experiment; there are {', '.join(found.values())}"
            )
        return ids


def open_sides(store: Store, given: Sequence[str]) -> list[Side]:
    """Every side that was given, sweeps as their arms, with names that differ, and arms brought to iterations that compare.

    Raises:
        InputError: fewer than two sides, one of them twice, a name that is unknown or means several things, a deleted run.
    """
    sides = [side for one in given for side in _open(store, one)]
    if len(sides) < 2:
        what = f"got {given[0]!r} alone" if given else "got none"
        raise InputError(
            f"icr compare: give two sides or more, {what}; a side is an arm's name, a run's id, RUN@ITERATION, or outputs"
        )
    sides = _aligned(sides)
    seen: dict[str, str] = {}
    for side in sides:
        for run in side.runs:
            if run.identity in seen and run.identity:
                raise InputError(
                    f"icr compare: {seen[run.identity]} and {side.given} are the same ({run.label}); give each once"
                )
            seen[run.identity] = side.given
    return _with_names_that_differ(sides)


def open_side(store: Store, given: str) -> Side:
    """One side; see `open_sides`. A sweep has several.

    Raises:
        InputError: as `open_sides`, or the name is that of a sweep.
    """
    found = _open(store, given)
    if len(found) > 1:
        raise InputError(
            f"{given}: a sweep of {len(found)} arms; choose one: {', '.join(side.given for side in found)}"
        )
    return found[0]


def _open(store: Store, given: str) -> list[Side]:
    """The side, or those of a sweep."""
    if given.startswith("runs:/"):
        return [_stored_artifact(store, given)]
    word, at, number = given.rpartition("@")
    name, iteration = (word, number) if at and word and number.isdigit() else (given, "")
    path = store.base / Path(given).expanduser()
    is_there = "{language}" in given or path.exists()
    named = _named(store, name)
    if named and is_there:
        raise InputError(
            f"{given}: there is an arm or a run of this name, and a file or folder; give ./{given} for the path, or the run's id"
        )
    if named:
        return [_pinned(side, iteration) for side in named]
    if is_there:
        return [_of_path(given, path)]
    if (
        _ADDRESS.match(given) or "/" in given or ":" in given
    ):  # an address, a world's, or a data set of the hub: its reader says what is wrong
        return [Side(given, given, "file", source=given, runs=(SideRun(given, identity=given),))]
    arms = sorted({_arm_of(run) for run in store.reader.arms(store.experiments())})
    near = difflib.get_close_matches(name, arms, n=1, cutoff=0.5)
    known = f"nearest is {near[0]!r}" if near else f"arms: {', '.join(arms[:10]) or 'none yet'}"
    raise InputError(f"{given}: neither an arm, nor a run, nor a file or folder; {known}; `icr runs list` lists runs")


def _pinned(side: Side, iteration: str) -> Side:
    if not iteration:
        return side
    if side.kind not in ("arm", "iteration"):
        raise InputError(f"{side.given}@{iteration}: a {side.kind} has no iterations; leave @{iteration} out")
    number = int(iteration)
    return replace(side.at(number), is_pinned=True, name=f"{side.name}@{number}", given=f"{side.given}@{number}")


def _named(store: Store, name: str) -> list[Side] | None:
    """What the store has by this name or id: None for nothing."""
    ids = store.experiments()
    arms = store.reader.arms(ids)
    if "," in name:
        parts = [_named(store, part) for part in name.split(",")]
        runs = [run for run in arms if any(run.run_id.startswith(part) for part in name.split(","))]
        if None in parts or len(runs) != len(parts):
            return None
        return [_arm_side(store, name, runs)]
    if of_name := [run for run in arms if _arm_of(run) == name]:
        return [_arm_side(store, name, of_name)]
    sweeps = store.reader.sweeps(ids)
    sweep, _, arm = name.partition("/")
    if of_name := [run for run in sweeps if sweep == run.tags.get("icr.sweep", run.name)]:
        found = _sweep_sides(store, sweep, of_name)
        chosen = [side for side in found if arm in ("", side.name)]
        if not chosen:
            raise InputError(
                f"{name}: the sweep {sweep} has no such arm; it has {', '.join(side.name for side in found)}"
            )
        return chosen
    if not _RUN_ID.fullmatch(name):
        return None
    begin = [run for run in (*arms, *sweeps) if run.run_id.startswith(name)]
    if len(begin) > 1:
        raise InputError(f"{name}: {len(begin)} runs begin so; give more of the id: {_listed(begin)}")
    if begin:
        return _of_run(store, begin[0])
    try:
        return _of_run(store, store.reader.run(name))
    except InputError as error:
        if "not found" in str(error):
            return None
        raise


def _of_run(store: Store, run: RunRecord) -> list[Side]:
    """What a run is, by its tags."""
    kind = run.tags.get("icr.kind", "")
    if run.deleted:
        raise InputError(
            f"{run.run_id}: the run is deleted; restore it (`mlflow runs restore --run-id {run.run_id}`), or give another"
        )
    if kind == "arm":
        return [_arm_side(store, run.run_id[:8], [run])]
    if kind == "sweep":
        return _sweep_sides(store, run.run_id, [run])
    if kind == "iteration":
        arm, number = run.tags.get("mlflow.parentRunId", ""), run.tags.get("icr.iteration", "")
        return [_pinned(_arm_side(store, arm[:8], [store.reader.run(arm)]), number)]
    if kind == "stage":
        return [_stage_side(store, run)]
    raise InputError(
        f"{run.run_id}: a run of {run.name!r}, which is not one of this platform; give an arm, an iteration or a stage"
    )


# Arms ---------------------------------------------------------------------------------------------------------------------------------


def _arm_of(run: RunRecord) -> str:
    return run.tags.get("icr.arm", run.name)


def _listed(runs: Iterable[RunRecord]) -> str:
    shown = []
    for run in runs:
        started = datetime.fromtimestamp(run.started, UTC).strftime("%Y-%m-%d %H:%M")
        seed = f", seed {run.params['iterate.seed']}" if "iterate.seed" in run.params else ""
        shown.append(f"{run.run_id} ({started} UTC, {run.status}{seed})")
    return "; ".join(shown)


def _sweep_sides(store: Store, name: str, sweeps: Sequence[RunRecord]) -> list[Side]:
    """A side for each arm of a sweep, in the order in which they began; of one that was started again, those of all its runs.

    Raises:
        InputError: sweeps of one name are not the same sweep, or none of its arms has begun.
    """
    if apart := _differing([_settings_of(store, run, "sweep") for run in sweeps]):
        what = ", ".join(sorted(apart)[:5])
        raise InputError(
            f"{name}: {len(sweeps)} sweeps have this name and differ in {what}; give the id of one: {_listed(sweeps)}"
        )
    by_name: dict[str, list[RunRecord]] = {}
    for run in sorted(
        (child for sweep in sweeps for child in store.reader.children(sweep)), key=lambda run: run.started
    ):
        if run.tags.get("icr.kind") == "arm":
            by_name.setdefault(_arm_of(run), []).append(run)
    if not by_name:
        raise InputError(f"{name}: no arm of the sweep has begun; wait until arms have finished an iteration")
    return [_arm_side(store, arm, runs) for arm, runs in by_name.items()]


def _arm_side(store: Store, given: str, runs: Sequence[RunRecord]) -> Side:
    """All seeds of an arm: runs of one seed are the same work, of which the newest that got furthest counts.

    Raises:
        InputError: the runs' settings differ in more than the seed, or none has finished an iteration.
    """
    name = _arm_of(runs[0])
    settings = {run.run_id: _settings_of(store, run) for run in runs} if len(runs) > 1 else {}
    apart = _differing(settings.values())
    if apart:
        what = ", ".join(sorted(apart)[:5])
        raise InputError(
            f"{given}: {len(runs)} runs have this name and differ in {what}; give ids of runs, each a side: {_listed(runs)}"
        )
    done = {run.run_id: _iterations_of(store, run) for run in runs}
    chosen: dict[str, RunRecord] = {}
    for run in sorted(runs, key=lambda run: (run.status == "FINISHED", len(done[run.run_id]), run.started)):
        chosen[run.params.get("iterate.seed", run.run_id)] = run  # the last one stays
    ordered = sorted(chosen.values(), key=lambda run: (_seed(run) or 0, run.started))
    common = set.intersection(*(set(done[run.run_id]) for run in ordered))
    notes = []
    unfinished = [run for run in ordered if run.status != "FINISHED"]
    for run in unfinished:
        finished = ", ".join(map(str, sorted(done[run.run_id]))) or "none"
        notes.append(
            f"{name}: run {run.run_id} is {run.status} and did not finish; its finished iterations ({finished}) are compared"
        )
    if not common:
        raise InputError(
            f"{given}: no iteration has finished in every run of {name}: {_listed(ordered)}; wait, or give the runs that have one"
        )
    if len(runs) > len(ordered):
        notes.append(
            f"{name}: {len(runs) - len(ordered)} of {len(runs)} runs have the seed of another one and are left out"
        )
    iterations = {number: tuple(done[run.run_id][number] for run in ordered) for number in sorted(common)}
    last = max(common)
    return Side(name, given, "arm", iterations[last], iterations, last, is_finished=not unfinished, notes=tuple(notes))


def _seed(run: RunRecord) -> int | None:
    text = run.params.get("iterate.seed", "")
    return int(text) if text.lstrip("-").isdigit() else None


def _settings_of(store: Store, run: RunRecord, command: str = "iterate") -> dict[str, str]:
    """The settings of an arm, or sweep, that change its results, but for the seed; of one without a configuration its parameters."""
    unlike = {name for name, info in leaves(IterateConfig) if role(info) == "place"} | {"seed", "output"}
    try:
        given = _flat(read_json(store.reader.artifact(run.run_id, CONFIG, store.cache)))
    except InputError:
        given = {name.removeprefix(f"{command}."): value for name, value in run.params.items()}
    return {name: value for name, value in given.items() if name not in unlike}


def _flat(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = json.dumps(value, sort_keys=True)
    return found


def _differing(settings: Iterable[Mapping[str, str]]) -> set[str]:
    """Names whose values differ. A setting that an earlier version did not have differs from none."""
    values: dict[str, set[str]] = {}
    for one in settings:
        for name, value in one.items():
            values.setdefault(name, set()).add(value)
    return {name for name, found in values.items() if len(found) > 1}


def _iterations_of(store: Store, arm: RunRecord) -> dict[int, SideRun]:
    """The finished iterations of an arm's run, each with what it took to make its policy: this and earlier iterations, reused work included."""
    children: dict[int, RunRecord] = {}
    for child in reversed(store.reader.children(arm)):  # the oldest first: a later attempt replaces an earlier one
        number = child.tags.get("icr.iteration", "")
        if child.tags.get("icr.kind") == "iteration" and number.isdigit() and child.status == "FINISHED":
            children[int(number)] = child
    found: dict[int, SideRun] = {}
    costs: dict[str, float] = defaultdict(float)
    for iteration, child in sorted(children.items()):
        for name, value in child.metrics.items():
            if name.startswith(_COST):
                costs[name.removeprefix(_COST).removeprefix("reused_")] += value
        stages = [
            run
            for run in reversed(store.reader.children(child))
            if run.status == "FINISHED" and run.tags.get(STEP) != OWN_SAMPLES
        ]
        label = f"{_arm_of(arm)} iteration {iteration} (run {arm.run_id})"
        found[iteration] = _side_run(store, label, f"{arm.run_id}@{iteration}", stages, _seed(arm), dict(costs))
    return found


def _side_run(
    store: Store, label: str, identity: str, stages: Sequence[RunRecord], seed: int | None, costs: Mapping[str, float]
) -> SideRun:
    places: dict[str, Callable[[], Path]] = {}
    judged, params = None, {}
    for run in stages:
        reused = run.tags.get("icr.reused_run")
        holder = store.reader.run(reused) if reused else run
        stage = run.tags.get("icr.stage", "")
        for name, (owner, _) in ARTIFACTS.items():
            if owner == stage:
                places[name] = _place(store, holder, name)
        if stage == "eval":
            params = {name.removeprefix("eval."): value for name, value in holder.params.items()}
            judged = judged_by(params, holder.inputs)
    return SideRun(label, seed, places, judged, params, costs, identity)


def side_of_arm(arm: Arm, iteration: int) -> Side:
    """A policy of an arm that was just run, or read again, from its stages in memory."""
    places: dict[str, Callable[[], Path]] = {}
    judged, params = None, {}
    for (number, step), done in arm.stages.items():
        if number != iteration:
            continue
        for name, (owner, _) in ARTIFACTS.items():
            if owner == step and name in done.result.artifacts:
                places[name] = partial(done.artifact, name)
        if step == "eval":
            settings = arm.config.eval_config("")
            params = {
                name: value if isinstance(value, str) else json.dumps(value)
                for name, value in settings.model_dump(mode="json").items()
            }
            judged = judged_by(
                params, {"reference_outputs": params["reference_outputs"]}
            )  # the same for all its policies
    run = SideRun(
        f"{arm.config.arm} iteration {iteration}", arm.config.seed, places, judged, params, {}, f"@{iteration}"
    )
    return Side(f"pi_{iteration}", f"{arm.config.arm}@{iteration}", "iteration", (run,), {iteration: (run,)}, iteration)


def _place(store: Store, holder: RunRecord, name: str) -> Callable[[], Path]:
    reference = holder.tags.get(f"icr.artifact.{name}")  # of artifacts that were left where they lay
    return lambda: Path(reference) if reference else store.reader.artifact(holder.run_id, name, store.cache)


def judged_by(params: Mapping[str, str], inputs: Mapping[str, str]) -> Judged | None:
    """Who judged an evaluation, from its parameters and the digests of its inputs; None where nobody did."""
    kind = params.get("judge", "none")
    if kind in ("", "none"):
        return None
    settings = {}
    for name in _OF_A_JUDGE:
        default = EvalConfig.model_fields[name].default
        settings[name] = inputs.get(name) or params.get(name, str(default))
    named = params.get("judge_api_model") or params.get("judge_model") or ""
    return Judged(
        f"{kind} {named}".strip(), params.get("reference_outputs", ""), settings, inputs.get("reference_outputs", "")
    )


def _stage_side(store: Store, run: RunRecord) -> Side:
    stage = run.tags.get("icr.stage", "")
    if stage not in {owner for owner, _ in ARTIFACTS.values()}:
        known = ", ".join(dict.fromkeys(owner for owner, _ in ARTIFACTS.values()))
        raise InputError(
            f"{run.run_id}: a run of {stage}, which leaves nothing to compare; give one of {known}, or an arm"
        )
    if run.status != "FINISHED":
        raise InputError(
            f"{run.run_id}: this run of {stage} is {run.status}, not FINISHED; run it again, which goes on where it stopped"
        )
    seed = run.params.get(f"{stage}.seed", "")
    holder = run.tags.get("icr.reused_run", run.run_id)
    found = _side_run(store, f"{stage} run {run.run_id}", holder, [run], int(seed) if seed.isdigit() else None, {})
    return Side(f"{stage} {run.run_id[:8]}", run.run_id, "stage", (found,))


# Artifacts and files ------------------------------------------------------------------------------------------------------------------


def _stored_artifact(store: Store, given: str) -> Side:
    run_id, _, name = given.removeprefix("runs:/").partition("/")
    run = store.reader.run(run_id)
    if not name:
        raise InputError(f"{given}: names no artifact; give {given.rstrip('/')}/outputs, or the id alone for the run")
    if run.deleted:
        raise InputError(
            f"{given}: the run is deleted; restore it (`mlflow runs restore --run-id {run_id}`), or give another"
        )
    holder = run.tags.get("icr.reused_run", run_id)
    return _of_path(given, store.reader.artifact(holder, name, store.cache))


def _of_path(given: str, path: Path) -> Side:
    """An artifact, the folder of a stage's artifacts, or outputs as people have them."""
    identity = str(path.resolve()) if "{language}" not in given else str(path)
    manifest = own_manifest(path) if path.is_dir() else None
    names = {"instruction_outputs": "outputs"}
    known = {schema.name: name for name, (_, schema) in ARTIFACTS.items() if name not in names}
    if manifest is not None:
        name = known.get(manifest["table"])
        if name is None:
            raise InputError(
                f"{given}: an artifact of {manifest['table']!r}, which is not compared; give one of {', '.join(known.values())}"
            )
        kind: Kind = "artifact"
        places = {name: lambda: path}
    else:
        places = {
            name: lambda name=name: path / name  # type: ignore[misc]
            for name, (_, schema) in ARTIFACTS.items()
            if path.is_dir() and (own_manifest(path / name) or {}).get("table") == schema.name
        }
        kind = "artifact" if places else "file"
    source = str(places["outputs"]()) if "outputs" in places else "" if places else str(path)
    run = SideRun(given, places=places, identity=identity)
    if "judgments" in places and (judgments := run.open("judgments")) is not None and judgments.rows:
        named = ", ".join(sorted(set(judgments.read(["judge"])["judge"].to_pylist())))
        run = replace(run, judged=Judged(named, "", None))
    return Side(given, given, kind, (run,), source=source)


def _aligned(sides: Sequence[Side]) -> list[Side]:
    """Arms at iterations that compare: each at its last one, or, where an arm did not finish, none beyond that arm's last."""
    unfinished = [side for side in sides if side.kind == "arm" and not side.is_finished and not side.is_pinned]
    if not unfinished:
        return list(sides)
    reached = min(side.iteration or 0 for side in unfinished)
    found = []
    for side in sides:
        if side.kind != "arm" or side.is_pinned or (side.iteration or 0) <= reached:
            found.append(side)
            continue
        at = max((number for number in side.iterations if number <= reached), default=None)
        if at is None:
            raise InputError(
                f"{side.given}: has no iteration up to {reached}, which is as far as {unfinished[0].given} got; name iterations, as in {side.given}@{side.iteration}"
            )
        note = f"{side.name}: iteration {at} is compared, for {unfinished[0].name} got no further"
        found.append(replace(side.at(at), notes=(*side.notes, note)))
    return found


def _with_names_that_differ(sides: Sequence[Side]) -> list[Side]:
    """Paths by what tells them apart; sides of one name with what was given, or numbered."""
    places = [side for side in sides if side.kind in ("artifact", "file")]
    short = {
        side.given: _ENDINGS.sub("", name)
        for side, name in zip(places, _apart([side.given for side in places]), strict=True)
    }
    named = [replace(side, name=short.get(side.given, side.name)) for side in sides]
    names = [side.name for side in named]
    named = [
        replace(side, name=f"{side.name} {side.given}")
        if names.count(side.name) > 1 and side.given != side.name
        else side
        for side in named
    ]
    names = [side.name for side in named]
    return [
        replace(side, name=f"{side.name} ({index + 1})") if names.count(side.name) > 1 else side
        for index, side in enumerate(named)
    ]


_ENDINGS = re.compile(r"(\.(json|jsonl|csv|tsv|parquet|gz|zst|bz2|xz))+$")


def _apart(paths: Sequence[str]) -> list[str]:
    """Paths without what they begin and end with alike, in whole parts; of one alone its last part.

    >>> _apart(["out/{language}/a.json", "out/{language}/b.json"]), _apart(["run-1/outputs", "run-2/outputs"]), _apart(["x/y"])
    (['a.json', 'b.json'], ['run-1', 'run-2'], ['y'])
    """
    parts = [path.rstrip("/").split("/") for path in paths]
    if len(parts) < 2:
        return [one[-1] for one in parts]
    least = min(map(len, parts)) - 1
    begin = next((index for index in range(least) if len({one[index] for one in parts}) > 1), least)
    end = next((index for index in range(least - begin) if len({one[-1 - index] for one in parts}) > 1), least - begin)
    return ["/".join(one[begin : len(one) - end]) for one in parts]
