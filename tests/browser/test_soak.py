"""Ten reviewers work through one review link with overlap while the server is killed three times; then every figure is computed again."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.browser.test_killed import call
from tests.support import synthetic_runs
from tests.support.inspector import start_server
from tests.support.ports import free_port
from ui.pages import agreement
from ui.pages.shell import render_page
from ui.pages.table_of_pages import PAGES
from ui.review.counted import counted
from ui.review.items import Item, from_token
from ui.review.links import new_link, signed_id
from ui.review.recording import new_token
from ui.review.verdict_summary import verdict_metrics
from ui.server.app import open_inspector
from ui.server.options import InspectOptions

REVIEWERS, VERDICTS = (int(number) for number in os.environ.get("ICR_SOAK", "10x300").split("x"))
OVERLAP, KILLS = 25, 3
SHARED = round(VERDICTS * OVERLAP / 100)
APART = max(VERDICTS // 5, 3)
"""Verdicts in open mode, and of a targeted queue, each by one more reviewer on Spot-check."""


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.timeout(7200)
def test_ten_reviewers_and_three_kills(tmp_path: Path) -> None:
    per_language = (SHARED + REVIEWERS * (VERDICTS - SHARED)) // 6 + 2
    run_id = synthetic_runs.small_run(
        synthetic_runs.open_tracker(tmp_path), tmp_path / "artifacts", per_language=per_language
    ).run_id
    options = InspectOptions(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}", verdicts=str(tmp_path / "verdicts.db"))
    inspector = open_inspector(options)
    link = inspector.links.add(new_link(run_id, "", "random", 2, None, items=VERDICTS, overlap=OVERLAP))
    secret, port = inspector.links.secret, free_port()
    opened = f"link={signed_id(link, secret)}"
    server, done = [start_server(tmp_path, port)], threading.Event()
    acknowledged: set[str] = set()

    def send(event: str, data: list[Any]) -> list[Any]:
        """What a button's click changes, clicked again until there is an answer: the server may have been killed."""
        while True:
            try:
                lines = [line for line in call(port, event, data).splitlines() if line.startswith("data: ")]
                found = json.loads(lines[-1].removeprefix("data: "))
                if isinstance(found, list):
                    acknowledged.update(re.findall(r'data-verdict="(\w+)"', found[0] or ""))
                    return found
            except (OSError, HTTPException):
                pass
            time.sleep(0.2)

    def review(number: int) -> list[str]:
        """Submissions in the order sent. She goes where the server's answers lead her."""
        name, luck, sent = f"reviewer {number}", random.Random(number), []
        token = send("review_begin", [name, opened])[2]
        while token:
            values, _ = from_token(secret, token)
            sent.append(values["submission"])
            token = send(f"review_{choice_of(luck, values['left'])}", [name, token, opened, [], "note"])[2]
        return sent

    def spot_check(number: int) -> list[str]:
        """Who sees the scores follows them, and who looks for small margins finds other pairs."""
        queue, blind = (("random", False), ("smallest-margin", True))[number]
        sent = []
        for prompt in synthetic_runs.small_prompts(per_language)[:APART]:
            item = Item("pair", 2, None, prompt.language, prompt.prompt_id)
            token = new_token(secret, item, run_id, queue, blind, "chosen")
            sent.append(from_token(secret, token)[0]["submission"])
            send("verdict_right" if blind else "verdict_left", [f"other {number}", token, f"run={run_id}", [], ""])
        return sent

    def kill() -> None:
        for number in range(1, KILLS + 1):
            while len(acknowledged) < number * REVIEWERS * VERDICTS // (KILLS + 1):
                if done.wait(0.05):
                    return
            server[0].kill()
            server[0].wait()
            while True:
                try:
                    server[0] = start_server(tmp_path, port)
                    break
                except (
                    RuntimeError
                ):  # Gradio gives up where a busy machine does not answer it in seconds: somebody starts it again
                    assert server[0].poll() is not None

    killer = threading.Thread(target=kill)
    killer.start()
    started = time.monotonic()
    try:
        with ThreadPoolExecutor(REVIEWERS + 2) as pool:
            others = pool.map(spot_check, range(2))
            sent = [submission for found in pool.map(review, range(REVIEWERS)) for submission in found]
            assert len(sent) == REVIEWERS * VERDICTS
            sent += [submission for found in others for submission in found]
    finally:
        done.set()
        killer.join()
        server[0].kill()
        server[0].wait()
    print(f"{len(sent)} verdicts of {REVIEWERS} reviewers, {KILLS} kills, {time.monotonic() - started:.0f} s")

    rows = stored(tmp_path / "verdicts.db")
    assert len(sent) == len(set(sent)) == len(rows), "every acknowledged verdict once"
    assert set(sent) == acknowledged == {row["submission"] for row in rows}
    assert not any(row["disclosed"] for row in rows)
    judges = Counter(row["item"] for row in rows if row["link"])
    assert sorted(set(judges.values())) == [1, REVIEWERS], "items are everyone's or one reviewer's"
    assert sum(number == REVIEWERS for number in judges.values()) == SHARED

    metrics = verdict_metrics(counted(inspector.verdicts.current(run_id)))
    page = render_page(inspector, next(page for page in PAGES if page.show is agreement.show), {"run": run_id})
    inspector.catalogue.close()
    check_figures(rows, metrics, page)


def choice_of(luck: random.Random, left: str) -> str:
    """Seven decided times in ten the chosen side."""
    if luck.random() < 0.15:
        return luck.choice(("tie", "both_bad"))
    return "left" if (left == "chosen") == (luck.random() < 0.7) else "right"


def stored(path: Path) -> list[dict[str, Any]]:
    """Rows as the database has them, without the code that is looked at."""
    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    return [dict(row) for row in connection.execute("SELECT * FROM icr_verdicts ORDER BY id")]


def check_figures(rows: list[dict[str, Any]], metrics: dict[str, float], page: str) -> None:
    """Agreement, Krippendorff's alpha and Cohen's kappas of blind verdicts of the random queue, by other people's code where there is some."""
    kinds = {
        "": [row for row in rows if row["blind"] and row["queue"] == "random"],
        "_open": [row for row in rows if not row["blind"]],
        "_targeted": [row for row in rows if row["blind"] and row["queue"] != "random"],
    }
    assert all(kinds.values())
    said: dict[str, dict[str, dict[str, str]]] = {}
    for end, members in kinds.items():
        said[end] = defaultdict(dict)
        for row in members:
            side = row[row["choice"]] if row["choice"] in ("left", "right") else row["choice"]
            said[end][row["item"]][row["reviewer"]] = side
        hits = []
        for opinions in said[end].values():
            (best, votes), *others = Counter(
                "" if side in ("tie", "both-bad") else side for side in opinions.values()
            ).most_common()
            if best and not (others and others[0][1] == votes):
                hits.append(best == "chosen")  # the chosen response has the higher reward
        assert metrics[f"human_agreement{end}_n/all"] == len(hits)
        assert metrics[f"human_agreement{end}/all"] == pytest.approx(100 * sum(hits) / len(hits), abs=1e-9)
    assert metrics["human_agreement_open/all"] == 100.0 != metrics["human_agreement/all"]
    text = re.sub(r"<[^>]+>", " ", page)
    assert f"{metrics['human_agreement/all']:.1f}%" in text

    shared = {item: opinions for item, opinions in said[""].items() if len(opinions) > 1}
    names = sorted({row["reviewer"] for row in kinds[""]})
    krippendorff = pytest.importorskip("krippendorff", reason="needs krippendorff: pip install krippendorff")
    table = [[shared[item].get(name) for item in shared] for name in names]
    values = sorted({side for opinions in shared.values() for side in opinions.values()})
    coded = [[float("nan") if side is None else values.index(side) for side in row] for row in table]
    alpha = krippendorff.alpha(reliability_data=coded, level_of_measurement="nominal")
    assert metrics["human_reliability/krippendorff_alpha"] == pytest.approx(alpha, abs=1e-9)
    assert f"{alpha:.2f}".replace("-", "−") in text
    scores = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    for a, b in combinations(names, 2):
        both = [(shared[item][a], shared[item][b]) for item in shared if a in shared[item] and b in shared[item]]
        if len(both) > 1:
            kappa = scores.cohen_kappa_score([x for x, _ in both], [y for _, y in both])
            shown = re.search(rf"{a}\s+–\s+{b}\s+(\S+)\s+(\d+)", text)
            assert shown, (a, b)
            assert int(shown[2]) == len(both)
            if kappa == kappa:
                assert float(shown[1].replace("−", "-")) == pytest.approx(kappa, abs=0.0051), (a, b)
