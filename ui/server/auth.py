"""Who may look, for teams: a file of users with hashed passwords. `python -m ui.server.auth FILE NAME` adds one.

A line is `name:scrypt:n:r:p:salt:hash`, the last two in hex (RFC 7914).
"""

from __future__ import annotations

import getpass
import hashlib
import hmac
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from icr_platform.core.artifacts import atomic_path
from icr_platform.core.errors import IcrError, InputError

_N, _R, _P = 2**15, 8, 1
_MEMORY = 64 * 1024 * 1024  # scrypt takes 128 * N * R bytes, 32 MiB, which is just above OpenSSL's own limit
_SHORTEST = 8


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


def load_users(path: Path) -> dict[str, str]:
    """Hash by user name.

    Raises:
        InputError: there is no such file, or a line is not a user's.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; `python -m ui.server.auth {path} NAME` makes one")
    users = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, stored = line.strip().partition(":")
        if not name or stored.count(":") != 5 or not stored.startswith("scrypt:"):
            raise InputError(
                f"{path}: line {number}: is not name:scrypt:...; add users with `python -m ui.server.auth {path} NAME`"
            )
        users[name] = stored
    if not users:
        raise InputError(f"{path}: contains no user; add one with `python -m ui.server.auth {path} NAME`")
    return users


def checker(path: Path) -> Callable[[str, str], bool]:
    """What Gradio asks on login. An unknown name takes as long as a wrong password."""
    users, unknown = load_users(path), hash_password(secrets.token_hex(16))

    def is_welcome(name: str, password: str) -> bool:
        return is_password(password, users.get(name, unknown)) and name in users

    return is_welcome


def add_user(path: Path, name: str, password: str) -> None:
    """Add a user, or change her password. The file is readable by its owner only."""
    if not name or set(name) & set(":\n#") or len(name) > 200:
        raise InputError(f"{name!r}: a name is 1 to 200 characters without ':' and '#'")
    if len(password) < _SHORTEST:
        raise InputError(f"a password has at least {_SHORTEST} characters")
    users = load_users(path) if path.exists() else {}
    users[name] = hash_password(password)
    with atomic_path(path) as temporary:
        # Created with its mode: a chmod afterwards would leave the hashes readable for a moment.
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(f"{user}:{stored}\n" for user, stored in users.items())


def main(arguments: list[str]) -> int:
    """`python -m ui.server.auth FILE NAME`: asks for the password."""
    if len(arguments) != 2:
        print("usage: python -m ui.server.auth FILE NAME", file=sys.stderr)
        return 2
    try:
        add_user(Path(arguments[0]), arguments[1], getpass.getpass("Password: "))
    except IcrError as error:
        print(f"ui.server.auth: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
