"""The judge client against a real vLLM server, from `icr eval`'s command line, beside the local judge on the same pairs.

    ICR_SMOLLM2=FOLDER ICR_SHARED=../shared python tests/benchmarks/bench_judge_vllm.py [--python INTERPRETER] [--prompts 2]

Says how far the dry run was from the tokens vLLM counted, and the largest difference between the preferences that vLLM's
log-probabilities give and those of the same model in transformers. The judge is shown two examples of an answer: left to
itself it likes to begin with another word, and an endpoint tells the 20 likeliest first tokens only.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.schemas import JUDGMENTS
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
TEMPLATE = """\
- {role: user, content: "Which output answers better? Say m or M.\\n\\nName a fruit.\\n\\nm: An apple.\\n\\nM: A car."}
- {role: assistant, content: m}
- {role: user, content: "Which output answers better? Say m or M.\\n\\nSay hello.\\n\\nm: No idea.\\n\\nM: Hello!"}
- {role: assistant, content: M}
- {role: user, content: "Which output answers better? Say m or M.\\n\\n{instruction}\\n\\nm: {output_m}\\n\\nM: {output_M}"}
"""
KEY = ["language", "prompt_id", "sample_index", "order"]


@contextlib.contextmanager
def vllm_server(python: str, model: str) -> Iterator[str]:
    """vLLM's OpenAI server with the model in float32; gives its base URL once it answers."""
    port = free_port()
    flags = ["--port", str(port), "--host", "127.0.0.1", "--dtype", "float32", "--max-model-len", "8192",
             "--enforce-eager", "--served-model-name", "judge"]  # fmt: skip
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [python, "-m", "vllm.entrypoints.openai.api_server", "--model", model, *flags],
            env=environment,
            stdout=log,
            stderr=log,
        )
        try:
            if not _answers(f"http://127.0.0.1:{port}/health", process):
                log.seek(0)
                sys.exit(f"the server did not come up:\n{log.read()[-3000:]}")
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(60)


def _answers(url: str, process: subprocess.Popen[bytes], seconds: float = 900.0) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        time.sleep(1)
    return False


def icr_eval(*flags: str) -> str:
    """Run `icr eval`; gives its standard output."""
    command = [sys.executable, "-m", "icr_platform", "eval", "--no-tracking", *flags]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"OPENAI_API_KEY": "EMPTY"}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return done.stdout


def judgments(folder: Path) -> pd.DataFrame:
    return open_artifact(folder / "judgments", JUDGMENTS).read().to_pandas().set_index(KEY)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has vllm")
    parser.add_argument("--prompts", type=int, default=2, help="per language")
    arguments = parser.parse_args()
    shared, model = Path(os.environ.get("ICR_SHARED", ROOT.parent / "shared")), os.environ.get("ICR_SMOLLM2", "")
    if not shared.is_dir() or not model:
        sys.exit("skipped: needs the shared data (ICR_SHARED) and SmolLM2-135M-Instruct (ICR_SMOLLM2)")
    outputs = f"{shared}/data/outputs/{{language}}"
    pairs = ["--prompts", f"{shared}/data/prompts/x-alpacaeval", "--languages", "en,es,de", "--limit",
             str(arguments.prompts), "--outputs", f"{outputs}/gpt-4o-mini.json",
             "--reference-outputs", f"{outputs}/gpt-4-turbo-2024-04-09.json"]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "judge.yaml").write_text(TEMPLATE)
        pairs += ["--judge-template", f"{folder}/judge.yaml", "--judge-min-mass", "0"]
        began = time.monotonic()
        with vllm_server(arguments.python, model) as url:
            print(f"the server came up in {time.monotonic() - began:.0f} s", flush=True)
            api = [*pairs, "--judge", "openai", "--judge-api-model", "judge", "--judge-url", url, "--judge-cache",
                   f"{folder}/cache", "--judge-timeout", "600"]  # fmt: skip
            said = icr_eval(*api, "--dry-run", "--judge-tokenizer", model)
            began = time.monotonic()
            icr_eval(*api, "--output", f"{folder}/api", "--judge-max-failures", "100")
            print(f"judged over HTTP in {time.monotonic() - began:.0f} s", flush=True)
        began = time.monotonic()
        icr_eval(*pairs, "--judge", "logprob", "--judge-model", model, "--dtype", "float32", "--device", "cpu",
                 "--output", f"{folder}/local", "--judge-max-failures", "100")  # fmt: skip
        print(f"judged in process in {time.monotonic() - began:.0f} s", flush=True)
        api_rows, local_rows = judgments(Path(folder) / "api"), judgments(Path(folder) / "local")
    spent = api_rows[["input_tokens", "output_tokens"]].sum()
    counts = {
        name: int(re.findall(rf"{name} tokens\D*([\d,]+)", said)[0].replace(",", "")) for name in ("input", "output")
    }
    print(f"dry run: {counts}; spent: {spent.to_dict()}")
    both = api_rows.join(local_rows.add_suffix("_local"))
    print(both[["outcome", "outcome_local", "preference", "preference_local", "mass", "mass_local"]].to_string())
    difference = (both["preference"] - both["preference_local"]).abs()
    told = both["preference"].between(0, 1, inclusive="neither")
    print(
        f"largest difference of the preferences: {difference[told].max():.1e} where both labels are among the endpoint's 20 "
        f"tokens ({told.sum()} of {len(both)}), {difference.max():.1e} over all"
    )
    print(f"load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
