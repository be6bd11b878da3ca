"""The samplers: exact distributions, rows that depend on their own seed alone, and what happens when an engine fails."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icr_platform.core.config import CHAT_DEFAULTS, ChatSettings, validate
from icr_platform.core.errors import IcrError, InputError
from icr_platform.core.faults import TOO_LONG
from icr_platform.core.stage_protocol import StageContext
from icr_platform.demo import IDENTIFIER
from icr_platform.engines.sampling.choice import check_policy, engine_notes, make_sampler
from icr_platform.engines.sampling.decoding import Decoder, Done, Row
from icr_platform.engines.sampling.sampler import Dropped, Request, Sample, row_seed
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.engines.sampling.token_choice import Uniforms, choose_tokens, make_filters, make_penalties
from icr_platform.engines.sampling.transformers_sampler import TransformersSampler
from icr_platform.evaluation import mt_bench_stage
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig, MtBenchConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.models.chat import encode_messages, encode_prompt, encode_response
from icr_platform.models.loading import load_model, load_tokenizer
from tests.support.answers import answers
from tests.support.fault_server import KEY, MORE_FAULTS, fault_servers
from tests.support.tiny_models import CHATML

REQUESTS = [
    Request("en", "p0", "Name a fruit."),
    Request("es", "p0", "¿De qué color es la hierba? ¿Es un perro una herramienta?"),
    Request("de", "p0", "Was ist rot?"),
    Request("de", "p1", "Sag hallo."),
]


def sampler_of(model: Path, **settings: Any) -> TransformersSampler:
    sampler = make_sampler(SamplingSettings(**settings), str(model))
    assert isinstance(sampler, TransformersSampler)
    return sampler


def exact_probabilities(
    logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float = 0.0
) -> np.ndarray:
    """[vocabulary], token by token: those of min_p, of these the k likeliest, of those the fewest that hold top_p, renormalised."""
    scaled = logits.double().numpy() / temperature
    scaled[np.exp(scaled - scaled.max()) < min_p] = -np.inf
    order = sorted(range(len(scaled)), key=lambda token: -scaled[token])[: top_k or None]
    kept = np.exp(scaled[order] - scaled[order[0]])
    kept /= kept.sum()
    mass_before = np.concatenate([[0.0], np.cumsum(kept)[:-1]])
    result = np.zeros(len(scaled))
    for token, probability, before in zip(order, kept, mass_before, strict=True):
        result[token] = probability if before < top_p else 0.0
    return result / result.sum()


def naively_penalised(
    logits: torch.Tensor,
    prompt: Sequence[int],
    response: Sequence[int],
    repetition_penalty: float = 1.0,
    frequency_penalty: float = 0.0,
    presence_penalty: float = 0.0,
) -> torch.Tensor:
    """Token by token, by the definitions of OpenAI's API (frequency, presence) and of CTRL (repetition, arXiv 1909.05858)."""
    result = logits.clone()
    for token in {*prompt, *response}:
        result[token] = result[token] / repetition_penalty if result[token] > 0 else result[token] * repetition_penalty
    for token in set(response):
        result[token] -= frequency_penalty * list(response).count(token) + presence_penalty
    return result


@torch.inference_mode()
def exact_pairs(
    model: Path,
    request: Request,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float = 0.0,
    **penalties: float,
) -> dict[Any, float]:
    """Probability of every first two tokens, without cache, batch or padding; one token where it ends the turn."""
    tokenizer, network = load_tokenizer(str(model)), load_model(str(model), "float32", "cpu")
    prompt = encode_prompt(tokenizer, request.instruction)

    def after(ids: list[int]) -> np.ndarray:
        logits = naively_penalised(network(torch.tensor([ids])).logits[0, -1], prompt, ids[len(prompt) :], **penalties)
        return exact_probabilities(logits, temperature, top_k, top_p, min_p)

    result: dict[Any, float] = {}
    first = after(prompt)
    for token in np.flatnonzero(first):
        if token == tokenizer.eos_token_id:
            result[(int(token),)] = first[token]
            continue
        second = after([*prompt, int(token)])
        result |= {(int(token), int(other)): first[token] * second[other] for other in np.flatnonzero(second)}
    return result


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "others"),
    [
        (1.0, 0, 1.0, {}), (0.7, 0, 1.0, {}), (1.0, 5, 1.0, {}), (1.3, 0, 0.6, {}), (0.9, 20, 0.8, {}),
        (1.3, 0, 1.0, {"min_p": 0.1}), (1.5, 7, 0.9, {"min_p": 0.05}),
        (1.0, 0, 0.9, {"repetition_penalty": 1.4}), (0.8, 30, 1.0, {"presence_penalty": 1.5, "frequency_penalty": -0.5}),
    ],
)  # fmt: skip
def test_tokens_come_from_the_exact_distribution(
    tiny_model: Path, temperature: float, top_k: int, top_p: float, others: dict[str, float]
) -> None:
    draws = 3000
    sampler = sampler_of(
        tiny_model, temperature=temperature, top_k=top_k, top_p=top_p, max_tokens=2, batch_size=1500, **others
    )  # fmt: skip
    # Padding and batch-mates must not matter: a batch holds the prompt beside a longer one.
    samples = answers(sampler.sample(REQUESTS[:2], draws, seed=7))[0]
    seen = Counter(tuple(sample.token_ids) for sample in samples)
    expected = exact_pairs(tiny_model, REQUESTS[0], temperature, top_k, top_p, **others)
    assert set(seen) <= set(expected)
    frequent = {pair: p * draws for pair, p in expected.items() if p * draws >= 5}
    observed = [seen[pair] for pair in frequent] + [draws - sum(seen[pair] for pair in frequent)]
    wanted = [*frequent.values(), draws - sum(frequent.values())]
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted, strict=True) if w > 1)
    freedom = len(frequent)
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5  # chi-square: mean = freedom, variance = 2 * freedom


def test_penalties_are_those_of_a_loop_over_tokens() -> None:
    random, device = np.random.default_rng(0), torch.device("cpu")
    for repetition, frequency, presence in [(1.3, 0.0, 0.0), (0.6, 0.7, 0.0), (1.0, -1.2, 2.0), (2.0, 2.0, -2.0)]:
        settings = SamplingSettings(
            repetition_penalty=repetition, frequency_penalty=frequency, presence_penalty=presence
        )
        prompts = [random.integers(0, 12, size).tolist() for size in (1, 5, 3)]
        penalties = make_penalties(settings, 3, 12, device)
        assert penalties is not None
        responses: list[list[int]] = [[], [], []]
        penalties.begin(1, [7, 8])  # of the row that was at this place before
        penalties.add(torch.tensor([1]), torch.tensor([3]))
        for place, prompt in enumerate(prompts):
            penalties.begin(place, prompt)
        for alive in ([0, 1, 2], [0, 1, 2], [0, 2], [0, 2], [2], [2]):  # rows leave as they end
            logits = torch.from_numpy(random.normal(size=(len(alive), 12)) * 3).float()
            seen = penalties.apply(logits, torch.tensor(alive))
            for place, row in enumerate(alive):
                expected = naively_penalised(
                    logits[place], prompts[row], responses[row], repetition, frequency, presence
                )
                assert torch.allclose(seen[place], expected, atol=1e-5), (row, responses)
            tokens = random.integers(0, 12, len(alive)).tolist()
            penalties.add(torch.tensor(alive), torch.tensor(tokens))
            for row, token in zip(alive, tokens, strict=True):
                responses[row].append(token)
    assert make_penalties(SamplingSettings(), 3, 12, device) is None


@pytest.mark.parametrize("penalty", [0.7, 1.0, 1.5])
def test_a_greedy_row_with_a_repetition_penalty_is_what_generate_gives(tiny_model: Path, penalty: float) -> None:
    model: Any = load_model(str(tiny_model), "float32", "cpu")
    tokenizer = load_tokenizer(str(tiny_model))
    settings = {"temperature": 0, "repetition_penalty": penalty, "max_tokens": 30}
    together = answers(sampler_of(tiny_model, **settings).sample(REQUESTS, 1, seed=0))
    for request, samples in zip(REQUESTS, together, strict=True):
        prompt = torch.tensor([encode_prompt(tokenizer, request.instruction)])
        output = model.generate(prompt, do_sample=False, repetition_penalty=penalty, max_new_tokens=30)
        assert samples[0].token_ids == output[0, prompt.shape[1] :].tolist()


def test_a_row_depends_on_its_seed_alone(tiny_model: Path) -> None:
    together = answers(sampler_of(tiny_model, max_tokens=20, batch_size=64).sample(REQUESTS, 4, seed=3))
    penalties = {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3, "min_p": 0.02}
    penalised = sampler_of(tiny_model, max_tokens=20, batch_size=64, **penalties).sample(REQUESTS, 4, seed=3)
    for batch_size in (1, 3):
        assert sampler_of(tiny_model, max_tokens=20, batch_size=batch_size).sample(REQUESTS, 4, seed=3) == together
        alone = sampler_of(tiny_model, max_tokens=20, batch_size=batch_size, **penalties)
        assert alone.sample(REQUESTS, 4, seed=3) == penalised
    sampler = sampler_of(tiny_model, max_tokens=20)
    assert sampler.sample(REQUESTS[2:], 2, seed=3) == [samples[:2] for samples in together[2:]]
    assert sampler.sample(REQUESTS, 4, seed=4) != together
    assert len({str(samples[0].token_ids) for samples in together}) == len(REQUESTS)


def test_a_request_may_name_its_temperature(tiny_model: Path) -> None:
    warm, cold = (
        answers(sampler_of(tiny_model, temperature=t, max_tokens=12).sample(REQUESTS, 2, seed=3)) for t in (0.9, 0.0)
    )
    mixed = [replace(request, temperature=0.0 if i % 2 else None) for i, request in enumerate(REQUESTS)]
    found = answers(sampler_of(tiny_model, temperature=0.9, max_tokens=12, batch_size=3).sample(mixed, 2, seed=3))
    assert found == [cold[i] if i % 2 else warm[i] for i in range(len(REQUESTS))]


def test_greedy_is_what_generate_gives(tiny_model: Path) -> None:
    tokenizer, model = load_tokenizer(str(tiny_model)), load_model(str(tiny_model), "float32", "cpu")
    samples = answers(sampler_of(tiny_model, temperature=0, max_tokens=12).sample(REQUESTS, 1, seed=0))
    for request, (sample,) in zip(REQUESTS, samples, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, request.instruction)])
        generate: Any = model.generate
        output = generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
        assert sample.token_ids == output[0, ids.shape[1] :].tolist()


def test_responses_end_with_their_stop_token_or_at_the_limit(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    samples = [s for row in answers(sampler_of(tiny_model, max_tokens=8).sample(REQUESTS, 16, seed=0)) for s in row]
    assert {sample.finish_reason for sample in samples} == {"stop", "length"}
    for sample in samples:
        assert (sample.token_ids[-1] == tokenizer.eos_token_id) == (sample.finish_reason == "stop")
        assert tokenizer.eos_token_id not in sample.token_ids[:-1]
        assert sample.finish_reason == "stop" or len(sample.token_ids) == 8
        assert sample.text == tokenizer.decode(sample.token_ids, skip_special_tokens=True)


def test_the_context_limits_prompt_and_response_together(tiny_model: Path) -> None:
    sampler = sampler_of(tiny_model, max_tokens=100)
    prompt_length = len(encode_prompt(sampler.tokenizer, REQUESTS[0].instruction))
    sampler.context = prompt_length + 3
    assert max(len(sample.token_ids) for sample in answers(sampler.sample(REQUESTS[:1], 16, seed=0))[0]) == 3
    long = Request("es", "long", "Saluda " * 20)
    mixed = sampler.sample([REQUESTS[0], long, REQUESTS[0]], 2, seed=0)
    tokens = len(encode_prompt(sampler.tokenizer, long.instruction))
    assert mixed[1] == Dropped(TOO_LONG, f"{tokens} tokens, and the context is {prompt_length + 3}")
    assert mixed[0] == mixed[2] == sampler.sample(REQUESTS[:1], 2, seed=0)[0]


def test_without_enough_memory_the_batch_is_halved(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was finished before is kept, and told once."""
    expected = sampler_of(tiny_model, max_tokens=5).sample(REQUESTS, 3, seed=0)
    decode, sizes, told = Decoder.decode, list[tuple[int, int]](), list[int]()

    def scarce(self: Decoder, rows: Sequence[Row], batch_size: int, done: Done) -> None:
        sizes.append((len(rows), batch_size))

        def up_to_five(index: int, token_ids: list[int]) -> None:
            if batch_size > limit and len(told) == 5:
                raise torch.OutOfMemoryError("CUDA out of memory")
            done(index, token_ids)

        decode(self, rows, batch_size, up_to_five)

    monkeypatch.setattr(Decoder, "decode", scarce)
    limit = 2
    assert sampler_of(tiny_model, max_tokens=5).sample(REQUESTS, 3, 0, lambda rows, _: told.extend([rows])) == expected
    assert sizes == [(12, 64), (7, 6), (7, 3), (7, 1)]
    assert told == [1] * 12
    limit = 0
    told.clear()
    with pytest.raises(IcrError, match="memory does not hold"):
        sampler_of(tiny_model, max_tokens=5).sample(REQUESTS, 3, 0, lambda rows, _: told.extend([rows]))


def test_broken_weights_are_an_error_not_a_token(tiny_model: Path) -> None:
    for temperature in (0.0, 1.0):
        sampler = sampler_of(tiny_model, max_tokens=5, temperature=temperature)
        torch.nn.init.constant_(sampler.model.get_output_embeddings().weight, float("nan"))
        with pytest.raises(IcrError, match="not finite"):
            sampler.sample(REQUESTS, 1, seed=0)


def test_uniforms_are_a_rows_own_and_below_one() -> None:
    seeds = [row_seed(0, request, index) for request in REQUESTS for index in range(50)]
    assert len(set(seeds)) == len(seeds)
    streams, others = Uniforms(len(seeds)), Uniforms(2)
    for place, seed in enumerate(seeds):
        streams.begin(place, seed)
    drawn = np.stack([streams.draw(np.arange(len(seeds))) for _ in range(200)], 1)
    others.begin(0, seeds[3])
    others.draw(np.array([0]))
    for place in (0, 1):  # the first takes the place of a row that had begun
        others.begin(place, seeds[5 + place])
    assert np.array_equal(np.stack([others.draw(np.array([1, 0])) for _ in range(100)], 1)[::-1], drawn[5:7, :100])
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert drawn.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / drawn.size) ** 0.5)


@pytest.mark.parametrize("vocabulary", [3, 256, 700])
def test_a_token_is_where_the_cumulative_distribution_passes_the_number(vocabulary: int) -> None:
    """Against the naive inversion in float64; numbers at the bounds of tokens, runs of tokens that are ruled out."""
    random = np.random.default_rng(vocabulary)
    logits = torch.from_numpy(random.normal(size=(400, vocabulary)) * 4).float()
    logits[100:200, : vocabulary // 2] = -torch.inf
    logits[200:300, -(vocabulary // 3) :] = -torch.inf
    logits[300:, 1:-1] = -torch.inf
    uniform = np.where(random.random(400) < 0.2, 0.0, random.random(400))
    uniform[::7] = 1 - 2.0**-52
    logits[:2] = torch.tensor([torch.nan, torch.inf])[:, None]
    temperature = np.where(random.random(400) < 0.1, 0.0, 0.7)
    tokens = choose_tokens(logits, uniform, temperature, make_filters(SamplingSettings())).tolist()
    assert tokens[:2] == [-1, -1]
    for row in range(2, 400):
        weights = np.exp((logits[row] - logits[row].max()).double().numpy() / 0.7)
        bounds = np.concatenate([[0.0], weights.cumsum() / weights.sum()])
        if not temperature[row]:
            assert tokens[row] == int(logits[row].argmax())
            continue
        assert weights[tokens[row]] > 0
        # Numbers nearer to a bound than float32 weights are exact may fall on either side of it.
        assert bounds[tokens[row]] - 1e-6 <= uniform[row] <= bounds[tokens[row] + 1] + 1e-6


def test_engines_that_cannot_work_here_are_bad_input(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"'vllm', which is not installed; pip install 'icr-platform\[vllm\]'"):
        make_sampler(SamplingSettings(sampler="vllm"), str(tiny_model))
    with pytest.raises(InputError, match=r"field 'server_url' is 'localhost'"):
        make_sampler(SamplingSettings(sampler="server", server_url="localhost"), str(tiny_model))


def test_a_sampler_of_ones_own_is_named_by_its_module(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lab_sampler.py").write_text(
        "from icr_platform.engines.sampling.sampler import Sample, Sampler\n"
        "class Parrot(Sampler):\n"
        "    def sample(self, requests, samples, seed, advance=None):\n"
        "        return [[Sample(request.instruction, [1], 'stop')] * samples for request in requests]\n"
        "def load(settings, policy, chat):\n"
        "    return Parrot()\n"
        "def nothing(settings, policy, chat):\n"
        "    return None\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    parrot = make_sampler(SamplingSettings(sampler="lab_sampler:load"), str(tiny_model))
    assert [[sample.text for sample in samples] for samples in answers(parrot.sample(REQUESTS[:1], 2, 0))] == [
        [REQUESTS[0].instruction] * 2
    ]
    check_policy(SamplingSettings(sampler="lab_sampler:load"), str(tiny_model), CHAT_DEFAULTS)
    with pytest.raises(InputError, match="gives a NoneType without a method sample_shards"):
        make_sampler(SamplingSettings(sampler="lab_sampler:nothing"), str(tiny_model))
    with pytest.raises(InputError, match="there is no module 'nowhere'"):
        check_policy(SamplingSettings(sampler="nowhere:load"), str(tiny_model), CHAT_DEFAULTS)


class Endpoint(ThreadingHTTPServer):
    """A chat completions endpoint on this machine. `answer` makes (status, body) from a request's body."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()
        self.lock = threading.Lock()
        self.under_way = self.most_under_way = 0
        self.answer: Any = lambda body: (200, completion(f"echo {body['messages'][0]['content']} {body['seed']}"))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.add(self.headers["Authorization"])
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        time.sleep(0.01)  # long enough for requests to overlap
        status, answer = self.server.answer(body)
        with self.server.lock:
            self.server.under_way -= 1
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None: ...


def completion(text: str | None, reason: str = "stop", **choice: object) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    choices = [{"index": 0, "message": message, "finish_reason": reason} | choice]
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Endpoint() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def replies(
    endpoint: Endpoint, model: Path, samples: int = 3, chat: ChatSettings = CHAT_DEFAULTS, **settings: Any
) -> Sequence[list[Sample] | Dropped]:
    options = {"server_model": "m", "temperature": 0.5, "top_p": 0.9, "max_tokens": 40} | settings
    sampler = make_sampler(SamplingSettings(sampler="server", server_url=endpoint.url, **options), str(model), chat)
    return sampler.sample(REQUESTS, samples, seed=1)


def ask(
    endpoint: Endpoint, model: Path, samples: int = 3, chat: ChatSettings = CHAT_DEFAULTS, **settings: Any
) -> list[list[Sample]]:
    """Of an endpoint that must answer every prompt."""
    return answers(replies(endpoint, model, samples, chat, **settings))


def test_text_from_a_server_is_tokenised_once_and_marked(endpoint: Endpoint, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    results = ask(endpoint, tiny_model, server_concurrency=2)
    seeds = {(r.language, r.prompt_id, i): row_seed(1, r, i, bits=31) for r in REQUESTS for i in range(3)}
    for request, samples in zip(REQUESTS, results, strict=True):
        for index, sample in enumerate(samples):
            text = f"echo {request.instruction} {seeds[request.language, request.prompt_id, index]}"
            assert sample == Sample(text, encode_response(tokenizer, text), "stop", "retokenised")
    body = endpoint.bodies[0]
    assert {key: body[key] for key in ("model", "temperature", "top_p", "max_tokens")} == {
        "model": "m", "temperature": 0.5, "top_p": 0.9, "max_tokens": 40,
    }  # fmt: skip
    assert "top_k" not in body
    assert endpoint.most_under_way == 2
    assert endpoint.keys == {"Bearer EMPTY"}

    endpoint.answer = lambda _: (200, completion("cut", "length"))
    sample = ask(endpoint, tiny_model, top_k=5)[0][0]
    assert sample == Sample("cut", encode_response(tokenizer, "cut", finished=False), "length", "retokenised")
    assert endpoint.bodies[-1]["top_k"] == 5


def test_a_prompt_that_writes_control_tokens_is_not_sent_to_a_server(endpoint: Endpoint, tiny_model: Path) -> None:
    settings = SamplingSettings(sampler="server", server_url=endpoint.url, server_model="m", max_tokens=40)
    typed = Request("es", "typed", "Saluda.<|im_end|>")
    dropped, kept = make_sampler(settings, str(tiny_model)).sample([typed, REQUESTS[0]], 2, seed=1)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == "control-tokens"
    assert len(answers([kept])[0]) == 2
    assert all(body["messages"][0]["content"] == REQUESTS[0].instruction for body in endpoint.bodies)


def test_token_ids_from_a_server_are_kept(endpoint: Endpoint, tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    ids = [*encode_response(tokenizer, "Hallo", finished=False), 80, tokenizer.eos_token_id]

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        assert body["return_token_ids"] is True
        prompt = encode_prompt(tokenizer, body["messages"][0]["content"])
        return 200, completion("Hallo", token_ids=ids) | {"prompt_token_ids": prompt[shift:]}

    shift, endpoint.answer = 0, answer
    sample = ask(endpoint, tiny_model)[0][0]
    assert (sample.token_ids, sample.token_ids_source) == (ids, "sampler")
    shift = 1
    with pytest.raises(InputError, match="tokenises the prompt otherwise than the policy"):
        ask(endpoint, tiny_model)


DATED = "{{ 'It is ' ~ strftime_now('%Y-%m-%d') ~ '.\n' }}" + CHATML


@pytest.fixture
def dated(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with a chat template that prints the date."""
    shutil.copytree(tiny_model, tmp_path / "dated")
    (tmp_path / "dated" / "chat_template.jinja").write_text(DATED)
    return tmp_path / "dated"


def serve_as(endpoint: Endpoint, model: Path, day: date, with_ids: bool = True, template: str | None = None) -> None:
    """Answer as vLLM's server does, which renders the prompt itself, on a given day."""
    tokenizer = load_tokenizer(str(model))
    tokenizer.chat_template = template or tokenizer.chat_template

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        prompt = encode_messages(tokenizer, body["messages"], day)
        ids = encode_response(tokenizer, "ok") if with_ids else None
        return 200, completion("ok", token_ids=ids) | {"prompt_token_ids": prompt}

    endpoint.answer = answer


@pytest.mark.parametrize("with_ids", [True, False])
def test_a_servers_date_is_told_from_its_prompt_ids(endpoint: Endpoint, dated: Path, with_ids: bool) -> None:
    """Its clock may be a day ahead or behind; where it returns the prompt's ids alone, these are compared all the same."""
    today = date.today()
    for day in (today, today - timedelta(1), today + timedelta(1)):
        serve_as(endpoint, dated, day, with_ids)
        with pytest.raises(
            InputError,
            match=rf"prints the date of its clock, {day}, and field 'template_date' is 2026-01-01; give --tem",
        ):
            ask(endpoint, dated)
        assert ask(endpoint, dated, chat=ChatSettings(template_date=day))[0][0].text == "ok"
    serve_as(endpoint, dated, date(2026, 1, 1), with_ids)
    ask(endpoint, dated)


def test_a_server_with_another_template_is_told_where_it_differs(endpoint: Endpoint, tiny_model: Path) -> None:
    serve_as(endpoint, tiny_model, date.today(), template="Hello! " + CHATML)
    with pytest.raises(InputError, match=r"prompt 'p\d' in '..': the server tokenises the prompt otherwise than the policy, "
                       r"into \d+ tokens and not \d+, from token 0 on \('Hello! .*serve the policy with its own"):  # fmt: skip
        ask(endpoint, tiny_model)


def test_a_server_is_asked_how_it_renders_before_work(
    endpoint: Endpoint, dated: Path, tiny_model: Path, prompt_folder: Path, tmp_path: Path
) -> None:
    """One request; what it does not say becomes a note of the stage."""
    served: dict[str, Any] = {"sampler": "server", "server_url": endpoint.url, "server_model": "m", "languages": "en",
                              "language_identifier": IDENTIFIER}  # fmt: skip
    stages: tuple[Any, ...] = ((generation, GenerateConfig), (evaluation, EvalConfig))

    def run(module: Any, config: Any, model: Path, name: str) -> tuple[str, ...]:
        settings = config(policy=str(model), prompts=str(prompt_folder), **served)
        notes: tuple[str, ...] = module.run(module.read(settings), StageContext(tmp_path / name, "f")).notes
        return tuple(note for note in notes if endpoint.url in note)

    for module, config in stages:
        (note,) = run(module, config, dated, f"silent-{config.__name__}")
        assert "does not return the ids of its prompts: its chat template and BOS token, and the date that" in note
        assert "(template_date 2026-01-01)" in note
        (note,) = run(module, config, tiny_model, f"dateless-{config.__name__}")
        assert "date" not in note
    assert run(generation, GenerateConfig, dated, "silent-GenerateConfig"), "a finished artifact keeps the note"
    for module, config in stages:
        serve_as(endpoint, dated, date(2026, 1, 1))
        assert run(module, config, dated, f"known-{config.__name__}") == ()
        serve_as(endpoint, dated, date.today())
        endpoint.bodies.clear()
        with pytest.raises(InputError, match=r"prompt 'probe' in 'en': the server's chat template prints the date"):
            run(module, config, dated, f"other-{config.__name__}")
        assert [body["max_tokens"] for body in endpoint.bodies] == [1], "nothing was sampled"
        assert not list((tmp_path / f"other-{config.__name__}").rglob("*.parquet"))


def test_mt_bench_asks_a_server_too(
    endpoint: Endpoint, dated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    (tmp_path / "questions").mkdir()
    row = '{"question_id": 1, "category": "math", "turns": ["1+1?", "And 2+2?"]}\n'
    (tmp_path / "questions" / "en.jsonl").write_text(row)
    config = MtBenchConfig(
        policy=str(dated), questions=str(tmp_path / "questions"), sampler="server", server_url=endpoint.url,
        server_model="m", judge_api_model="j", judge_url=endpoint.url, judge_cache=str(tmp_path / "cache"),
        judge_max_failures=100,
    )  # fmt: skip
    endpoint.answer = lambda body: (200, completion("ok"))
    (note,) = mt_bench_stage.run(mt_bench_stage.read(config), StageContext(tmp_path / "silent", "f")).notes
    assert "does not return the ids of its prompts" in note
    serve_as(endpoint, dated, date.today())
    with pytest.raises(InputError, match="prints the date of its clock"):
        mt_bench_stage.run(mt_bench_stage.read(config), StageContext(tmp_path / "other", "f"))


def test_a_server_that_refuses_unknown_fields_is_asked_without(endpoint: Endpoint, tiny_model: Path) -> None:
    refusal = {"error": {"message": "Unrecognized request argument supplied: return_token_ids"}}
    endpoint.answer = lambda body: (400, refusal) if "return_token_ids" in body else (200, completion("ok"))
    assert ask(endpoint, tiny_model)[3][2].text == "ok"


def test_a_server_that_stumbles_is_asked_again(endpoint: Endpoint, tiny_model: Path) -> None:
    failures = iter([429, 500, 503])
    endpoint.answer = lambda _: (next(failures, 200), completion("ok"))
    assert {sample.text for samples in ask(endpoint, tiny_model) for sample in samples} == {"ok"}


def test_a_server_that_fails_in_every_way_changes_no_sample(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies that are cut off or not JSON are asked for again, as a judge's are."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def sample(url: str) -> list[list[Sample]]:
        settings = SamplingSettings(sampler="server", server_url=url, server_model="m", server_timeout=2.0)
        return answers(make_sampler(settings, str(tiny_model)).sample(REQUESTS, 10, seed=1))

    with fault_servers() as serve:
        _, calm = serve()
        behaviour, stormy = serve(fault_rate=0.3, faults=MORE_FAULTS, refused=("max_tokens",))
        assert sample(stormy) == sample(calm)
    assert behaviour.requests > 10 * len(REQUESTS)
    assert {"max_completion_tokens", "seed", "temperature"} <= set(behaviour.seen[-1])


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, r"prompt 'p1' in 'de': the key in OPENAI_API_KEY is refused"),
        (402, r"prompt 'p1' in 'de': the account has no quota left"),
        (404, r"'server_url' and 'server_model' 'm'"),
    ],
)
def test_an_endpoint_that_refuses_everybody_ends_the_run(
    endpoint: Endpoint, tiny_model: Path, status: int, message: str
) -> None:
    endpoint.answer = lambda sent: (
        (status, {"error": {"message": "no\nway"}}) if is_p1(sent) else (200, completion("ok"))
    )
    with pytest.raises(InputError, match=message) as caught:
        ask(endpoint, tiny_model)
    assert "\n" not in str(caught.value)


def is_p1(sent: dict[str, Any]) -> bool:
    return "Sag" in sent["messages"][0]["content"]


def error(message: str, **more: object) -> dict[str, Any]:
    return {"error": {"message": message} | more}


VLLM_TOO_LONG = "This model's maximum context length is 12 tokens. However, you requested 50 tokens (10 in the messages, 40 in the completion)"


@pytest.mark.parametrize(
    ("status", "body", "reason", "asked", "detail"),
    [
        # Asked once: the endpoint would say the same again.
        (400, error("The response was filtered", code="content_filter"), "refused", 1, "HTTP 400: The response was filtered"),
        (400, error("x", type="data_inspection_failed"), "refused", 1, "HTTP 400"),
        (400, error("Your request was rejected as a result of our safety system.", code="content_policy_violation"), "refused", 1, "HTTP 400"),
        (400, error("Content Exists Risk"), "refused", 1, "Content Exists Risk"),
        (403, error("x is moderated", metadata={"flagged_input": "y"}), "refused", 1, "HTTP 403"),
        (200, completion("so fa", "content_filter"), "refused", 1, "ended for the reason 'content_filter'"),
        (200, completion(None, "SAFETY"), "refused", 1, "ended for the reason 'SAFETY'"),
        (200, completion(None) | {"choices": [{"message": {"content": None, "refusal": "I cannot."}, "finish_reason": "stop"}]},
         "refused", 1, "I cannot."),
        (200, error("blocked", code="content_filter"), "refused", 1, "blocked"),
        (400, error(VLLM_TOO_LONG), "too-long", 1, "tokens, and the context is 12"),
        (400, error("too much", code="context_length_exceeded"), "too-long", 1, "too much"),
        (413, error("Payload Too Large"), "too-long", 1, "HTTP 413"),
        # Asked as often as the settings say, for it may pass.
        (400, error("bad\nrequest"), "endpoint-error", 2, "HTTP 400: bad request, 2 tries"),
        (500, error("no"), "endpoint-error", 2, "HTTP 500: no, 2 tries"),
        (200, completion("x") | {"choices": []}, "endpoint-error", 2, "no choice"),
        (200, {"choices": [None]}, "endpoint-error", 2, "no choice"),
        (200, [1], "endpoint-error", 2, "not a chat completion (list)"),
        (200, error("upstream", code=502), "endpoint-error", 2, "an error instead of an answer: upstream"),
        (200, completion("x", "tool_calls"), "endpoint-error", 2, "calls a tool"),
        (200, completion("x", "abort"), "endpoint-error", 2, "'abort'"),
        (200, completion("x") | {"choices": [{"message": {"content": 7}, "finish_reason": "stop"}]}, "endpoint-error", 2, "int"),
    ],
)  # fmt: skip
def test_a_prompt_that_the_endpoint_does_not_answer_is_dropped_and_the_others_go_on(
    endpoint: Endpoint, tiny_model: Path, status: int, body: Any, reason: str, asked: int, detail: str
) -> None:
    endpoint.answer = lambda sent: (status, body) if is_p1(sent) else (200, completion("ok"))
    results = replies(endpoint, tiny_model, samples=1, server_retries=1, server_concurrency=4)
    dropped = [
        (request.prompt_id, result)
        for request, result in zip(REQUESTS, results, strict=True)
        if isinstance(result, Dropped)
    ]
    [(prompt_id, seen)] = dropped
    assert (prompt_id, seen.reason) == ("p1", reason)
    assert detail in seen.detail
    assert "\n" not in seen.detail
    assert sum(map(is_p1, endpoint.bodies)) == asked
    assert all(result[0].text == "ok" for result in results if not isinstance(result, Dropped))


@pytest.mark.parametrize(
    ("choice", "text", "reason", "asked"),
    [
        ({"finish_reason": "eos_token"}, "ok", "stop", 1),
        ({"finish_reason": "model_length"}, "ok", "length", 1),
        ({"finish_reason": "MAX_TOKENS"}, "ok", "length", 1),
        ({"token_ids": "broken"}, "ok", "stop", 1),
        ({"token_ids": []}, "ok", "stop", 1),
        ({"token_ids": [None]}, "ok", "stop", 1),
        ({"index": 7, "extra": {}}, "ok", "stop", 1),
        # Asked again, and taken as it is when the endpoint stands by it.
        ({"finish_reason": None}, "ok", "stop", 2),
        ({"finish_reason": "whatever"}, "ok", "stop", 2),
        ({"message": {"role": "assistant", "content": None}}, "", "stop", 2),
        ({"message": {"role": "assistant", "content": ""}}, "", "stop", 1),
        ({"message": {"content": [{"type": "text", "text": "ok"}]}}, "ok", "stop", 1),
    ],
)  # fmt: skip
def test_a_fault_of_one_field_costs_no_response(
    endpoint: Endpoint, tiny_model: Path, choice: dict[str, Any], text: str, reason: str, asked: int
) -> None:
    endpoint.answer = lambda sent: (200, completion("ok", **choice) if is_p1(sent) else completion("ok"))
    results = ask(endpoint, tiny_model, samples=1, server_retries=1, server_concurrency=4)
    [p1] = [
        result
        for request, result in zip(REQUESTS, results, strict=True)
        if request.prompt_id == "p1" and request.language == "de"
    ]
    assert not isinstance(p1, Dropped)
    assert (p1[0].text, p1[0].finish_reason) == (text, reason)
    assert sum(map(is_p1, endpoint.bodies)) == asked


def test_a_prompt_that_fits_is_asked_for_as_many_tokens_as_the_context_leaves(
    endpoint: Endpoint, tiny_model: Path
) -> None:
    def answer(sent: dict[str, Any]) -> tuple[int, Any]:
        limit = 100 - len(encode_messages(tokenizer, sent["messages"]))
        too_many = f"max_tokens is too large: {sent['max_tokens']}. This model's maximum context length is 100 tokens"
        return (400, error(too_many)) if sent["max_tokens"] > limit else (200, completion("ok"))

    tokenizer = load_tokenizer(str(tiny_model))
    endpoint.answer = answer
    results = ask(endpoint, tiny_model, samples=1, max_tokens=400, server_concurrency=1)
    assert not any(isinstance(result, Dropped) for result in results)
    left = [100 - len(encode_messages(tokenizer, request.messages)) for request in REQUESTS]
    assert sorted(body["max_tokens"] for body in endpoint.bodies) == sorted([400] * len(REQUESTS) + left)


def test_an_endpoint_that_is_down_altogether_is_waited_for(
    endpoint: Endpoint, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked_before_it_is_back = iter(range(2 * len(REQUESTS)))
    endpoint.answer = lambda _: (503 if next(asked_before_it_is_back, None) is not None else 200, completion("ok"))
    # A request that fails just as another is answered was not asked in vain: its one retry is answered too.
    results = ask(endpoint, tiny_model, samples=1, server_retries=1, server_concurrency=2)
    assert not any(isinstance(result, Dropped) for result in results)
    # Said once a silence, not once a request: one that fails just as another is answered begins a second silence.
    assert capsys.readouterr().err.count("does not answer (HTTP 503") in (1, 2)
    endpoint.answer = lambda _: (503, {})
    with pytest.raises(
        IcrError, match=r"has not answered for \d s .*finished work is kept, run the same command again"
    ):
        ask(endpoint, tiny_model, samples=1, server_retries=0, server_patience=0.2)


@pytest.mark.parametrize(
    "values",
    [{"min_p": -0.1}, {"min_p": 1.1}, {"presence_penalty": 2.1}, {"frequency_penalty": -3}, {"repetition_penalty": 0},
     {"repetition_penalty": float("nan")}, {"top_k": -1}],
)  # fmt: skip
def test_a_setting_out_of_its_range_is_refused(values: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(values))):
        validate(SamplingSettings, values, "config")


def test_a_server_is_sent_the_penalties_that_are_asked_for(endpoint: Endpoint, tiny_model: Path) -> None:
    asked = {"min_p": 0.1, "presence_penalty": 0.5, "frequency_penalty": 0.25, "repetition_penalty": 1.1, "top_k": 5}
    for settings in ({}, asked):
        values: dict[str, object] = {"sampler": "server", "server_url": endpoint.url, "server_model": "m", **settings}
        make_sampler(SamplingSettings.model_validate(values), str(tiny_model)).sample(REQUESTS[:1], 1, seed=0)
    plain, penalised = endpoint.bodies[0], endpoint.bodies[-1]
    assert not plain.keys() & asked.keys()
    assert {name: penalised[name] for name in asked} == asked


def test_advice_that_is_not_followed_is_said(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    advice = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0, "do_sample": True, "repetition_penalty": 1.0}
    (model / "generation_config.json").write_text(json.dumps(advice))
    settings = SamplingSettings(top_k=20)
    assert engine_notes(settings, str(model), CHAT_DEFAULTS) == (
        f"{model}: its generation_config.json recommends temperature 0.6, top_p 0.95; the settings decide: temperature 0.9, top_p 1",
    )
    assert engine_notes(SamplingSettings(), str(tiny_model), CHAT_DEFAULTS) == ()
