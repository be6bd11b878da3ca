"""Keys and values of the rows that are sampled together, in blocks: a step reads those of live tokens, whatever the longest row is.

A pool is one tensor a layer, [blocks, key-value heads, tokens of a block, head size]. Blocks belong to rows as pages do in vLLM
(arXiv 2309.06180), but nothing is gathered: a step attends to all blocks of the pool in one matrix product, each block for the rows
that look at it, and what the blocks of a row gave is put together (`block_attention`). So the pool stays dense: blocks of rows that
ended are given to newcomers, or filled with the last blocks of the pool.

The samples of a prompt look at the same blocks, through lanes. Two samples of one prompt of three tokens, in blocks of two:

>>> prompts, responses = Pool(2, 2), Pool(1, 2)
>>> prompt = prompts.take(2, first=0, end=3)
>>> prompts.lanes[prompt, 0], prompts.lanes[prompt, 1] = 7, 8  # rows by their places in the batch
>>> prompts.lanes[:2].tolist(), prompts.first[:2].tolist()
([[7, 8], [7, 8]], [0, 2])
>>> one, other = responses.take(1, first=3), responses.take(1, first=3)
>>> responses.lanes[one] = 7
>>> responses.lanes[other] = 8

The row at place 7 ends. Its block is the first of two, so that the last one moves there, and its owner's list says so:

>>> responses.free(one)
>>> responses.compact()
>>> other, responses.top, responses.lanes[0].tolist()
([0], 1, [8])
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from icr_platform.core.arrays import Ints

NOBODY = -1
OPEN = np.iinfo(np.int64).max  # end of a block that is still being written

GROWTH = 1.25  # of a pool that is full, at least
_HOLES = 8  # a pool is made dense when one block of so many is free


class Pool:
    """Blocks of all layers, and who looks at each.

    lanes: [capacity, lanes] the places of the rows that look at a block; NOBODY where a lane is free.
    first, end: [capacity] position of a block's first key, and the position behind its last one.
    top: blocks from here on are free.
    """

    def __init__(self, lanes: int, size: int) -> None:
        self.size = size
        self.top = 0
        self.lanes: Ints = np.full((0, lanes), NOBODY)
        self.first: Ints = np.zeros(0, np.int64)
        self.end: Ints = np.zeros(0, np.int64)
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._free: list[int] = []
        self._held: list[tuple[list[int], int]] = []  # in whose list a block is, and where

    def take(self, count: int, first: int, end: int = OPEN, held: list[int] | None = None) -> list[int]:
        """Append `count` blocks to the list `held` and return it; they hold the keys of consecutive positions from `first` on."""
        held = [] if held is None else held
        for index in range(count):
            block = heapq.heappop(self._free) if self._free else self.top
            self.top = max(self.top, block + 1)
            if block >= len(self.first):
                self._grow(block + 1)
            self._held[block] = (held, len(held))
            held.append(block)
            self.first[block], self.end[block] = first + index * self.size, end
        return held

    def free(self, blocks: Sequence[int], wiped: bool = False) -> None:
        """Give blocks up. wiped: their keys and values are not finite, and a 0 as their weight would not hide that."""
        for block in blocks:
            self.lanes[block] = NOBODY
            heapq.heappush(self._free, block)
        if wiped:
            for keys, values in self._layers.values():
                keys[blocks], values[blocks] = 0, 0

    def compact(self) -> None:
        """Fill holes with the last blocks, once there are many."""
        if _HOLES * len(self._free) <= self.top:
            return
        left = self.top - len(self._free)
        free, holes = set(self._free), [block for block in sorted(self._free) if block < left]
        moved = [block for block in range(left, self.top) if block not in free]
        for block, hole in zip(moved, holes, strict=True):
            held, index = self._held[hole] = self._held[block]
            held[index] = hole
        for table in (self.lanes, self.first, self.end):
            table[holes] = table[moved]
        self.lanes[left : self.top] = NOBODY
        for keys, values in self._layers.values() if moved else ():
            keys[holes], values[holes] = keys[moved], values[moved]
        self.top, self._free = left, []

    def write(self, layer: int, slots: tuple[Tensor, Tensor], keys: Tensor, values: Tensor) -> None:
        """Put keys and values [tokens, key-value heads, size] of a layer at (blocks, offsets)."""
        held = self._layers.get(layer)
        if held is None or len(held[0]) < len(self.first):
            shapes = [(len(self.first), each.shape[1], self.size, each.shape[2]) for each in (keys, values)]
            # Zeros, since what was never written meets a weight of 0, and 0 * nan is nan.
            grown = keys.new_zeros(shapes[0]), values.new_zeros(shapes[1])
            for new, old in zip(grown, held or (), strict=False):
                new[: len(old)] = old
            held = self._layers[layer] = grown
        blocks, offsets = slots
        held[0][blocks, :, offsets], held[1][blocks, :, offsets] = keys, values

    def of_layer(self, layer: int) -> tuple[Tensor, Tensor]:
        """[top, key-value heads, tokens of a block, size] keys, and values, of a layer."""
        keys, values = self._layers[layer]
        return keys[: self.top], values[: self.top]

    def positions(self, device: torch.device) -> Tensor:
        """[top, tokens of a block] positions of the keys."""
        first = torch.from_numpy(self.first[: self.top]).to(device)
        return first[:, None] + torch.arange(self.size, device=device)

    def _grow(self, blocks: int) -> None:
        more = max(blocks, int(len(self.first) * GROWTH)) - len(self.first)
        self.lanes = np.concatenate([self.lanes, np.full((more, self.lanes.shape[1]), NOBODY)])
        self.first = np.concatenate([self.first, np.zeros(more, np.int64)])
        self.end = np.concatenate([self.end, np.zeros(more, np.int64)])
        self._held += [([], 0)] * more
