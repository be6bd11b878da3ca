"""What `icr inspect` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

VERDICTS_FILE = "verdicts.db"


def _option(default: Any, doc: str) -> Any:
    return field(default=default, metadata={"help": doc})


@dataclass(frozen=True)
class InspectOptions:
    """Flags of `icr inspect`, of which help shows the texts."""

    tracking_uri: str = _option("", "MLflow store; empty: MLFLOW_TRACKING_URI, or MLflow's default")
    experiment: str = _option("", "show this experiment only; empty: all")
    outputs: str = _option(
        "",
        "files or folders of outputs, separated by commas, that Compare can set beside runs; a path may have {language} in it",
    )
    port: int = _option(7860, "port on 127.0.0.1; 0 takes a free one")
    verdicts: str = _option(VERDICTS_FILE, "where verdicts are stored: SQLAlchemy URL, or path of an SQLite file")
    auth_file: str = _option(
        "",
        "file of users and hashed passwords, to which `python -m ui.server.auth FILE NAME` adds one; empty: no login",
    )
    user_header: str = _option("", "request header in which a reverse proxy names the user; empty: none is trusted")
    public_host: str = _option(
        "",
        "host name under which a reverse proxy serves the inspector, with its port where that is not 443, in addition to 127.0.0.1 and "
        "localhost",
    )
    lead: str = _option(
        "",
        "users, separated by commas, who may publish verdicts and make review links, beside those whom the auth file marks; without a "
        "login everyone on this machine may",
    )
