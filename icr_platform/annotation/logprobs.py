"""Completion log-probabilities of token ids under a model, under the name that scripts import; `engines/scoring` has the code."""

from icr_platform.engines.scoring.logprobs import CompletionScorer, Group, completion_logprobs

__all__ = ["CompletionScorer", "Group", "completion_logprobs"]
