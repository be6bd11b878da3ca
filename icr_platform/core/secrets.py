"""Secrets leave the process nowhere: whatever is shown or stored for people to read passes `redact`, and addresses `shown_url`.

Known by where they stand (a URL's user and signed query, an `Authorization` header, `password=`), by their shape (`sk-`, `hf_`,
a private key), and by their value: those of the environment, and those that this process was told to `remember`.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import parse_qsl, quote, quote_plus, unquote

HIDDEN = "***"
"""What stands where a secret was."""

# Atomic and possessive, and begun where a word begins: a long line of such words takes no longer than any other line.
_SECRET_NAME = (
    r"(?<![\w.-])(?>[\w.-]*?(?:signature|credential|security-token|passw|passphrase|secret|api[_-]?key|access[_-]?key"
    r"|access[_-]?id|account[_-]?key|subscription[_-]?key|private[_-]?key"
    r"|(?:auth|access|refresh|session|id|private|bearer|sas)[_-]?token))[\w.-]*+"
)
_QUERY_NAME = rf"(?:{_SECRET_NAME}|sig|[\w.-]*?token|key|sas|jwt|pwd|pass|code|auth|authorization|hmac|hdnts)"
_SIGNING = re.compile(  # of S3, Google, Alibaba and Tencent; of Azure; of CloudFront
    r"(?:x-amz-|x-goog-|x-oss-|q-).*|se|st|sp|sv|sr|spr|sks|skt|ske|skv|skoid|sktid|expires|policy|key-pair-id",
    re.IGNORECASE,
)
_ENVIRONMENT_NAME = re.compile(
    r".*(?:PASSWORD|PASSWD|PASSPHRASE|SECRET|CREDENTIAL|CONNECTION_STRING).*|.*_PWD|(?:.*_)?(?:\w*KEY|KEY_ID|TOKEN|PASS|SAS|AUTH|JWT)",
    re.IGNORECASE,
)
_NOT_THE_SECRET = re.compile(r".*_(?:FILE|PATH|DIR|SOCK|URL|URI|VARIABLE|NAME|COMMAND|PROVIDER|TYPE)", re.IGNORECASE)
_PLACEHOLDERS = frozenset(
    ["empty", "none", "null", "true", "false", "dummy", "test", "unused", "local", "fake", "default", "***"]
)
_LEAST_LENGTH = 4  # characters of a value that is hidden
_TELLING_LENGTH = 8  # of one that is hidden within words too

_SCHEME = r"(?!github:)([a-z][a-z0-9+.-]{1,30}://)"  # github://ORG:REPO@REVISION is fsspec's, and not a user's
_URL = re.compile(rf"\b{_SCHEME}([^\s\"<>|]+)", re.IGNORECASE)
_WHOLE_URL = re.compile(rf"\A\s*{_SCHEME}(.+)\Z", re.IGNORECASE | re.DOTALL)
_DATABASE = re.compile(r"postgres|mysql|mariadb|mssql|oracle|mongodb|redis|amqp", re.IGNORECASE)
_ENDS = r"""(?=[:,.]{0,3}(?:[\s"'&;#<>)\]}|,]|\Z))"""  # of a value: punctuation behind it belongs to the sentence
_VALUE = rf"""[^\s"'&;#<>)\]}}|,]+?{_ENDS}"""
_QUERY = re.compile(rf"([?&;#]{_QUERY_NAME}=){_VALUE}", re.IGNORECASE)
_LOGIN = r"(?:(?:Bearer|Basic|Token|Digest|AWS4-HMAC-SHA256)\s+)?"
_RULES = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), replacement)
    for pattern, replacement in (
        (r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY-----|\Z)", HIDDEN),
        # A header, also as an entry of a printed dictionary or list of pairs.
        (rf"""(\b(?:proxy-)?authorization["']?\s*[:=,]\s*["']?){_LOGIN}[^\s"',;}}]+""", rf"\1{HIDDEN}"),
        (rf"(\bbearer\s+)(?=\S*[\d._~+/=-])(?=\S{{6}}){_VALUE}", rf"\1{HIDDEN}"),
        # A name and its value: as JSON, as `name=value`, as YAML where the value does not read like a word.
        (rf"""(["']{_SECRET_NAME}["']\s*[:,]\s*)(["'])(?:(?!\2)[^\\]|\\.)+\2""", rf"\1\2{HIDDEN}\2"),
        (rf"""({_SECRET_NAME}\s?=\s?["']?){_VALUE}""", rf"\1{HIDDEN}"),
        (rf"""({_SECRET_NAME}:\s+)(?=\S*\d)(?=\S{{6}}){_VALUE}""", rf"\1{HIDDEN}"),
    )
)
_SHAPES = re.compile(
    r"(?<![\w-])(?:sk-(?:(?=[\w-]*\d)[\w-]{8,}|[\w-]{20,})|[sr]k_(?:live|test)_\w{8,}|hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{30,}|nvapi-[\w-]{16,}"
    r"|gsk_[A-Za-z0-9]{20,}|dapi[a-f0-9]{32}|pypi-[\w-]{40,}|npm_[A-Za-z0-9]{30,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*)"
)

_remembered: set[str] = set()


def redact(text: str) -> str:
    """The text with `***` where a secret stands; all else stays as it is.

    >>> redact("GET https://ann:pa55@host:8000/v1/x.jsonl?version=3&X-Amz-Signature=8f2a: HTTP 403")
    'GET https://***@host:8000/v1/x.jsonl?version=3&X-Amz-Signature=***: HTTP 403'
    >>> redact("headers {'Authorization': 'Bearer abc'}; Incorrect API key provided: sk-proj-1234567890")
    "headers {'Authorization': '***'}; Incorrect API key provided: ***"
    """
    known = _pattern_of(_known_values())
    if known is not None:
        text = known.sub(HIDDEN, text)
    if "://" in text:
        text = _URL.sub(_without_user, text)
    if "=" in text:
        text = _QUERY.sub(rf"\1{HIDDEN}", text)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return _SHAPES.sub(HIDDEN, text)


def shown_url(url: str) -> str:
    """An address for messages and records: `***` stands for its user and password, and for what is secret in its query.

    All of the text is the address, so that a password with a space in it is seen too.

    >>> shown_url("postgresql://icr:pa ss@db/mlflow"), shown_url("data/en.jsonl"), shown_url("https://host/f?sig=abc&v=1")
    ('postgresql://***@db/mlflow', 'data/en.jsonl', 'https://host/f?sig=***&v=1')
    """
    return redact(_WHOLE_URL.sub(_without_user, url))


def bare_url(url: str) -> str:
    """An address as it identifies what lies there: without user, password, signature and what is signed with them.

    A link that was signed again, or by somebody else, is the same address:

    >>> bare_url("https://b.s3.amazonaws.com/f.jsonl?X-Amz-Date=1&X-Amz-Expires=9&X-Amz-Signature=8f2a&versionId=3")
    'https://b.s3.amazonaws.com/f.jsonl?versionId=3'
    """
    if "://" not in url:
        return url
    address, _, query = _WHOLE_URL.sub(_without_user, url).replace(f"://{HIDDEN}@", "://", 1).partition("?")
    kept = [
        parameter
        for parameter in query.split("&")
        for name in [unquote(parameter.partition("=")[0])]
        if parameter and not _SIGNING.fullmatch(name) and not re.fullmatch(_QUERY_NAME, name, re.IGNORECASE)
    ]
    return address + ("?" + "&".join(kept) if kept else "")


def has_secret(text: str) -> bool:
    """Whether `redact` would hide some of the text."""
    return redact(text) != text


def remember(*secrets: str) -> None:
    """Hide these values from now on, wherever they appear."""
    _remembered.update(secrets)


def remember_secrets_of(url: str) -> None:
    """Hide the password and the signature of an address also where they appear apart from it."""
    remember(*_secrets_of_url(url))


def _without_user(found: re.Match[str]) -> str:
    scheme, rest = found.groups()
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    end = authority.rfind("@")
    # A password may contain `/`, `?` and `#` that nobody encoded; what follows `user:` is then not a port.
    after_colon = re.sub(r"^\[[^\]]*\]", "", authority).partition(":")[2]
    if end < 0 and "@" in rest and (_DATABASE.match(scheme) or (after_colon and not after_colon.isdigit())):
        end = rest.rfind("@")
    return f"{scheme}{HIDDEN}{rest[end:]}" if end >= 0 else found.group()


def _secrets_of_url(url: str) -> Iterable[str]:
    """The password of a URL (or its user, where that is all there is), and the values of secret parameters of its query."""
    found = _WHOLE_URL.match(url)
    if found:
        scheme, rest = found.groups()
        shown = _without_user(found).removeprefix(scheme + HIDDEN)
        if len(shown) < len(rest):
            user, _, password = rest[: len(rest) - len(shown)].partition(":")
            yield from {password or user, unquote(password or user)}
            if password:
                yield base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()
        _, _, query = rest.partition("?")
        for name, value in parse_qsl(query):
            if re.fullmatch(_QUERY_NAME, name, re.IGNORECASE):
                yield value


def _known_values() -> frozenset[str]:
    found = set(_remembered)
    for name, value in os.environ.items():
        if "://" in value:
            found.update(_secrets_of_url(value))
        elif (
            _ENVIRONMENT_NAME.fullmatch(name) and not _NOT_THE_SECRET.fullmatch(name) and name not in ("PWD", "OLDPWD")
        ):
            found.add(value.strip())
    return frozenset(found)


@lru_cache(maxsize=16)
def _pattern_of(values: frozenset[str]) -> re.Pattern[str] | None:
    """What finds any of the values, as it is or as a URL, JSON, Python or a line of a message writes it."""
    forms: set[str] = set()
    for value in values:
        if (
            len(value) < _LEAST_LENGTH
            or value.lower() in _PLACEHOLDERS
            or (value.startswith("/") and os.path.exists(value))
        ):
            continue
        one_line = " ".join(value.split())
        for form in {value, one_line, quote(value), quote(value, safe=""), quote_plus(value), repr(value)[1:-1],
                     json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}:  # fmt: skip
            # A short one, or a mere word, is hidden where it stands alone: a password `postgres` must not eat `postgresql://`.
            is_word = len(value) < _TELLING_LENGTH or (value.isalpha() and value.islower())
            forms.add(rf"(?<![A-Za-z0-9]){re.escape(form)}(?![A-Za-z0-9])" if is_word else re.escape(form))
    # The longest first: one secret may begin as another does.
    return re.compile("|".join(sorted(forms, key=lambda form: (-len(form), form)))) if forms else None
