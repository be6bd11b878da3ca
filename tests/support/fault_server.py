"""An OpenAI-compatible chat endpoint on a real socket that fails on purpose, in every way an endpoint can.

Its answers depend on the messages alone, so that whatever faults a run met, its table must be the same.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

FAULTS = ("429", "429-after", "500", "503", "reset", "hang", "truncated", "not-json", "no-choice", "400")
MORE_FAULTS = (*FAULTS, "null")
"""With an answer of null, which cannot be told from a meant one where log-probabilities come with it."""
KEY = "secret-key-of-the-judge"


@dataclass
class Behaviour:
    """How the server answers.

    fault_rate: share of requests that fail, with equal shares of `faults`.
    seconds: time an answer takes.
    refused: parameter names that get a 400; so does a top_logprobs above `largest_top_logprobs`.
    reply: from the last message to the answer, in the place of `answer`.
    answer: 'logprobs', 'none' (no log-probabilities), 'prose', 'refusal', 'json' or 'grade'.
    """

    fault_rate: float = 0.0
    seconds: float = 0.0
    seed: int = 0
    faults: tuple[str, ...] = FAULTS
    refused: tuple[str, ...] = ()
    largest_top_logprobs: int = 20
    answer: str = "logprobs"
    reply: Callable[[str], str] | None = None
    requests: int = 0
    open_requests: int = 0
    most_at_once: int = 0
    seen: list[dict[str, Any]] = field(default_factory=list)


def tokens(text: str) -> int:
    """Tokens as this server counts them: four UTF-8 bytes each."""
    return math.ceil(len(text.encode()) / 4)


def preference(messages: list[dict[str, str]]) -> float:
    """P(m) in (0, 1) from the messages."""
    digest = hashlib.sha256(json.dumps(messages, ensure_ascii=False).encode()).digest()
    return (int.from_bytes(digest[:6]) + 1) / (2**48 + 2)


def completion(request: dict[str, Any], answer: str) -> dict[str, Any]:
    m = preference(request["messages"])
    winner = "m" if m >= 0.5 else "M"
    texts = {"prose": "Both outputs are fine.", "json": json.dumps({"winner": winner}), "refusal": "",
             "grade": json.dumps({"explanation": "Seen.", "rating": 1 + int(10 * m)})}  # fmt: skip
    text = texts.get(answer, winner)
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    if answer == "refusal":
        choice["message"]["refusal"] = "I cannot compare these."
    if request.get("logprobs") and answer in ("logprobs", "prose"):
        pairs = [("m", 0.95 * m), ("M", 0.95 * (1 - m)), ("The", 0.05)] if answer == "logprobs" else [("Both", 1.0)]
        top: list[dict[str, Any]] = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in pairs]
        top.sort(key=lambda entry: -entry["logprob"])
        choice["logprobs"] = {"content": [top[0] | {"top_logprobs": top}]}
    usage = {"prompt_tokens": sum(tokens(message["content"]) for message in request["messages"]) + 7,
             "completion_tokens": tokens(text)}  # fmt: skip
    return {"id": "x", "object": "chat.completion", "created": 0, "model": request["model"], "choices": [choice],
            "usage": usage | {"total_tokens": sum(usage.values())}}  # fmt: skip


class FaultServer:
    """Serves `behaviour` on `host:port` until closed."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.random = random.Random(behaviour.seed)
        self.server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> int:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        return int(self.server.sockets[0].getsockname()[1])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if not lines[0].startswith("POST"):
            return _send(writer, 200, b'{"object": "list", "data": []}')
        behaviour = self.behaviour
        behaviour.requests += 1
        behaviour.open_requests += 1
        behaviour.most_at_once = max(behaviour.most_at_once, behaviour.open_requests)
        try:
            if headers.get("authorization") != f"Bearer {KEY}":
                return _error(writer, 401, f"Incorrect API key provided: {headers.get('authorization')}")
            return await self._answer(json.loads(body), writer)
        finally:
            behaviour.open_requests -= 1

    async def _answer(self, request: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        behaviour = self.behaviour
        behaviour.seen.append({name: value for name, value in request.items() if name != "messages"})
        for name in behaviour.refused:
            if name in request:
                return _error(writer, 400, f"Unsupported parameter: '{name}' is not supported with this model.", name)
        if request.get("top_logprobs", 0) > behaviour.largest_top_logprobs:
            return _error(writer, 400, f"top_logprobs must be at most {behaviour.largest_top_logprobs}", "top_logprobs")
        if self.random.random() < behaviour.fault_rate:
            return await self._fail(self.random.choice(behaviour.faults), request, writer)
        await asyncio.sleep(behaviour.seconds)
        return _send(writer, 200, json.dumps(self._completion(request)).encode())

    def _completion(self, request: dict[str, Any]) -> dict[str, Any]:
        answered = completion(request, self.behaviour.answer)
        if self.behaviour.reply is not None:
            answered["choices"][0]["message"]["content"] = self.behaviour.reply(request["messages"][-1]["content"])
        return answered

    async def _fail(self, fault: str, request: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        whole = json.dumps(self._completion(request)).encode()
        if fault.isdigit():
            name = "logprobs" if fault == "400" and self.random.random() < 0.5 else "max_tokens"
            return _error(writer, int(fault), f"'{name}' is not supported" if fault == "400" else "try again", name)
        if fault == "429-after":
            return _error(writer, 429, "slow down", retry_after=f"{self.random.uniform(0.02, 0.2):.2f}")
        if fault == "null":
            value = json.loads(whole)
            value["choices"][0] |= {"message": {"role": "assistant", "content": None}, "logprobs": None}
            return _send(writer, 200, json.dumps(value).encode())
        if fault == "hang":
            await asyncio.sleep(3600)
        elif fault == "reset":
            writer.transport.abort()
        elif fault == "truncated":
            writer.write(
                f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(whole)}\r\n\r\n".encode()
            )
            writer.write(whole[: len(whole) // 2])
            await writer.drain()
            writer.transport.close()
        else:
            return _send(writer, 200, b"<html>busy</html>" if fault == "not-json" else b'{"choices": []}')
        return False


def _error(
    writer: asyncio.StreamWriter, status: int, message: str, param: str | None = None, retry_after: str = ""
) -> bool:
    body = json.dumps({"error": {"message": message, "type": "error", "param": param, "code": None}}).encode()
    return _send(writer, status, body, f"retry-after: {retry_after}\r\n" if retry_after else "")


def _send(writer: asyncio.StreamWriter, status: int, body: bytes, extra: str = "") -> bool:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    writer.write(head.encode() + body)
    return True


@contextmanager
def fault_servers() -> Iterator[Callable[..., tuple[Behaviour, str]]]:
    """Gives `start(**behaviour)`: a server in a thread of this process, as its behaviour and its base URL."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def start(**settings: Any) -> tuple[Behaviour, str]:
        behaviour = Behaviour(**settings)
        port = asyncio.run_coroutine_threadsafe(FaultServer(behaviour).start(), loop).result()
        return behaviour, f"http://127.0.0.1:{port}/v1"

    yield start
    asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def served_apart(fault_rate: float = 0.0, seconds: float = 0.0) -> Iterator[str]:
    """Base URL of a server in a process of its own, whose work costs this process nothing."""
    command = [sys.executable, __file__, f"--fault-rate={fault_rate}", f"--seconds={seconds}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/v1"
    finally:
        process.kill()
        process.wait()


async def serve(behaviour: Behaviour, port: int) -> None:
    """Run until cancelled; print the port when listening."""
    server = FaultServer(behaviour)
    print(await server.start(port), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--answer", default="logprobs")
    arguments = vars(parser.parse_args())
    asyncio.run(
        serve(Behaviour(**{name: value for name, value in arguments.items() if name != "port"}), arguments["port"])
    )


if __name__ == "__main__":
    main()
