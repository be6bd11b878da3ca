"""Who may look, for teams: a file of users with hashed passwords. `python -m ui.server.auth FILE NAME [--lead]` adds one.

A line is `name:scrypt:n:r:p:salt:hash`, the last two in hex (RFC 7914), or `name:scrypt:n:r:p:salt:hash:lead` for someone who leads.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import hmac
import os
import re
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from icr_platform.core.artifacts import atomic_path
from icr_platform.core.errors import IcrError, InputError

_N, _R, _P = 2**15, 8, 1
_MEMORY = 64 * 1024 * 1024  # scrypt takes 128 * N * R bytes, 32 MiB, which is just above OpenSSL's own limit
_SHORTEST = 8
_LINE = re.compile(
    r"(?P<name>[^:]+):(?P<stored>scrypt:\d+:\d+:\d+:(?:[0-9a-fA-F]{2})+:(?:[0-9a-fA-F]{2})+)(?P<lead>:lead)?", re.ASCII
)


def hash_password(password: str, salt: bytes | None = None) -> str:
    """`scrypt:n:r:p:salt:hash` of a password."""
    salt = salt or secrets.token_bytes(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, n=_N, r=_R, p=_P, maxmem=_MEMORY)
    return f"scrypt:{_N}:{_R}:{_P}:{salt.hex()}:{digest.hex()}"


def is_password(password: str, stored: str) -> bool:
    """Whether `stored` is the hash of `password`."""
    _, n, r, p, salt, digest = stored.split(":")
    found = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), n=int(n), r=int(r), p=int(p), maxmem=_MEMORY)
    return hmac.compare_digest(found.hex(), digest)


class User(NamedTuple):
    """stored: the hash of the password. is_lead: see ui.server.roles."""

    stored: str
    is_lead: bool = False


def load_users(path: Path) -> dict[str, User]:
    """Users by name.

    Raises:
        InputError: there is no such file, it cannot be read, or a line is not a user's.
    """
    add = f"`python -m ui.server.auth {path} NAME`"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {add} makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not a readable file of users ({error}); {add} makes one") from None
    users = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise InputError(
                f"{path}: line {number}: is not name:scrypt:... or name:scrypt:...:lead; add users with {add}"
            )
        users[match["name"].strip()] = User(match["stored"], bool(match["lead"]))
    if not users:
        raise InputError(f"{path}: contains no user; add one with {add}")
    return users


def checker(users: dict[str, User]) -> Callable[[str, str], bool]:
    """Whether a name and a password are a user's. An unknown name takes as long as a wrong password."""
    unknown = User(hash_password(secrets.token_hex(16)))

    def is_welcome(name: str, password: str) -> bool:
        return is_password(password, users.get(name, unknown).stored) and name in users

    return is_welcome


def add_user(path: Path, name: str, password: str, is_lead: bool | None = None) -> None:
    """Add a user, or change her password. The file is readable by its owner only.

    is_lead: None leaves a user what she is; a new one does not lead then.
    """
    if not name.strip() or name != name.strip() or set(name) & set(":\n#") or len(name) > 200:
        raise InputError(f"{name!r}: a name is 1 to 200 characters without ':' and '#', and no space at its ends")
    if len(password) < _SHORTEST:
        raise InputError(f"a password has at least {_SHORTEST} characters")
    users = load_users(path) if path.exists() else {}
    led = name in users and users[name].is_lead
    users[name] = User(hash_password(password), led if is_lead is None else is_lead)
    with atomic_path(path) as temporary:
        # Created with its mode: a chmod afterwards would leave the hashes readable for a moment.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            for user, (stored, leads) in users.items():
                file.write(f"{user}:{stored}{':lead' if leads else ''}\n")


def main(arguments: list[str]) -> int:
    """`python -m ui.server.auth FILE NAME [--lead | --no-lead]`: asks for the password."""
    parser = argparse.ArgumentParser("python -m ui.server.auth", description="Add a user, or change a password.")
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument(
        "--lead",
        action=argparse.BooleanOptionalAction,
        help="whether this user may publish verdicts and make review links (default: as before; a new user may not)",
    )
    given = parser.parse_args(arguments)
    try:
        add_user(given.file, given.name, getpass.getpass("Password: "), given.lead)
    except IcrError as error:
        print(f"ui.server.auth: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
