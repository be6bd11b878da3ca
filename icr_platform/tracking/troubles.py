"""What is wrong with a store, in a person's words, whichever of its many libraries says so: MLflow, SQLAlchemy and its drivers, requests, boto3.

Most of them keep the reason in the text alone, and wrap each other's errors: the text of the whole chain is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from icr_platform.core.failures import telling_line


@dataclass(frozen=True)
class Trouble:
    """What a store does, as the end of a sentence, and what a person can do. passes: the same call may succeed later."""

    does: str
    fix: str
    passes: bool = False


_LONGEST = 200  # characters of a library's own words
_START = "start it, or correct its address"
_TABLE: tuple[tuple[str, Trouble], ...] = (
    # Before all words for failed connections, which the same messages contain.
    (r"password authentication failed|no password supplied|fe_sendauth|role \S+ does not exist|Access denied for user|Login failed for"
     r"|no pg_hba\.conf entry|error code 401\b|UNAUTHENTICATED|You are not authenticated|InvalidAccessKeyId|SignatureDoesNotMatch"
     r"|InvalidToken\b|ExpiredToken|Unable to locate credentials|NoCredentials|PartialCredentials|TokenRefreshRequired|InvalidClientTokenId"
     r"|DefaultCredentialsError|NoAuthHandlerFound",
     Trouble("refuses the login", "correct the user and password, or the keys, in its address or the environment")),
    (r"wrong version number|record layer failure|UNEXPECTED_EOF_WHILE_READING|server does not support SSL|http request was sent to https"
     r"|packet length too long",
     Trouble("does not speak TLS at this address, or it alone", "write http:// for https://, or https:// for http://")),
    (r"certificate.?verify.?failed|CertificateError|self.signed certificate|hostname mismatch|TLS CA certificate",
     Trouble("has a certificate that is not trusted here",
             "name its authority's file in MLFLOW_TRACKING_SERVER_CERT_PATH (AWS_CA_BUNDLE for S3)")),
    (r"out-of-date database schema|Can't locate revision",
     Trouble("was written by another version of MLflow",
             "back it up and run `mlflow db upgrade` on it, or install the MLflow that wrote it")),
    (r"file is not a database|database disk image is malformed|file is encrypted",
     Trouble("is not a readable database", "restore it from a backup, or name another one")),
    (r"no such (?:table|column)\b|UndefinedTable|UndefinedColumn|relation \S+ does not exist|table \S+ already exists|DuplicateTable"
     r"|Unknown column|doesn't exist",
     Trouble("has tables that are not MLflow's", "name a database of its own for MLflow")),
    (r"database \S+ does not exist|Unknown database|Cannot open database|no schema has been selected|schema \S+ does not exist",
     Trouble("has no database or schema of this name", "create it, or correct its address")),
    (r"NoSuchBucket|bucket does not exist|BucketNotFound|ContainerNotFound|specified container does not exist",
     Trouble("has no bucket of this name", "create it, or correct the experiment's artifact location")),
    (r"Invalid bucket name|InvalidBucketName|ParamValidationError",
     Trouble("takes no bucket of this name", "correct the experiment's artifact location")),
    (r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|must be addressed using the specified endpoint",
     Trouble("has the bucket in another region", "set AWS_DEFAULT_REGION to its region")),
    (r"readonly database|read-only transaction|read.only file system|read-only option|READ_ONLY|hot standby",
     Trouble("can only be read", "name one that can be written, or make this one writable")),
    (r"[Pp]ermission denied|PERMISSION_DENIED|AccessDenied|Access Denied|Forbidden|error code 403\b|command denied|must be owner of|InsufficientPrivilege"
     r"|UnauthorizedOperation|AuthorizationPermissionMismatch",
     Trouble("does not permit this", "ask for the right to write there, or name another one")),
    (r"database is locked|table is locked|deadlock detected|Deadlock found|Lock wait timeout|could not obtain lock|LockNotAvailable"
     r"|could not serialize",
     Trouble("is locked by another process", "end that process, or wait for it", passes=True)),
    (r"disk is full|No space left|could not extend file|StorageFull|InsufficientStorage|error code 507\b|Disk quota exceeded",
     Trouble("has no space left", "free some", passes=True)),
    (r"unable to open database file",
     Trouble("cannot be opened", "check that its folder exists, can be written, and that it is a file")),
    (r"Name or service not known|getaddrinfo|nodename nor servname|name resolution|NameResolutionError|could not translate host name"
     r"|failed to resolve host|Unknown MySQL server host",
     Trouble("has a host name that is not known", "correct its address", passes=True)),
    (r"error code 3\d\d\b|TooManyRedirects",
     Trouble("sends elsewhere", "give the address where it really is", passes=False)),
    (r"error code 404\b",
     Trouble("has no MLflow at this address", "correct the address, with the path below which MLflow is served", passes=False)),
    (r"not in a valid JSON format|JSONDecodeError|Expecting value: line 1",
     Trouble("answers with something other than MLflow's JSON, such as a login page", "correct its address, or log in to the proxy before it")),
    (r"starting up|shutting down|in recovery mode|too many (?:clients|connections)|remaining connection slots|QueuePool limit",
     Trouble("is starting, stopping or overloaded", "wait for it", passes=True)),
    (r"No module named|NoSuchModuleError|Can't load plugin|No such module|DBAPI.*not found",
     Trouble("needs a driver that is not installed", "install it with pip (for PostgreSQL: 'icr-platform[postgres]', for S3: boto3)")),
    (r"error code (?:5\d\d|429|408)\b|\b5\d\d error responses|Max retries|TEMPORARILY_UNAVAILABLE|[Cc]onnection refused|[Cc]onnection reset"
     r"|[Cc]onnection aborted|[Cc]onnection (?:was |is |already )?closed|closed the connection|terminating connection|[Ll]ost connection"
     r"|gone away|[Tt]imed? ?out|[Tt]imeout|Could not connect|connection failed|ConnectionError|EndpointConnection|HTTPClientError"
     r"|SlowDown|ServiceUnavailable|Service Unavailable|InternalError\b|API request to|Broken pipe|IncompleteRead|ProtocolError"
     r"|No route to host|Network is unreachable|Temporary failure",
     Trouble("does not answer", _START, passes=True)),
)  # fmt: skip
_PATTERNS = tuple((re.compile(pattern), trouble) for pattern, trouble in _TABLE)
# What MLflow says of its own objects; a name in such a message is never a sign.
_OF_OBJECTS = {"RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "INVALID_PARAMETER_VALUE", "INVALID_STATE"}


def trouble_of(error: BaseException) -> Trouble | None:
    """The trouble that a call met with its store; None where the call itself was wrong, such as for a run that does not exist."""
    from mlflow.exceptions import MlflowException

    text = _text_of(error)
    if isinstance(error, MlflowException) and error.error_code in _OF_OBJECTS and "failed with error code" not in text:
        return None
    if not isinstance(error, MlflowException) and not _is_of_a_store(error):
        return None
    return next((trouble for pattern, trouble in _PATTERNS if pattern.search(text)), _unnamed(error))


def said_by(error: BaseException) -> str:
    """What the innermost library said, on one short line, for a person who knows it."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = telling_line(str(error).partition("[SQL:")[0].partition("(Background on this error")[0])
    if len(text) > _LONGEST:
        text = text.partition(". ")[0][:_LONGEST].rstrip()
    return text or type(error).__name__


def _is_of_a_store(error: BaseException) -> bool:
    """Whether a library that talks to stores raised it; by name, for boto3 and drivers are installed only where they are used."""
    import requests
    from sqlalchemy.exc import DBAPIError, NoSuchModuleError

    if isinstance(
        error, (requests.exceptions.RequestException, DBAPIError, NoSuchModuleError, ConnectionError, ImportError)
    ):
        return True
    return any(
        kind.__module__.split(".")[0] in ("botocore", "boto3", "google", "azure") for kind in type(error).__mro__
    )


def _unnamed(error: BaseException) -> Trouble | None:
    """A failed connection or statement of a kind that the table does not name; it may pass."""
    import requests
    from sqlalchemy.exc import OperationalError

    if isinstance(error, (requests.exceptions.RequestException, OperationalError, ConnectionError)):
        return Trouble("does not answer", _START, passes=True)
    return None


def _text_of(error: BaseException) -> str:
    parts, seen = [], set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        parts.append(f"{type(link).__name__}: {str(link).partition('[SQL:')[0]} {getattr(link, 'error_code', '')}")
        link = link.__cause__ or link.__context__
    return "\n".join(parts)
