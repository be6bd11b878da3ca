"""Parameters as an endpoint accepts them: what one requires another refuses, and only its refusals say which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_OTHER_NAME = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
_FEW_TOP_LOGPROBS = 5  # what every endpoint gives that gives any


@dataclass
class AcceptedParameters:
    """What has been found out about one endpoint. All requests to it share one, so that it refuses each parameter once.

    may_drop: parameters that a request may do without.
    renamed: names as the endpoint takes them, by the names we use.
    dropped: parameters that are not sent any more.

    OpenAI's models that reason refuse `max_tokens`; many servers know no JSON schemas, and some know no `response_format`:

    >>> accepted = AcceptedParameters(may_drop=frozenset({"response_format"}))
    >>> wanted = {"max_tokens": 1, "top_logprobs": 20, "response_format": {"type": "json_schema", "json_schema": "..."}}
    >>> accepted.learn("max_tokens", accepted.adapt(wanted)), accepted.learn("response_format", accepted.adapt(wanted))
    (True, True)
    >>> accepted.adapt(wanted)
    {'max_completion_tokens': 1, 'top_logprobs': 20, 'response_format': {'type': 'json_object'}}
    >>> accepted.learn("response_format", accepted.adapt(wanted)), accepted.learn("top_logprobs", accepted.adapt(wanted))
    (True, True)
    >>> accepted.adapt(wanted)
    {'max_completion_tokens': 1, 'top_logprobs': 5}

    Now every way is used up, and the next refusal is a failure:

    >>> accepted.learn("max_completion_tokens", accepted.adapt(wanted)), accepted.learn("top_logprobs", accepted.adapt(wanted))
    (False, False)
    """

    may_drop: frozenset[str]
    renamed: dict[str, str] = field(default_factory=dict)
    dropped: set[str] = field(default_factory=set)
    takes_many_logprobs: bool = True
    takes_schemas: bool = True

    def adapt(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters to send in place of those wanted."""
        sent: dict[str, Any] = {}
        for name, value in wanted.items():
            if name in self.dropped:
                continue
            if name == "top_logprobs" and not self.takes_many_logprobs:
                value = min(int(value), _FEW_TOP_LOGPROBS)
            if name == "response_format" and not self.takes_schemas:
                value = {"type": "json_object"}
            sent[self.renamed.get(name, name)] = value
        return sent

    def learn(self, refused: str, sent: Mapping[str, Any]) -> bool:
        """Note that the parameter `refused` of the request `sent` was refused; False when there is no other way to send it."""
        if refused in _OTHER_NAME:
            if refused in {*self.renamed, *self.renamed.values()}:  # then it refuses the other name too, or the value
                return False
            self.renamed[refused] = _OTHER_NAME[refused]
        elif refused == "top_logprobs" and sent[refused] > _FEW_TOP_LOGPROBS:
            self.takes_many_logprobs = False
        elif refused == "response_format" and sent[refused].get("type") == "json_schema":
            self.takes_schemas = False
        elif refused in self.may_drop:
            self.dropped.add(refused)
        else:
            return False
        return True


def refused_parameter(message: str, named: str | None, sent: Mapping[str, Any]) -> str | None:
    """The parameter among those sent that an HTTP 400 is about: the one that it names, or else the first in its message.

    >>> sent = {"logprobs": True, "top_logprobs": 20}
    >>> refused_parameter("Unsupported value", "logprobs", sent)
    'logprobs'

    One name may be within another; the longer one is meant:

    >>> refused_parameter("top_logprobs must be at most 5", None, sent)
    'top_logprobs'
    """
    if named in sent:
        return named
    found = [(message.index(name), -len(name), name) for name in sent if name in message]
    return min(found)[2] if found else None
