"""What thirty anonymous logins at once cost everyone else: time to a page while they run, with Gradio's own login and with the inspector's.

    python tests/benchmarks/bench_logins.py [--logins N] [--rounds N]

Both serve the same page in this process and check passwords with the same scrypt. In each round both are measured, one after the other, in
random order. A page is asked for every 50 ms from the moment when the logins are sent until all are answered.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import uvicorn
from gradio.routes import App

from tests.support.ports import free_port
from ui.server.attempts import Attempts
from ui.server.auth import add_user, checker, load_users
from ui.server.login import Login, PasswordChecks, Sessions


def served(app: Any) -> str:
    """Address at which an application is served by a thread."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return f"http://127.0.0.1:{port}"


def gradios(is_welcome: Callable[[str, str], bool]) -> Any:
    """Gradio's application with its own login, which checks on the event loop."""
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as demo:
        gr.HTML("a page")
    demo.auth, demo.auth_message = is_welcome, None
    demo.config = demo.get_config_file()
    return App.create_app(demo)


def inspectors(within: Any, is_welcome: Callable[[str, str], bool]) -> Any:
    """The same application behind the inspector's login; /favicon.ico stands for what is served within."""
    return Login(within, Sessions("icr-session-bench"), PasswordChecks(is_welcome, Attempts()), ("/",))


async def measured(address: str, logins: int) -> tuple[float, float]:
    """Seconds of the slowest answer to someone else, and until all logins were answered."""
    form = urlencode({"username": "mira", "password": "wrong"}).encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}

    def ask(path: str, body: bytes | None = None) -> float:
        start = time.perf_counter()
        with suppress(OSError):  # a refusal is an answer, too
            urlopen(Request(address + path, body, kind if body else {}), timeout=120).read()
        return time.perf_counter() - start

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(logins + 8) as pool:
        start = time.perf_counter()
        tries = [loop.run_in_executor(pool, ask, "/login", form) for _ in range(logins)]
        others: list[float] = []
        while not others or not all(task.done() for task in tries):
            others.append(await loop.run_in_executor(pool, ask, "/favicon.ico"))
            await asyncio.sleep(0.05)
        return max(others), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--logins", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        add_user(Path(folder) / "users", "mira", "correct horse")
        is_welcome = checker(load_users(Path(folder) / "users"))
        within = gradios(is_welcome)
        found: dict[str, list[tuple[float, float]]] = {"Gradio's login": [], "the inspector's": []}
        for _ in range(given.rounds):
            # Fresh ones, so that earlier rounds count for no limit.
            apps = {"Gradio's login": within, "the inspector's": inspectors(within, is_welcome)}
            for name in random.sample(sorted(apps), 2):
                found[name].append(asyncio.run(measured(served(apps[name]), given.logins)))
    print(f"{given.logins} logins at once, {given.rounds} rounds: median (most), in seconds")
    for name, times in found.items():
        slowest, all_done = zip(*times, strict=True)
        print(
            f"{name:<20} slowest page {statistics.median(slowest):6.2f} ({max(slowest):.2f})   all answered {statistics.median(all_done):6.2f}"
        )


if __name__ == "__main__":
    main()
