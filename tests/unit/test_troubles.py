"""What stores and their libraries say, and what a person reads of it: a login that is refused is never "does not answer"."""

from __future__ import annotations

import pytest
import requests
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, RESOURCE_DOES_NOT_EXIST, TEMPORARILY_UNAVAILABLE
from sqlalchemy.exc import DatabaseError, OperationalError, ProgrammingError

from icr_platform.core.errors import InputError
from icr_platform.tracking.store_probe import check_address
from icr_platform.tracking.troubles import said_by, trouble_of


def database(text: str, kind: type[DatabaseError] = OperationalError) -> Exception:
    return kind(
        "SELECT permission denied FROM x", None, Exception(text)
    )  # the statement is the call's, not the store's


def wrapped(text: str) -> Exception:
    """As MLflow raises it from its own store: the cause is another one."""
    error = MlflowException(str(database(text)), error_code=TEMPORARILY_UNAVAILABLE)
    error.__cause__ = database(text)
    return error


def api(status: int, body: str = "") -> Exception:
    return MlflowException(
        f"API request to endpoint /api/2.0/mlflow/runs/log-batch failed with error code {status} != 200. Response body: '{body}'",
        error_code=RESOURCE_DOES_NOT_EXIST if status == 404 else INTERNAL_ERROR,
    )


def unreached(reason: str) -> Exception:
    host = "HTTPConnectionPool(host='h', port=5000)"
    return MlflowException(
        f"API request to http://h:5000/api/2.0/mlflow/runs/get failed with exception {host}: Max retries exceeded with url: /api "
        f"(Caused by {reason})"
    )


def s3(code: str, text: str = "") -> Exception:
    exceptions = pytest.importorskip("botocore.exceptions", reason="needs boto3: pip install 'moto[s3]'")
    found: Exception = exceptions.ClientError({"Error": {"Code": code, "Message": text}}, "PutObject")
    return found


def upload(text: str) -> Exception:
    exceptions = pytest.importorskip("boto3.exceptions", reason="needs boto3: pip install 'moto[s3]'")
    found: Exception = exceptions.S3UploadFailedError(f"Failed to upload /tmp/a to b/a: {text}")
    return found


LOGIN, DOWN, FORBIDDEN = "refuses the login", "does not answer", "does not permit this"
TABLE = {
    "PostgreSQL: password": (lambda: database('FATAL:  password authentication failed for user "me"'), LOGIN, False),
    "PostgreSQL: user": (lambda: database('connection failed: FATAL:  role "me" does not exist'), LOGIN, False),
    "PostgreSQL: no password": (lambda: database("connection failed: fe_sendauth: no password supplied"), LOGIN, False),
    "PostgreSQL: host": (lambda: database('FATAL:  no pg_hba.conf entry for host "10.0.0.9"'), LOGIN, False),
    "PostgreSQL: database": (lambda: database('FATAL:  database "icr" does not exist'), "has no database", False),
    "PostgreSQL: rights": (lambda: database("permission denied for table runs", ProgrammingError), FORBIDDEN, False),
    "PostgreSQL: replica": (
        lambda: database("cannot execute INSERT in a read-only transaction"), "can only be read", False
    ),
    "PostgreSQL: refused": (lambda: database("connection to server at 'h' failed: Connection refused"), DOWN, True),
    "PostgreSQL: lost": (lambda: database("server closed the connection unexpectedly"), DOWN, True),
    "PostgreSQL: ended": (lambda: database("terminating connection due to administrator command"), DOWN, True),
    "PostgreSQL: starts": (lambda: database("FATAL:  the database system is starting up"), "is starting", True),
    "PostgreSQL: crowded": (lambda: database("FATAL:  sorry, too many clients already"), "is starting, stopping", True),
    "PostgreSQL: full": (lambda: database("could not extend file: No space left on device"), "has no space left", True),
    "PostgreSQL: deadlock": (lambda: database("deadlock detected"), "is locked", True),
    "MySQL: password": (lambda: database("(1045, \"Access denied for user 'me'@'h'\")"), LOGIN, False),
    "MySQL: database": (lambda: database("(1049, \"Unknown database 'icr'\")"), "has no database", False),
    "MySQL: gone": (lambda: database("(2006, 'MySQL server has gone away')"), DOWN, True),
    "MySQL: read-only": (lambda: database("running with the --read-only option"), "can only be read", False),
    "SQL Server: password": (lambda: database("(18456) Login failed for user 'me'"), LOGIN, False),
    "SQLite: locked": (lambda: database("database is locked"), "is locked", True),
    "SQLite: locked, by MLflow": (lambda: wrapped("(sqlite3.OperationalError) database is locked"), "is locked", True),
    "SQLite: read-only": (lambda: database("attempt to write a readonly database"), "can only be read", False),
    "SQLite: full": (lambda: database("database or disk is full"), "has no space left", True),
    "SQLite: damaged": (lambda: database("database disk image is malformed", DatabaseError), "is not a readable", False),
    "SQLite: not one": (lambda: database("file is not a database", DatabaseError), "is not a readable", False),
    "SQLite: other tables": (lambda: database("no such table: experiments"), "tables that are not MLflow's", False),
    "SQLite: other words": (lambda: database("some new words"), DOWN, True),
    "schema": (lambda: MlflowException("Detected out-of-date database schema (found version a)"), "another version", False),
    "driver": (lambda: ModuleNotFoundError("No module named 'MySQLdb'"), "needs a driver", False),
    "server: refused": (lambda: unreached("NewConnectionError('[Errno 111] Connection refused')"), DOWN, True),
    "server: name": (lambda: unreached("NameResolutionError('Failed to resolve h')"), "host name that is not known", True),
    "server: certificate": (
        lambda: unreached("SSLError(SSLCertVerificationError(1, 'certificate verify failed'))"), "certificate", False
    ),
    "server: no TLS": (lambda: unreached("SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version number')"), "TLS", False),
    "server: slow": (lambda: unreached("ReadTimeoutError('Read timed out.')"), DOWN, True),
    "server: failing": (lambda: unreached("ResponseError('too many 500 error responses')"), DOWN, True),
    "server: 401": (lambda: api(401, "You are not authenticated"), LOGIN, False),
    "server: 403": (lambda: api(403, "nginx"), FORBIDDEN, False),
    "server: 403, MLflow's": (
        lambda: RestException({"error_code": "PERMISSION_DENIED", "message": "Permission denied"}), "not permit", False
    ),
    "server: 404 of a proxy": (lambda: api(404, "<html>"), "has no MLflow at this address", False),
    "server: 502": (lambda: api(502, "bad gateway"), DOWN, True),
    "server: 429": (lambda: api(429), DOWN, True),
    "server: its database": (
        lambda: RestException({"error_code": "TEMPORARILY_UNAVAILABLE", "message": "database is locked"}), "is locked", True
    ),
    "server: a page": (
        lambda: MlflowException("API request to endpoint was successful but the response body was not in a valid JSON format"),
        "other than MLflow's JSON", False,
    ),
    "requests: reset": (lambda: requests.exceptions.ConnectionError("Connection reset by peer"), DOWN, True),
    "socket: reset": (lambda: ConnectionResetError(104, "Connection reset by peer"), DOWN, True),
    "S3: bucket": (lambda: s3("NoSuchBucket", "The specified bucket does not exist"), "has no bucket", False),
    "S3: key": (lambda: s3("InvalidAccessKeyId"), LOGIN, False),
    "S3: secret": (lambda: s3("SignatureDoesNotMatch"), LOGIN, False),
    "S3: expired": (lambda: s3("ExpiredToken"), LOGIN, False),
    "S3: rights": (lambda: s3("AccessDenied", "Access Denied"), FORBIDDEN, False),
    "S3: region": (lambda: s3("PermanentRedirect"), "in another region", False),
    "S3: slow down": (lambda: s3("SlowDown", "Please reduce your request rate."), DOWN, True),
    "S3: upload": (lambda: upload("An error occurred (NoSuchBucket) when calling the PutObject operation"), "bucket", False),
    "S3: full": (lambda: s3("XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."), "space", True),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_what_a_store_does(case: str) -> None:
    make, does, passes = TABLE[case]
    trouble = trouble_of(make())
    assert trouble is not None
    assert does in trouble.does
    assert trouble.passes == passes


@pytest.mark.parametrize(
    "error",
    [
        RestException({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Run with id=403 not found"}),
        RestException({"error_code": "INVALID_PARAMETER_VALUE", "message": "Changing param values: Timeout"}),
        MlflowException("Experiment 'No space left' exists", error_code=RESOURCE_DOES_NOT_EXIST),
        ValueError("Connection refused"),
        KeyError("timeout"),
    ],
)
def test_what_is_not_the_store_s(error: Exception) -> None:
    assert trouble_of(error) is None


def test_the_innermost_words_are_short() -> None:
    error = wrapped(
        "(sqlite3.OperationalError) database is locked\n[SQL: SELECT 1]\n(Background on this error at: https://x)"
    )
    assert "SELECT" not in said_by(error)
    assert len(said_by(MlflowException("word " * 400))) <= 200


ADDRESSES = {
    "127.0.0.1:5000": "write MLFLOW_TRACKING_URI=http://127.0.0.1:5000",
    "mlflow.example.org:80/base": "write MLFLOW_TRACKING_URI=http://mlflow.example.org:80/base",
    "http://": "no address of a server",
    "http://:5000": "no address of a server",
    "http://host:port": "no address of a server",
    "http://host:99999": "no address of a server",
    "postgres://me:secret@h/icr": "write postgresql:// for postgres://",
    "s3://bucket/mlruns": "is a place of artifacts",
    "gs://bucket/mlruns": "is a place of artifacts",
    "runs:/abc": "no longer opens file stores",
    "mlruns": "no longer opens file stores",
    "file:///tmp/mlruns": "no longer opens file stores",
    "./mlruns": "no longer opens file stores",
    "redis://me:secret@h": "no tracking store of the kind redis://",
    "oracle+cx://me:secret@h": "no tracking store of the kind oracle+cx://",
}


@pytest.mark.parametrize("uri", ADDRESSES)
def test_addresses_that_mlflow_does_not_open(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with pytest.raises(InputError) as caught:
        check_address(uri)
    assert ADDRESSES[uri] in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "uri", ["http://h:5000", "https://me:secret@h/base", "sqlite:///m.db", "postgresql+psycopg://h/x", "databricks", "databricks://p"]
)  # fmt: skip
def test_addresses_that_it_opens(uri: str) -> None:
    check_address(uri)
