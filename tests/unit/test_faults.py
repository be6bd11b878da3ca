"""One prompt that cannot be answered never ends a run: it is dropped with a reason, counted, shown, and asked again where that helps."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.annotation.context_fit import ContextFit
from icr_platform.annotation.filters import KEPT, FilterResult
from icr_platform.annotation.prompt_index import Instructions
from icr_platform.core.artifacts import Artifact, open_artifact
from icr_platform.core.config import CHAT_DEFAULTS
from icr_platform.core.conversations import Conversation
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.faults import FAULTS, require_few_faults
from icr_platform.core.schemas import DROPS, OUTPUTS, PREFERENCES, RESPONSES, REWARDS
from icr_platform.core.stage_protocol import StageContext, StageResult
from icr_platform.engines.sampling.prompt_checks import check_prompts
from icr_platform.engines.sampling.sampler import Request
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig, MtBenchConfig
from icr_platform.evaluation.mt_bench import Question, dropped_questions, no_answer, rating_metrics
from icr_platform.evaluation.mt_bench_stage import sample_answers
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.chat import encode_prompt
from icr_platform.models.context import context_of
from icr_platform.models.loading import load_tokenizer
from tests.support.tiny_models import CHATML

LAB = '''
import json
from pathlib import Path
from icr_platform.engines.sampling.sampler import Dropped, Sample, Sampler

class Faulty(Sampler):
    """Drops the prompts that faults.json names, by id, and writes down which it was asked."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def sample(self, requests, samples, seed, advance=None):
        faults = json.loads((self.folder / "faults.json").read_text())
        with (self.folder / "asked").open("a") as file:
            file.writelines(request.prompt_id + "\\n" for request in requests)
        return [
            Dropped(faults[request.prompt_id], "seen") if request.prompt_id in faults
            else [Sample(f"{request.instruction} {index}", [5, index], "stop") for index in range(samples)]
            for request in requests
        ]

def load(settings, policy, chat):
    return Faulty(settings.server_model)
'''


class Lab:
    """Runs of a sampler whose faults a test decides."""

    def __init__(self, folder: Path, model: Path, prompts: Path) -> None:
        self.folder = folder
        self.common = {
            "policy": str(model), "prompts": str(prompts), "languages": ("es", "en"), "sampler": "faulty_lab:load", "samples": 2,
            "shard_prompts": 4, "server_model": str(folder),
        }  # fmt: skip
        self.faults()

    def faults(self, **reasons: str) -> None:
        (self.folder / "faults.json").write_text(json.dumps(reasons))

    def asked(self) -> list[str]:
        """Which prompts were asked since the last call."""
        path = self.folder / "asked"
        ids = path.read_text().split() if path.exists() else []
        path.unlink(missing_ok=True)
        return ids

    def generate(self, folder: str, **settings: Any) -> StageResult:
        config = GenerateConfig(**(self.common | settings))
        return generation.run(generation.read(config), StageContext(self.folder / folder, "f"))

    def evaluate(self, folder: str, **settings: Any) -> StageResult:
        config = EvalConfig(**(self.common | settings))
        return evaluation.run(evaluation.read(config), StageContext(self.folder / folder, "f"))


@pytest.fixture
def lab(tiny_model: Path, prompt_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    (tmp_path / "faulty_lab.py").write_text(LAB)
    monkeypatch.syspath_prepend(tmp_path)
    return Lab(tmp_path, tiny_model, prompt_folder)


def bytes_of(artifact: Artifact) -> list[bytes]:
    return [part.read_bytes() for part in artifact.parts]


def test_a_prompt_that_cannot_be_answered_is_dropped_and_asked_again_where_that_helps(lab: Lab) -> None:
    lab.generate("good")
    lab.asked()
    lab.faults(p1="too-long", p5="endpoint-error")
    result = lab.generate("out", max_dropped=40)
    drops = open_artifact(lab.folder / "out/generation_drops", DROPS).read().to_pylist()
    assert [(row["language"], row["prompt_id"], row["sample_index"], row["reason"]) for row in drops] == [
        (language, prompt_id, None, reason)
        for language in ("es", "en")
        for prompt_id, reason in (("p1", "too-long"), ("p5", "endpoint-error"))
    ]
    responses = open_artifact(lab.folder / "out/responses", RESPONSES)
    assert responses.rows == 2 * (12 - len(drops))  # responses and drops add up to the prompts
    assert result.metrics["dropped/es"] == pytest.approx(100 * 2 / 6)
    assert result.notes == (
        "es: 1 prompts were dropped because they do not fit into the model's context; generation_drops lists them",
        "es: 1 prompts were dropped because the endpoint failed on them; generation_drops lists them",
        "en: 1 prompts were dropped because they do not fit into the model's context; generation_drops lists them",
        "en: 1 prompts were dropped because the endpoint failed on them; generation_drops lists them",
    )
    # The endpoint is back: what it failed on is asked, and nothing else.
    lab.asked()
    lab.faults(p1="too-long")
    lab.generate("out", max_dropped=40)
    assert lab.asked() == ["p5", "p5"]
    drops = open_artifact(lab.folder / "out/generation_drops", DROPS).read().to_pylist()
    assert [row["prompt_id"] for row in drops] == ["p1", "p1"]
    found = open_artifact(lab.folder / "out/responses", RESPONSES).read().to_pandas()
    good = open_artifact(lab.folder / "good/responses", RESPONSES).read().to_pandas()
    pd.testing.assert_frame_equal(found, good[good["prompt_id"] != "p1"].reset_index(drop=True))


def test_above_the_share_the_stage_fails_in_one_line_and_keeps_everything(lab: Lab) -> None:
    good = lab.generate("good")
    lab.faults(p1="endpoint-error", p2="endpoint-error", p4="refused")
    with pytest.raises(
        IcrError,
        match=r"^6 of 12 prompts were dropped \(50\.0%, above max_dropped 5%\), most as 'endpoint-error' \(4\): the endpoint failed on "
        r"them; run the same command again.*--max-dropped; all others have their responses in .*$",
    ):
        lab.generate("out")
    lab.asked()
    lab.faults()
    with pytest.raises(IcrError, match=r"^2 of 12 prompts .*most as 'refused'"):  # which asking again does not help
        lab.generate("out")
    assert lab.asked() == ["p1", "p2"] * 2
    lab.generate("out", max_dropped=20)
    assert lab.asked() == []
    lab.generate("fresh")
    assert bytes_of(open_artifact(lab.folder / "fresh/responses", RESPONSES)) == bytes_of(
        open_artifact(good.artifacts["responses"], RESPONSES)
    )


def test_an_evaluation_says_which_prompts_have_no_output(lab: Lab) -> None:
    good = lab.evaluate("good")
    assert set(good.artifacts) == {"outputs", "confusion", "judgments", "scores"}
    assert not (lab.folder / "good/output_drops").exists()
    assert "dropped/es" not in good.metrics
    lab.faults(p3="endpoint-error")
    result = lab.evaluate("out", max_dropped=20)
    drops = open_artifact(result.artifacts["output_drops"], DROPS).read().to_pylist()
    assert [(row["language"], row["prompt_id"], row["reason"]) for row in drops] == [
        ("es", "p3", "endpoint-error"), ("en", "p3", "endpoint-error"),
    ]  # fmt: skip
    assert open_artifact(result.artifacts["outputs"], OUTPUTS).rows == 2 * (12 - 2)
    assert result.metrics["dropped/es"] == pytest.approx(100 / 6)
    assert "es: 1 prompts were dropped because the endpoint failed on them; output_drops lists them" in result.notes
    lab.asked()
    with pytest.raises(
        IcrError, match=r"^2 of 12 prompts were dropped .*'endpoint-error'.*all others have their outputs"
    ):
        lab.evaluate("out")
    assert lab.asked() == ["p3", "p3"]
    lab.faults()
    again = lab.evaluate("out")
    assert bytes_of(open_artifact(again.artifacts["outputs"], OUTPUTS)) == bytes_of(
        open_artifact(good.artifacts["outputs"], OUTPUTS)
    )
    assert again.metrics == good.metrics


def test_a_question_of_mt_bench_without_an_answer_is_dropped_and_not_graded(lab: Lab) -> None:
    from faulty_lab import Faulty  # type: ignore[import-not-found]

    questions = [Question("es", name, "stem", ("Uno.", "Dos.")) for name in ("a", "b", "c")]
    lab.faults(**{"a.1": "refused", "b.2": "too-long"})
    answers = sample_answers(Faulty(lab.folder), questions, MtBenchConfig())
    assert answers["es", "c"] == ("Uno. 0", "Dos. 0")
    assert lab.asked() == ["a.1", "b.1", "c.1", "b.2", "c.2"]
    rows = []
    for question in questions:
        answer = answers[question.key]
        for turn in (1, 2):
            graded = {"rating": 7.0, "outcome": "ok", "detail": ""}
            grade = graded if isinstance(answer, tuple) else no_answer(answer)._asdict()
            rows.append({"language": "es", "question_id": question.question_id, "turn": turn, **grade})
    frame = pd.DataFrame(rows)
    metrics = rating_metrics(frame)
    assert (metrics["mt_bench/es"], metrics["mt_bench/n"], metrics["mt_bench/failure_rate"]) == (7.0, 2.0, 0.0)
    assert metrics["mt_bench/dropped"] == pytest.approx(100 * 2 / 3)
    assert dropped_questions(frame)[["question_id", "reason"]].values.tolist() == [["a", "refused"], ["b", "too-long"]]


@pytest.mark.parametrize(
    ("counts", "total", "limit", "fails"),
    [
        ({}, 0, 0, False),
        ({}, 10, 0, False),
        ({"too-long": 1}, 10, 0, True),
        ({"too-long": 1}, 20, 5, False),  # exactly the share
        ({"too-long": 2}, 20, 5, True),
        ({"empty": 20}, 20, 0, False),  # a filter, which measures the policy
        ({"refused": 20}, 20, 100, False),
    ],
)
def test_only_faults_count_and_only_above_the_share(
    counts: dict[str, int], total: int, limit: float, fails: bool
) -> None:
    if not fails:
        require_few_faults(counts, total, limit, "prompts")
        return
    with pytest.raises(IcrError) as error:
        require_few_faults(counts, total, limit, "prompts")
    assert "\n" not in str(error.value)
    assert FAULTS["too-long"].fix in str(error.value)


def long_prompt(folder: Path, language: str, words: int) -> None:
    """The fourth prompt of a language becomes `words` words long."""
    path = folder / f"{language}.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    field = next(name for name in ("instruction", "prompt") if name in rows[3])
    rows[3][field] = "fruta " * words
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def stages(model: Path, prompts: Path, **settings: Any) -> dict[str, Any]:
    common = {"policy": str(model), "prompts": str(prompts), "languages": "es,en", "max_tokens": 8, **settings}
    return {
        "generate": lambda: generation.read(GenerateConfig(**common)),
        "eval": lambda: evaluation.read(EvalConfig(**common)),
    }


@pytest.mark.parametrize("stage", ["generate", "eval"])
def test_prompts_longer_than_the_context_are_found_before_work(
    stage: str, tiny_model: Path, prompt_folder: Path
) -> None:
    stages(tiny_model, prompt_folder)[stage]()
    long_prompt(prompt_folder, "es", 2000)
    with pytest.raises(
        InputError,
        match=r"^1 of 12 prompts were dropped \(8\.3%, above max_dropped 5%\), most as 'too-long' .*the first is 'p3' in 'es': \d+ tokens, and "
        r"the context is 512$",
    ):
        stages(tiny_model, prompt_folder)[stage]()
    stages(tiny_model, prompt_folder, max_dropped=10)[stage]()


def test_a_long_prompt_is_dropped_in_its_language_and_costs_the_others_nothing(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path
) -> None:
    def generate(name: str) -> StageResult:
        config = GenerateConfig(
            policy=str(tiny_model),
            prompts=str(prompt_folder),
            languages="es,en",
            samples=2,
            max_tokens=8,
            max_dropped=10,
            shard_prompts=4,
        )
        return generation.run(generation.read(config), StageContext(tmp_path / name, "f"))

    good = open_artifact(generate("good").artifacts["responses"], RESPONSES).read().to_pandas()
    long_prompt(prompt_folder, "es", 2000)
    result = generate("long")
    (drop,) = open_artifact(result.artifacts["generation_drops"], DROPS).read().to_pylist()
    assert (drop["language"], drop["prompt_id"], drop["reason"]) == ("es", "p3", "too-long")
    assert drop["detail"].endswith(" tokens, and the context is 512")
    found = open_artifact(result.artifacts["responses"], RESPONSES).read().to_pandas()
    kept = good[~((good["language"] == "es") & (good["prompt_id"] == "p3"))].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, kept)


@pytest.mark.parametrize("kind", ["cross-lingual", "multilingual", "cross-lingual,random"])
def test_samples_that_do_not_fit_behind_the_english_instruction_are_dropped(
    kind: str, tiny_models: tuple[Path, Path], prompt_folder: Path, tmp_path: Path
) -> None:
    policy, reference = map(str, tiny_models)
    common = {"policy": policy, "prompts": str(prompt_folder)}
    made = generation.run(
        generation.read(GenerateConfig(**common, languages="es,de", samples=3, max_tokens=8)),
        StageContext(tmp_path / "g", "f"),
    )

    def annotate(name: str, **settings: Any) -> StageResult:
        config = AnnotateConfig(
            **common, reference=reference, responses=str(made.artifacts["responses"]), drop_truncated=False, drop_wrong_language=False,
            reward_kind=kind, **settings,
        )  # fmt: skip
        return annotation.run(annotation.read(config), StageContext(tmp_path / name, "f"))

    good = annotate("good")
    rewards = open_artifact(good.artifacts["rewards"], REWARDS).read().to_pandas()
    assert not any("too-long" in name for name in good.metrics)
    long_prompt(prompt_folder, "en", 2000)  # the Spanish and German p3 stay as short as they were
    if kind == "multilingual":  # which scores after the native instruction
        assert bytes_of(open_artifact(annotate("long").artifacts["rewards"], REWARDS)) == bytes_of(
            open_artifact(good.artifacts["rewards"], REWARDS)
        )
        return
    with pytest.raises(
        InputError, match=r"^6 of 36 samples were dropped \(16\.7%, above max_dropped 5%\), most as 'too-long'"
    ):
        annotate("refused")
    result = annotate("long", max_dropped=20)
    drops = open_artifact(result.artifacts["drops"], DROPS).read().to_pandas()
    long = drops[(drops["prompt_id"] == "p3") & drops["sample_index"].notna()]
    assert set(long["reason"]) == {"too-long"}
    assert long["detail"].str.fullmatch(r"\d+ tokens with the instruction, and the context is 512").all()
    pairs = open_artifact(result.artifacts["preferences"], PREFERENCES).read().to_pandas()
    for language in ("es", "de"):  # pairs and drops add up
        prompts = drops[(drops["language"] == language) & drops["sample_index"].isna()]
        assert len(pairs[pairs["language"] == language]) + len(prompts) == 6
        assert result.metrics[f"dropped_samples/too-long/{language}"] == pytest.approx(3 / 18)
        said = f"{language}: 3 samples were dropped because they do not fit into the model's context; drops lists them"
        assert said in result.notes
    found = open_artifact(result.artifacts["rewards"], REWARDS).read().to_pandas()
    others = rewards["prompt_id"] != "p3"
    pd.testing.assert_frame_equal(found[others], rewards[others])
    assert found[~others]["reward"].isna().all()


def test_a_translation_that_does_not_fit_is_dropped_with_its_sample(tiny_model: Path) -> None:
    config = AnnotateConfig(policy=str(tiny_model), reference=str(tiny_model), reward_kind="translate,cross-lingual")
    prompts = {
        ("es", "p"): Instructions(Conversation("Hola."), Conversation("Hi.")),
        ("en", "p"): Instructions(Conversation("Hi."), Conversation("Hi.")),
    }
    fit = ContextFit(config, prompts)
    rows = pa.table({"language": ["es", "es", "es", "en"], "prompt_id": ["p"] * 4, "token_count": [5, 5, 600, 500]})
    rows = rows.append_column("response", pa.array(["fruta"] * 4))
    texts = ["short", "fruta " * 600, "short", None]
    seen = [result.reason for result in fit.applied(rows, [KEPT] * 4, texts)]
    assert seen == ["", "too-long", "too-long", "too-long"]
    assert [result.reason for result in fit.applied(rows, [KEPT] * 4)] == ["", "", "too-long", "too-long"]
    empty = FilterResult("empty", "")
    assert fit.applied(rows, [empty] * 4, texts) == [empty] * 4  # which it was before


@pytest.mark.parametrize("tokens", [511, 512, 513])
def test_a_sequence_may_fill_the_context_and_no_more(tokens: int, tiny_model: Path) -> None:
    config = AnnotateConfig(policy=str(tiny_model), reference=str(tiny_model), reward_kind="multilingual")
    fit = ContextFit(config, {("en", "p"): Instructions(Conversation("Hi."), Conversation("Hi."))})
    prompt = len(encode_prompt(load_tokenizer(str(tiny_model)), "Hi."))
    rows = pa.table({"language": ["en"], "prompt_id": ["p"], "token_count": [tokens - prompt], "response": ["fruit"]})
    ((reason, detail),) = fit.applied(rows, [KEPT])
    assert (reason, detail[:3]) == (("too-long", "513") if tokens > 512 else ("", ""))


@pytest.mark.parametrize(
    ("left", "fate"), [(-1, "too-long"), (0, "too-long"), (1, "cut"), (255, "cut"), (256, ""), (300, "")]
)
def test_what_a_prompt_leaves_of_the_context_decides(left: int, fate: str, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    text = ""
    while len(encode_prompt(tokenizer, text)) < 512 - left:
        text += "\u00e9"  # two bytes, at most two tokens
    if len(encode_prompt(tokenizer, text)) > 512 - left:
        text = text[:-1] + "~"
    assert len(encode_prompt(tokenizer, text)) == 512 - left
    check = check_prompts(
        SamplingSettings(max_tokens=400), str(tiny_model), CHAT_DEFAULTS, [Request("es", "p", text)], max_dropped=100
    )
    assert [(request.prompt_id, dropped.reason) for request, dropped in check.dropped] == [("p", fate)] * (
        fate == "too-long"
    )
    assert len(check.dropped_notes) == len(check.dropped)
    assert check.notes == (
        ("1 of 1 prompts leave fewer than 256 of the context's 512 tokens to the response, which is cut there",)
        if fate == "cut"
        else ()
    )


def test_a_text_that_the_template_refuses_is_dropped_and_the_others_are_answered(
    tiny_model: Path, prompt_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "guarded"
    shutil.copytree(tiny_model, model)
    guard = "{% if 'fruta' in messages[-1]['content'] %}{{ raise_exception('no fruit') }}{% endif %}"
    (model / "chat_template.jinja").write_text(guard + CHATML)
    config = GenerateConfig(
        policy=str(model), prompts=str(prompt_folder), languages="es,en", samples=1, max_tokens=4, max_dropped=10
    )
    result = generation.run(generation.read(config), StageContext(tmp_path / "out", "f"))
    (drop,) = open_artifact(result.artifacts["generation_drops"], DROPS).read().to_pylist()
    assert (drop["prompt_id"], drop["reason"], drop["detail"]) == ("p0", "chat-template", "no fruit")
    assert (
        "es: 1 prompts were dropped because the chat template refuses them; generation_drops lists them" in result.notes
    )


CONTEXTS: list[tuple[dict[str, Any], int | None]] = [
    ({"max_position_embeddings": 4096}, 4096),
    ({"n_positions": 1024, "max_position_embeddings": 1024}, 1024),
    ({"max_seq_len": 2048}, 2048),
    ({}, None),  # recurrent, or ALiBi
    ({"max_position_embeddings": -1}, None),
    ({"max_position_embeddings": None, "seq_length": 8192}, 8192),
    ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, 16384),
    ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 8192),
    ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
    ({"max_position_embeddings": 131072, "rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, 131072),
    ({"max_position_embeddings": 131072, "rope_parameters": {"rope_type": "longrope", "factor": 32.0}}, 131072),
    # Both are seen: the length before the stretching, and after it.
    ({"max_position_embeddings": 32768,
      "rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),
    ({"max_position_embeddings": 131072,
      "rope_parameters": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}}, 131072),
    ({"max_position_embeddings": 40960, "rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, 40960),
    ({"max_position_embeddings": 131072, "model_type": "gemma3_text",
      "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}}, 131072),
    ({"max_position_embeddings": 1000,
      "rope_parameters": {"full_attention": {"rope_type": "default"}, "other": {"rope_type": "linear", "factor": 2.0}}}, 2000),
    ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "linear", "factor": None}}, 4096),
    ({"max_position_embeddings": 4096, "sliding_window": 512}, 4096),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "expected"), CONTEXTS)
def test_the_context_is_read_from_a_config_of_any_family(fields: dict[str, Any], expected: int | None) -> None:
    assert context_of(SimpleNamespace(**fields)) == expected
    whole = SimpleNamespace(max_position_embeddings=7, get_text_config=lambda: SimpleNamespace(**fields))
    assert context_of(whole) == expected  # images and text: the text's own


def test_a_stage_whose_every_prompt_is_dropped_says_so(lab: Lab) -> None:
    lab.faults(**{f"p{number}": "refused" for number in range(6)})
    made = lab.generate("out", max_dropped=100)
    assert (made.metrics["dropped/es"], made.metrics["dropped/en"]) == (100.0, 100.0)
    assert open_artifact(made.artifacts["responses"], RESPONSES).rows == 0
    measured = lab.evaluate("eval", max_dropped=100)
    assert measured.metrics["dropped/es"] == 100.0
    assert not any(name.startswith("fidelity") for name in measured.metrics)
    for call in (lambda: lab.generate("out"), lambda: lab.evaluate("eval")):
        with pytest.raises(IcrError, match=r"^12 of 12 prompts were dropped \(100\.0%.*'refused'"):
            call()
