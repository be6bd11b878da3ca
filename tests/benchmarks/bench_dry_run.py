"""What `--dry-run` says against what is then spent: real pairs, a local endpoint that counts with a real tokenizer.

    ICR_SMOLLM2=FOLDER ICR_SHARED=../shared python tests/benchmarks/bench_dry_run.py [--prompts 40]

Three estimates from a cold start and after a run: with judge_tokenizer, by size with an empty cache, and by size once the
cache holds replies to as many other prompts. Pairs: gpt-4o-mini against gpt-4-turbo-2024-04-09 outputs on X-AlpacaEval.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import JUDGMENTS
from icr_platform.core.stage_protocol import StageContext
from icr_platform.evaluation.config import EvalConfig
from icr_platform.evaluation.stage import read, run
from icr_platform.models.chat import encode_messages
from icr_platform.models.loading import load_tokenizer
from icr_platform.planning.judge_cost import estimate
from tests.support import fault_server

ROOT = Path(__file__).parents[2]
LANGUAGES = ("en", "es", "de", "fr", "ru")


def serve(model: str) -> str:
    """Start an endpoint that counts prompt tokens as the model's own server would; gives its base URL."""
    tokenizer, plain = load_tokenizer(model), fault_server.completion

    def counted(request: dict[str, Any], answer: str) -> dict[str, Any]:
        reply = plain(request, answer)
        reply["usage"] = {
            "prompt_tokens": len(encode_messages(tokenizer, request["messages"])),
            "completion_tokens": len(tokenizer.encode(reply["choices"][0]["message"]["content"])),
        }
        return reply

    fault_server.completion = counted
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    port = asyncio.run_coroutine_threadsafe(fault_server.FaultServer(fault_server.Behaviour()).start(), loop).result()
    return f"http://127.0.0.1:{port}/v1"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=40)
    arguments = parser.parse_args()
    shared, model = Path(os.environ.get("ICR_SHARED", ROOT.parent / "shared")), os.environ.get("ICR_SMOLLM2", "")
    if not shared.is_dir() or not model:
        sys.exit("skipped: needs the shared data (ICR_SHARED) and SmolLM2-135M-Instruct (ICR_SMOLLM2)")
    os.environ["OPENAI_API_KEY"] = fault_server.KEY
    outputs = shared / "data" / "outputs" / "{language}"
    with tempfile.TemporaryDirectory() as folder:
        config = EvalConfig(
            prompts=str(shared / "data" / "prompts" / "x-alpacaeval"), languages=LANGUAGES, limit=arguments.prompts,
            outputs=str(outputs / "gpt-4o-mini.json"),
            reference_outputs=str(outputs / "gpt-4-turbo-2024-04-09.json"),
            judge="openai", judge_api_model="judge-1", judge_url=serve(model), judge_cache=f"{folder}/cache",
        )  # fmt: skip
        exact = {"judge_tokenizer": model, "judge_cache": f"{folder}/none"}
        sizes = {"judge_cache": f"{folder}/none"}
        said = {
            code: [estimate(config.model_copy(update={"languages": (code,), **how})) for how in (exact, sizes)]
            for code in LANGUAGES
        }
        run(read(config), StageContext(Path(folder) / "out", "bench"))
        spent = open_artifact(Path(folder) / "out" / "judgments", JUDGMENTS).read().to_pandas()
        spent = spent.groupby("language", sort=False)[["input_tokens", "output_tokens"]].sum()
        later = config.model_copy(update={"limit": 2 * arguments.prompts})
        print("language  input tokens  output tokens  with judge_tokenizer: input, output  by size, cold: input")
        for code in LANGUAGES:
            asked, written = spent.loc[code]
            counted, sized = said[code]
            print(
                f"{code:8s}  {asked:12d}  {written:13d}  {100 * (counted.input_tokens / asked - 1):+27.2f}%, "
                f"{100 * (counted.output_tokens / written - 1):+.1f}%  {100 * (sized.input_tokens / asked - 1):+20.1f}%"
            )
        whole = estimate(later.model_copy(update={"judge_tokenizer": model}))
        by_size = estimate(later)
        print(
            f"as many more prompts, all languages: {whole.input_tokens} tokens by the tokenizer; by size, learnt from the first: "
            f"{100 * (by_size.input_tokens / whole.input_tokens - 1):+.1f}%"
        )


if __name__ == "__main__":
    main()
