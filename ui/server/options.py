"""What `icr inspect` can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

VERDICTS_FILE = "verdicts.db"


@dataclass(frozen=True)
class InspectOptions:
    """Flags of `icr inspect`.

    tracking_uri: MLflow store; empty: MLFLOW_TRACKING_URI, or MLflow's default.
    experiment: show this experiment only; empty: all.
    port: on 127.0.0.1; 0 takes a free one.
    verdicts: SQLAlchemy URL, or path of an SQLite file.
    auth_file: users and hashed passwords, see `ui.server.auth`; empty: no login.
    user_header: request header in which a reverse proxy names the user; empty: none is trusted.
    public_host: host name under which a reverse proxy serves the inspector, in addition to 127.0.0.1 and localhost.
    """

    tracking_uri: str = ""
    experiment: str = ""
    port: int = 7860
    verdicts: str = VERDICTS_FILE
    auth_file: str = ""
    user_header: str = ""
    public_host: str = ""
