"""`icr eval` on outputs that are there already: what is known of them is kept, and length control has AlpacaEval's figures."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from icr_platform.core.artifacts import MANIFEST, ArtifactWriter, open_artifact, read_json, write_json
from icr_platform.core.schemas import JUDGMENTS, OUTPUTS, SCORES
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.demo import IDENTIFIER
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.stage import read, run


def icr_eval(folder: Path, **flags: object) -> subprocess.CompletedProcess[str]:
    """`icr eval` as a person calls it, without MLflow."""
    given = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "icr_platform", "eval", "--no-tracking", "--output", str(folder), *given]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"OPENAI_API_KEY": "key", "COLUMNS": "200"},
        cwd=folder.parent,
    )


def scores_in(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    rows = open_artifact(folder / "scores", SCORES).read().to_pylist()
    return {(row["language"], row["metric"]): row for row in rows}


@pytest.fixture
def sampled(tiny_model: Path, prompt_folder: Path, tmp_path: Path) -> tuple[dict[str, object], StageResult]:
    """Outputs of two samples a prompt, most of them cut."""
    settings: dict[str, object] = {"prompts": str(prompt_folder), "shard_prompts": 4, "device": "cpu"}
    policy = {"policy": str(tiny_model), "samples": 2, "max_tokens": 3}
    return settings, run(read(EvalConfig(**settings, **policy)), StageContext(tmp_path / "first", "f"))


def outputs_in(folder: Path) -> pd.DataFrame:
    return open_artifact(folder / "outputs", OUTPUTS).read().to_pandas()


def test_an_artifact_of_outputs_stays_what_it_is(
    sampled: tuple[dict[str, object], StageResult], tmp_path: Path
) -> None:
    settings, first = sampled
    assert first.metrics["truncated/es"] > 50
    artifact = first.artifacts["outputs"]
    manifest = read_json(artifact / MANIFEST)
    write_json(artifact / MANIFEST, manifest | {"schema_version": 1})  # as before the columns could be null
    again = run(read(EvalConfig(**settings, outputs=str(artifact))), StageContext(tmp_path / "again", "f"))
    pd.testing.assert_frame_equal(outputs_in(tmp_path / "again"), outputs_in(tmp_path / "first"))
    assert again.metrics == first.metrics
    third = run(
        read(EvalConfig(**settings, outputs=str(tmp_path / "again" / "outputs"))), StageContext(tmp_path / "third", "f")
    )
    assert third.metrics == first.metrics


def test_another_identifier_tells_the_languages_anew_and_says_so(
    sampled: tuple[dict[str, object], StageResult], tmp_path: Path
) -> None:
    settings, first = sampled
    settings = settings | {"outputs": str(first.artifacts["outputs"])}
    kept = run(read(EvalConfig(**settings)), StageContext(tmp_path / "kept", "f"))
    assert not any("identified again" in note for note in kept.notes)
    other = run(read(EvalConfig(**settings, language_identifier=IDENTIFIER)), StageContext(tmp_path / "other", "f"))
    assert any(f"identified again by {IDENTIFIER} instead of" in note for note in other.notes)
    before, after = outputs_in(tmp_path / "first"), outputs_in(tmp_path / "other")
    assert (before["detected_language"] != after["detected_language"]).any()
    same = ["output", "finish_reason", "token_count", "sample_index"]
    pd.testing.assert_frame_equal(before[same], after[same])


def test_a_sample_keeps_its_index_and_its_row(sampled: tuple[dict[str, object], StageResult], tmp_path: Path) -> None:
    settings, first = sampled
    rows = open_artifact(first.artifacts["outputs"], OUTPUTS).read().to_pylist()
    for row in rows:
        row["sample_index"] = 5 - 2 * row["sample_index"]
    random.Random(0).shuffle(rows)
    rows[0] |= {"finish_reason": None, "token_count": None}
    writer = ArtifactWriter(tmp_path / "given", OUTPUTS, "f")
    writer.write_part(0, pa.Table.from_pylist(rows, schema=OUTPUTS.schema))
    writer.close(1)
    result = run(read(EvalConfig(**settings, outputs=str(tmp_path / "given"))), StageContext(tmp_path / "again", "f"))
    found = open_artifact(result.artifacts["outputs"], OUTPUTS).read().to_pylist()
    found, given = (
        sorted(each, key=lambda row: (row["language"], row["prompt_id"], row["sample_index"])) for each in (found, rows)
    )
    assert found == given
    assert scores_in(tmp_path / "again")[rows[0]["language"], "truncated"]["n"] == 11
    assert any("finish reason unknown of 1 of 12 outputs" in note for note in result.notes)


def test_of_plain_files_nobody_knows_how_the_outputs_ended(prompt_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for path in prompt_folder.glob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        answers = [{"id": row["id"], "output": "manzana " * 3} for row in rows]
        (tmp_path / "plain" / f"{path.stem}.json").write_text(json.dumps(answers), encoding="utf-8")
    done = icr_eval(tmp_path / "out", prompts=prompt_folder, outputs=tmp_path / "plain", language_identifier="demo")
    assert done.returncode == 0, done.stderr
    outputs = outputs_in(tmp_path / "out")
    assert outputs["finish_reason"].isna().all()
    assert outputs["token_count"].isna().all()
    score = scores_in(tmp_path / "out")["es", "truncated"]
    assert (score["value"], score["n"]) == (None, 0)
    assert score["flag"] == "finish reason unknown of 6 of 6 outputs"
    assert ("mean", "truncated") not in scores_in(tmp_path / "out")
    assert "In its language" in done.stdout
    assert "Truncated" not in done.stdout
    assert "do not say how they ended" in done.stdout + done.stderr


@pytest.fixture
def stored_judge() -> Iterator[Callable[[Mapping[str, float | None]], str]]:
    """`stored_judge(preferences)`: URL of a judge that gives each instruction a stored preference, by log-probabilities, in either
    order; the model's outputs are made of c, the reference's of r. It fails where the preference is None."""
    servers = []

    def start(preferences: Mapping[str, float | None]) -> str:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                asked = request["messages"][-1]["content"]
                instruction = asked.split("<instruction>\n", 1)[1].split("\n</instruction>\n\n<output system=", 1)[0]
                wins = preferences[instruction]
                m = wins if wins is None or '<output system="m">\nc' in asked else 1 - wins
                top = [{"token": token, "logprob": _log(p)} for token, p in _labels(m)]
                choice = {"message": {"content": top[0]["token"]}, "finish_reason": "length",
                          "logprobs": {"content": [top[0] | {"top_logprobs": top}]}}  # fmt: skip
                body = json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}/v1"

    yield start
    for server in servers:
        server.shutdown()


def _labels(m: float | None) -> list[tuple[str, float]]:
    if m is None:  # it reasons first
        return [("<think>", 0.993), ("m", 0.006), ("M", 0.001)]
    return [("m", m), ("M", 1 - m)]


def _log(probability: float) -> float:
    import math

    return math.log(probability) if probability > 0 else -9999.0


def write_rows(folder: Path, rows: list[dict[str, object]]) -> Path:
    folder.mkdir()
    (folder / "en.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


def test_stored_judgments_give_the_published_length_controlled_win_rate(
    shared_data: Path, tmp_path: Path, stored_judge: Callable[[Mapping[str, float | None]], str]
) -> None:
    """Through the command line, AlpacaEval's own file, ids 1 .. 805 dealt anew and prompts in another order."""
    folder = shared_data / "lc-parity"
    stored = pd.read_csv(folder / "claude-2.csv").set_index("index")
    published = pd.read_csv(folder / "leaderboard.csv").set_index("model").loc["claude-2", "length_controlled_winrate"]
    rows = json.loads((shared_data / "prompts" / "x-alpacaeval" / "en.json").read_text(encoding="utf-8"))
    texts = [row["instruction"] for row in sorted(rows, key=lambda row: int(row["id"]))]
    ids, order = list(range(1, 806)), list(stored.index)
    random.Random(1).shuffle(ids)
    random.Random(2).shuffle(order)
    keyed = [{"id": ids[i], "instruction": texts[i]} for i in order]
    url = stored_judge({texts[i]: stored.loc[i, "preference"] - 1 for i in order})
    ours, theirs = (
        [row | {"output": letter * int(stored.loc[i, column])} for i, row in zip(order, keyed, strict=True)]
        for letter, column in (("c", "output_2_length"), ("r", "output_1_length"))
    )
    done = icr_eval(
        tmp_path / "out", prompts=write_rows(tmp_path / "prompts", keyed), outputs=write_rows(tmp_path / "ours", ours),
        reference_outputs=write_rows(tmp_path / "theirs", theirs), judge="openai", judge_api_model="stored", judge_url=url,
        judge_cache=tmp_path / "cache", language_identifier="demo", difficulty=folder / "instruction_difficulty.csv",
        anchors=folder / "gamed_surrogate.csv",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    score = scores_in(tmp_path / "out")["en", "lc_win_rate"]
    assert score["value"] == pytest.approx(published, abs=0.1)
    assert (score["n"], score["flag"]) == (805, "full")


def test_a_judge_that_reasons_first_fails_the_run_and_names_why(
    prompt_folder: Path, tmp_path: Path, stored_judge: Callable[[Mapping[str, float | None]], str]
) -> None:
    rows = [json.loads(line) for line in (prompt_folder / "en.jsonl").read_text(encoding="utf-8").splitlines()]
    url = stored_judge({row["instruction"]: None for row in rows})
    flags: dict[str, object] = {
        "prompts": prompt_folder, "languages": "en", "judge": "openai", "judge_api_model": "stored", "judge_url": url,
        "judge_cache": tmp_path / "cache", "language_identifier": "demo",
        "outputs": write_rows(tmp_path / "ours", [row | {"output": "ccc"} for row in rows]),
        "reference_outputs": write_rows(tmp_path / "theirs", [row | {"output": "rrr"} for row in rows]),
    }  # fmt: skip
    failed = icr_eval(tmp_path / "out", **flags)
    assert failed.returncode == 1
    [line] = failed.stderr.strip().splitlines()[-1:]
    assert re.search(r"12 of 12 judgments failed .*parse_error 12.* hold 0\.007 of the first token's probability", line)
    kept = open_artifact(tmp_path / "out" / "judgments", JUDGMENTS).read().to_pylist()
    assert {(row["outcome"], row["preference"]) for row in kept} == {("parse_error", None)}
    asked = icr_eval(tmp_path / "low", **flags, judge_min_mass=0.001)
    assert asked.returncode == 0, asked.stderr
    assert "in 100.00% of 12 judgments the labels have less than 0.5 of the probability" in asked.stdout + asked.stderr
