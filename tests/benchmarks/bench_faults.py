"""What a server sampler and a judge get out of an endpoint that fails 30% of its requests, in every way, against one that never fails."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from pathlib import Path

from icr_platform.engines.endpoints.chat_client import Endpoint
from icr_platform.engines.endpoints.reply_cache import ReplyCache
from icr_platform.engines.judging.api_judge import ApiJudge
from icr_platform.engines.judging.pairwise import DEFAULT_TEMPLATE, Judgment, Pair
from icr_platform.engines.sampling.choice import make_sampler
from icr_platform.engines.sampling.sampler import Dropped, Request, Sampled
from icr_platform.engines.sampling.settings import SamplingSettings
from tests.support.fault_server import KEY, MORE_FAULTS, fault_servers
from tests.support.tiny_models import save_tiny_model


def sampled(url: str, model: Path, requests: int, timeout: float) -> Sampled:
    settings = SamplingSettings(sampler="server", server_url=url, server_model="m", server_timeout=timeout)
    asked = [Request("es", f"p{number}", f"Nombra {number}.") for number in range(requests)]
    return make_sampler(settings, str(model)).sample(asked, 1, seed=1)


def judged(url: str, folder: Path, requests: int, timeout: float) -> list[Judgment]:
    endpoint = Endpoint("judge-1", url, "OPENAI_API_KEY", 32, timeout, 12)
    judge = ApiJudge(endpoint, ReplyCache(folder), DEFAULT_TEMPLATE, both_orders=True, seed=1, samples=0)
    pairs = [Pair("es", f"p{number}", 0, f"Nombra {number}.", "uno", "dos") for number in range(requests // 2)]
    return [judgment for part in judge.judge([pairs]) for judgment in part]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--fault-rate", type=float, default=0.3)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds until a request counts as hanging")
    given = parser.parse_args()
    os.environ["OPENAI_API_KEY"] = KEY
    with tempfile.TemporaryDirectory() as folder, fault_servers() as serve:
        os.environ["ICR_CACHE"] = folder
        model = save_tiny_model(Path(folder) / "model")
        print("| who asks | faults | requests sent | seconds | rows | lost | same table |")
        print("|---|---|---|---|---|---|---|")
        for name in ("server sampler", "judge"):
            tables = []
            for rate in (0.0, given.fault_rate):
                behaviour, url = serve(fault_rate=rate, faults=MORE_FAULTS)
                start = time.monotonic()
                if name == "judge":
                    table: list[object] = [*judged(url, Path(folder) / str(rate), given.requests, given.timeout)]
                    lost = sum(row.outcome != "ok" for row in table if isinstance(row, Judgment))
                else:
                    table = [*sampled(url, model, given.requests, given.timeout)]
                    lost = sum(isinstance(row, Dropped) for row in table)
                seconds = time.monotonic() - start
                tables.append(table)
                same = table == tables[0]
                print(
                    f"| {name} | {rate:.0%} | {behaviour.requests} | {seconds:.0f} | {len(table)} | {lost} | {same} |",
                    flush=True,
                )
                if lost:
                    reasons = Counter(row.reason for row in table if isinstance(row, Dropped))
                    print(f"  {dict(reasons)}")


if __name__ == "__main__":
    main()
