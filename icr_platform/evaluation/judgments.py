"""The judgments table, which a judge fills part by part."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import pyarrow as pa

from icr_platform.core.artifacts import MANIFEST, Artifact, ArtifactWriter, row_digest
from icr_platform.core.conversations import Conversation
from icr_platform.core.earlier import Earlier, with_earlier
from icr_platform.core.part_job import Advance, Make, PartJob
from icr_platform.core.schemas import JUDGMENTS
from icr_platform.engines.execution.map_parts import map_parts, worker_count
from icr_platform.engines.judging.choice import make_judge
from icr_platform.engines.judging.pairwise import Judgment, Pair, Template, is_preference
from icr_platform.engines.judging.settings import NO_JUDGE, JudgeSettings
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.inputs import EvaluationInputs

C = TypeVar("C", bound=JudgeSettings)


def pairs_of(outputs: pa.Table, inputs: EvaluationInputs) -> list[Pair]:
    """Pairs of a part of the outputs table; outputs without a reference output have none."""
    pairs = []
    columns = ["language", "prompt_id", "sample_index", "instruction", "output", "messages"]
    for row in outputs.select(columns).to_pylist():
        key = (row["language"], row["prompt_id"], row["sample_index"])
        reference = inputs.references.get(*key) if inputs.references is not None else None
        if reference is not None:
            asked = Conversation.of(row["instruction"], row["messages"]).text
            pairs.append(Pair(*key, asked, row["output"], reference))
    return pairs


def write_judgments(
    config: EvalConfig, inputs: EvaluationInputs, outputs: Artifact, writer: ArtifactWriter, earlier: Earlier
) -> Artifact:
    """Judge the parts that are missing, and those in which a request failed for good, and write the manifest."""
    if config.judge == NO_JUDGE:
        return writer.close(0)
    parts = len(outputs.parts)
    # A request that failed for good may succeed today: its part is judged again. What was judged of it comes from the replies' cache.
    left = [
        index
        for index in range(parts)
        if not writer.has_part(index) or "api_error" in writer.read_part(index)["outcome"].to_pylist()
    ]
    if left:
        (writer.folder / MANIFEST).unlink(missing_ok=True)
        done = outputs.rows - sum(outputs.read_part(index, ["language"]).num_rows for index in left)
        share = settings_of_a_worker(config, worker_count(config, len(left)))
        job = PartJob(
            label="judge",
            writers=(writer,),
            parts=left,
            shard=lambda index: pairs_of(outputs.read_part(index), inputs),
            load=partial(_load_judge, share, inputs.template, socket.gethostname()),
            rows=outputs.rows,
            done=done,
            gpus=int(config.judge == "logprob"),
            use="judge_input",
        )
        rows = earlier.rows("judgments", JUDGMENTS, never=("outcome", "api_error"))
        job = with_earlier(
            job,
            rows,
            lambda pairs: [pair_digest(pair) for pair in pairs],
            lambda pairs, items: [pairs[item] for item in items],
            counts_items=True,
        )
        map_parts(job, config)
    return writer.close(parts)


def settings_of_a_worker(config: C, workers: int) -> C:
    """The judge's settings with one worker's share of the concurrent requests."""
    return config.model_copy(update={"judge_concurrency": max(1, config.judge_concurrency // workers)})


def with_cache_of_this_host(config: C, driver: str) -> C:
    """The judge's settings with a cache that hosts other than `driver` have to themselves: SQLite's log works on one only."""
    host = socket.gethostname()
    return config if host == driver else config.model_copy(update={"judge_cache": str(config.cache_folder / host)})


def _load_judge(config: EvalConfig, template: Template, driver: str) -> Make:
    judge = make_judge(with_cache_of_this_host(config, driver), template, config.seed)

    def judge_parts(shards: Iterable[list[Pair]], advance: Advance) -> Iterator[tuple[pa.Table]]:
        asked: deque[list[Pair]] = deque()  # a judge may read ahead: whose judgments come next is remembered here

        def pairs() -> Iterator[list[Pair]]:
            for shard in shards:
                asked.append(shard)
                yield shard

        for judgments in judge.judge(pairs()):
            # What an endpoint was asked is counted where its replies are kept: what was taken from there costs nothing again.
            read = sum(judgment.input_tokens for judgment in judgments) if config.judge == "logprob" else 0
            advance(len({judgment[:3] for judgment in judgments}), read)
            yield (judgments_table(judgments, asked.popleft()),)

    return judge_parts


def judgments_table(judgments: list[Judgment], pairs: Sequence[Pair]) -> pa.Table:
    """As schemas.JUDGMENTS, with what each judgment is made from.

    Every judge's answers pass here: what is called 'ok' has a preference in [0, 1].
    """
    digests = {(pair.language, pair.prompt_id, pair.sample_index): pair_digest(pair) for pair in pairs}
    rows = []
    for judgment in judgments:
        if judgment.outcome == "ok" and not is_preference(judgment.preference):
            why = f"the judge's preference is {judgment.preference}, not a number from 0 to 1"
            judgment = judgment._replace(outcome="parse_error", detail=why)
        if judgment.outcome != "ok":
            judgment = judgment._replace(preference=None)
        rows.append(judgment._asdict() | {"input_digest": digests[judgment[:3]]})
    return pa.Table.from_pylist(rows, schema=JUDGMENTS.schema)


def pair_digest(pair: Pair) -> bytes:
    """What the judgments of a pair are made from, as their `input_digest` says it."""
    return row_digest(
        pair.language, pair.prompt_id, pair.sample_index, pair.instruction, pair.candidate, pair.reference
    )
