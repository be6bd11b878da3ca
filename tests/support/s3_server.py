"""A real S3-compatible server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest


@dataclass
class S3Server:
    """A server that runs. requests: (method, path, query) of each that it has answered."""

    url: str
    requests: list[tuple[str, str, str]] = field(default_factory=list)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Starts a server and names it in this process's environment, for boto3, pyarrow and MLflow alike."""
    moto = pytest.importorskip("moto.server", reason="needs an S3 server: pip install 'moto[s3]'")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    running = S3Server(f"http://{host}:{port}")
    app = server._server.app

    def recorded(environ: dict[str, Any], start: Any) -> Any:
        running.requests.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]))
        return app(environ, start)

    server._server.app = recorded
    environment = {
        "AWS_ENDPOINT_URL": running.url, "MLFLOW_S3_ENDPOINT_URL": running.url,
        "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield running
    server.stop()
