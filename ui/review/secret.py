"""What the inspector alone can write and read: sealed tokens, signatures of links, and draws that nobody else can repeat."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from cryptography.fernet import Fernet, InvalidToken

from icr_platform.core.errors import InputError

KEY_BYTES = 32
_SIGNATURE = 20  # hex digits, 80 bits: nobody finds one by trying over a network


@dataclass(frozen=True)
class Secret:
    """A key of KEY_BYTES bytes. Every server of a verdict database has the same one, so that any of them reads what another wrote."""

    key: bytes = field(repr=False)

    @cached_property
    def _box(self) -> Fernet:
        return Fernet(base64.urlsafe_b64encode(self.key))

    def seal(self, values: Mapping[str, Any]) -> str:
        """A text that says nothing of the values, and that only `unseal` reads."""
        return self._box.encrypt(json.dumps(values).encode()).decode()

    def unseal(self, text: str) -> dict[str, Any]:
        """The values of a sealed text.

        Raises:
            InputError: `seal` did not write it, or it was changed.
        """
        try:
            return dict(json.loads(self._box.decrypt(text.encode())))
        except (InvalidToken, ValueError, TypeError) as error:
            raise InputError("The page is out of date; load it again.") from error

    def sign(self, text: str) -> str:
        """Signature of a text, in hex."""
        return self._digest("signature", text).hex()[:_SIGNATURE]

    def is_signature(self, text: str, signature: str) -> bool:
        """Whether a signature is the text's."""
        return hmac.compare_digest(self.sign(text).encode(), signature.encode("utf-8", "replace"))

    def alias(self, *parts: str) -> str:
        """A name for texts that tells nothing of them, the same for the same texts."""
        return self._digest("alias", *parts).hex()[:16]

    def fraction(self, *parts: str) -> float:
        """A number in [0, 1), the same for the same texts; who does not have the key cannot tell it."""
        return int.from_bytes(self._digest("fraction", *parts)[:8]) / 2**64

    def _digest(self, *parts: str) -> bytes:
        return hmac.digest(self.key, "\0".join(parts).encode("utf-8", "surrogatepass"), hashlib.sha256)
