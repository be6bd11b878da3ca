"""What samplers return, where a test drops nothing."""

from __future__ import annotations

from icr_platform.engines.sampling.sampler import Dropped, Sample, Sampled


def answers(sampled: Sampled) -> list[list[Sample]]:
    """The samples of every prompt; fails where one was dropped."""
    found = [samples for samples in sampled if not isinstance(samples, Dropped)]
    assert len(found) == len(sampled), sampled
    return found
