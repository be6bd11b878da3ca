"""Second forwards for parts of a model, faster than their own, which run while a block lasts."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]


class SecondForwards:
    """Modules and what runs in the place of their forward. Weights must not change while this is in use."""

    def __init__(self, forwards: Sequence[tuple[nn.Module, Forward]] = ()) -> None:
        self._forwards = forwards

    def __bool__(self) -> bool:
        """Whether any module has one."""
        return bool(self._forwards)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Run them while the block lasts, without gradients."""
        for module, forward in self._forwards:
            module.forward = forward
        try:
            yield
        finally:
            for module, _ in self._forwards:
                del module.forward
