"""Eight reviewers at once, the server killed three times: every acknowledged verdict is stored, once."""

from __future__ import annotations

import json
import os
import re
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.support import synthetic_runs
from tests.support.inspector import start_server
from tests.support.ports import free_port
from ui.review.items import Item
from ui.review.link_store import LinkStore
from ui.review.recording import new_token
from ui.review.verdict_store import VerdictStore

REVIEWERS = 8
VERDICTS = int(os.environ.get("ICR_KILL_VERDICTS", "25"))
"""Each; the full count of 250 takes minutes."""
KILLS = 3


def call(port: int, name: str, data: list[Any]) -> str:
    """What a button's click does over HTTP: the event is queued, its result streamed back."""
    server = f"http://127.0.0.1:{port}"
    with urllib.request.urlopen(f"{server}/icr/token", timeout=30) as answer:
        headers = {"Content-Type": "application/json", "X-ICR-Token": json.load(answer)["token"]}
    address = f"{server}/gradio_api/call/{name}"
    request = urllib.request.Request(address, json.dumps({"data": data}).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}", timeout=60) as answer:
        return str(answer.read().decode())


@pytest.mark.browser
@pytest.mark.timeout(1500)
def test_no_acknowledged_verdict_is_lost(tmp_path: Path) -> None:
    tracker = synthetic_runs.open_tracker(tmp_path)
    run_id = synthetic_runs.small_run(tracker, tmp_path / "artifacts", per_language=45).run_id
    prompts = synthetic_runs.small_prompts(45)
    port = free_port()
    server = [start_server(tmp_path, port)]
    secret = LinkStore(VerdictStore(str(tmp_path / "verdicts.db")).database).secret
    acknowledged: set[str] = set()
    done = threading.Event()

    def review(number: int) -> list[str]:
        sent = []
        for place in range(VERDICTS):
            prompt = prompts[(place + 31 * number) % len(prompts)]
            item = Item("pair", 2, None, prompt.language, prompt.prompt_id)
            token = new_token(secret, item, run_id, "random", True, "chosen")
            submission = secret.unseal(token)["submission"]
            while submission not in acknowledged:
                try:
                    answer = call(
                        port,
                        ("verdict_left", "verdict_right")[place % 2],
                        [f"reviewer {number}", token, f"run={run_id}", [], ""],
                    )
                except (OSError, HTTPException):
                    time.sleep(0.2)  # killed: the page of a person would be clicked again
                    continue
                acknowledged.update(re.findall(r'data-verdict=\\"(\w+)\\"', answer))
            sent.append(submission)
        return sent

    def kill() -> None:
        for number in range(1, KILLS + 1):
            while len(acknowledged) < number * REVIEWERS * VERDICTS // (KILLS + 1):
                if done.wait(0.05):
                    return
            server[0].kill()
            server[0].wait()
            server[0] = start_server(tmp_path, port)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with ThreadPoolExecutor(REVIEWERS) as pool:
            sent = [submission for found in pool.map(review, range(REVIEWERS)) for submission in found]
    finally:
        done.set()
        killer.join()
        server[0].kill()
        server[0].wait()
    stored = [verdict.submission for verdict in VerdictStore(str(tmp_path / "verdicts.db")).history()]
    assert len(stored) == len(set(stored)), "stored twice"
    assert set(sent) == acknowledged == set(stored)
    assert len(stored) == REVIEWERS * VERDICTS
