"""fastText models of a few words, written byte by byte: no package that predicts can train one."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

_MAGIC, _VERSION = 793712314, 12
_SOFTMAX, _SUPERVISED = 3, 3


def write_fasttext_model(path: Path, words: Mapping[str, str]) -> Path:
    """A classifier in which each word votes for one label.

    words: label -> its words, parted by spaces.
    """
    labels = list(words)
    owners = {word: number for number, label in enumerate(labels) for word in words[label].split()}
    entries = [("</s>", 0, None), *((word, 0, owner) for word, owner in owners.items())]
    size = len(labels)
    with path.open("wb") as file:
        file.write(struct.pack("<ii", _MAGIC, _VERSION))
        # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate, t
        file.write(struct.pack("<12id", size, 5, 1, 1, 5, 1, _SOFTMAX, _SUPERVISED, 0, 0, 0, 100, 1e-4))
        count = len(entries) + size
        file.write(struct.pack("<iiiqq", count, len(entries), size, 100, -1))
        for word, kind, _ in entries:
            file.write(word.encode() + b"\0" + struct.pack("<qb", 1, kind))
        for label in labels:
            file.write(f"__label__{label}".encode() + b"\0" + struct.pack("<qb", 1, 1))
        vectors = np.zeros((len(entries), size), np.float32)
        for row, (_, _, owner) in enumerate(entries):
            if owner is not None:
                vectors[row, owner] = 20.0
        for matrix in (vectors, np.eye(size, dtype=np.float32)):
            file.write(struct.pack("<?", False) + struct.pack("<qq", *matrix.shape) + matrix.tobytes())
    return path
