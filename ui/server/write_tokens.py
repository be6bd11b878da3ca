"""Tokens for whatever changes something: votes, undo, exports, publishing, links. The inspector's own pages have one, no other page can read it."""

from __future__ import annotations

import json
import secrets

from itsdangerous import BadSignature, URLSafeTimedSerializer

TOKEN_ADDRESS = "/icr/token"
TOKEN_HEADER = "x-icr-token"
_SECONDS = 7 * 24 * 3600


class WriteTokens:
    """Signed with a key of this process: after a restart pages fetch a new one by themselves."""

    def __init__(self) -> None:
        self._signer = URLSafeTimedSerializer(secrets.token_bytes(32), salt="icr-write")

    def issue(self, bound_to: str) -> str:
        """A token for the session `bound_to` names, '' where nobody logs in."""
        return str(self._signer.dumps(bound_to))

    def is_valid(self, token: str, bound_to: str) -> bool:
        """Whether the token was issued for this session, within the last week."""
        try:
            return bool(self._signer.loads(token, max_age=_SECONDS) == bound_to)
        except BadSignature:
            return False

    def as_json(self, bound_to: str) -> str:
        """What TOKEN_ADDRESS answers."""
        return json.dumps({"token": self.issue(bound_to)})
