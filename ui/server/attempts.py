"""How often a password may be tried: by address, and by name from addresses that never logged in with it.

Attempts count while they run, so that a hundred at once are not a hundred chances, and no longer once they succeed. Who has logged in from
an address before has a count of her own there: strangers who try her name, or share the address, do not lock her out.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from icr_platform.core.artifacts import text_digest

WINDOW_SECONDS = 300.0
PER_ADDRESS = 20
PER_NAME = 10
PER_KNOWN = 10
_MOST_KEYS = 20_000


class Attempt(NamedTuple):
    """One try. keys: what it counts for. wait: seconds until the next may be made; 0 when this one may."""

    keys: tuple[str, ...]
    known: str
    wait: float


class Attempts:
    """Failed and running attempts of the last five minutes. clock: seconds, for tests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tried: OrderedDict[str, deque[float]] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()

    def begin(self, name: str, address: str) -> Attempt:
        """Count an attempt, unless there were too many."""
        place = _network(address)
        known = text_digest(name, place)
        with self._lock:
            limits = {f"known {known}": PER_KNOWN}
            if known not in self._known:
                limits = {f"address {place}": PER_ADDRESS, f"name {text_digest(name)}": PER_NAME}
            now = self._clock()
            wait = max(self._wait(key, limit, now) for key, limit in limits.items())
            if wait <= 0:
                for key in limits:
                    self._tried.setdefault(key, deque()).append(now)
                    self._tried.move_to_end(key)
                while len(self._tried) > _MOST_KEYS:  # names that somebody makes up
                    self._tried.popitem(last=False)
        return Attempt(tuple(limits), known, max(wait, 0.0))

    def succeeded(self, attempt: Attempt) -> None:
        """Forget an attempt whose password was right."""
        with self._lock:
            self._known[attempt.known] = None
            while len(self._known) > _MOST_KEYS:
                self._known.popitem(last=False)
            for key in attempt.keys:
                if tried := self._tried.get(key):
                    tried.pop()

    def _wait(self, key: str, limit: int, now: float) -> float:
        """Seconds until fewer than `limit` attempts lie within the window."""
        tried = self._tried.get(key)
        while tried and tried[0] <= now - WINDOW_SECONDS:
            tried.popleft()
        if not tried:
            self._tried.pop(key, None)
            return 0.0
        return tried[-limit] + WINDOW_SECONDS - now if len(tried) >= limit else 0.0


def wait_sentence(seconds: float) -> str:
    """When to try again.

    >>> wait_sentence(61)
    'There were too many wrong passwords for this name or from this address: try again in 2 minutes.'
    """
    minutes = math.ceil(seconds / 60)
    when = "a minute" if minutes <= 1 else f"{minutes} minutes"
    return f"There were too many wrong passwords for this name or from this address: try again in {when}."


def _network(address: str) -> str:
    """An address, or the /64 that one household or machine has in IPv6."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:100]
    if found.version == 6 and found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(found) if found.version == 4 else str(ipaddress.ip_network((found, 64), strict=False))
