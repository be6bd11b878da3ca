"""Files that would take the machine: each is read as prompts in a process of its own, next to a good file of the same size.

python tests/benchmarks/bench_hostile_files.py [--megabytes 200] [--folder FOLDER]

Columns: the file, what it unpacks to where it is packed, seconds, peak memory above that of a process that reads one row, and what was
said. The row "good" is the measure: prompts stay in memory, so that a good file takes about its size. `rows` reads without keeping.
"""

import argparse
import bz2
import gzip
import json
import lzma
import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icr_platform.core.errors import InputError
from icr_platform.data.prompts import load_prompts
from icr_platform.data.row_files import file_rows
from icr_platform.data.text_preferences import read_text_preferences
from tests.support.peak_memory import peak_bytes

MB = 2**20
WORDS = "The quick brown fox jumps over the lazy dog, and nobody knows why it does not walk. "
Make = Callable[[Path, int], object]


def repeated(start: bytes, piece: bytes, end: bytes) -> Make:
    def make(path: Path, size: int) -> None:
        chunk = piece * (MB // len(piece) + 1)
        with path.open("wb") as file:
            file.write(start)
            for _ in range(size // len(chunk)):
                file.write(chunk)
            file.write(end)

    return make


def good_rows(size: int) -> Iterator[bytes]:
    text = WORDS * 12
    written = index = 0
    while written < size:
        line = json.dumps({"id": index, "instruction": f"{index} {text}"}).encode() + b"\n"
        written += len(line)
        index += 1
        yield line


def good(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.writelines(good_rows(size))


def good_array(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.write(b"[")
        for index, line in enumerate(good_rows(size)):
            file.write((b"," if index else b"") + line)
        file.write(b"]")


def one_bad_byte(path: Path, size: int) -> None:
    good(path, size)
    with path.open("ab") as file:
        file.write(b'{"id": "\xff"}\n')


def packed(opener: Callable[[Path, str], object], piece: bytes) -> Make:
    def make(path: Path, size: int) -> None:
        with opener(path, "wb") as file:  # type: ignore[attr-defined]
            for _ in range(size // len(piece)):
                file.write(piece)

    return make


def repeating_parquet(path: Path, size: int) -> None:
    rows = size // 2**23 * 10
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["z" * 2**23]))
    table = pa.table({"language": ["en"] * rows, "id": range(rows), "instruction": texts})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30)


def zeros_parquet(path: Path, size: int) -> None:
    column = pa.array(["\0" * (size // 4)] * 4)
    pq.write_table(pa.table({"language": ["en"] * 4, "id": range(4), "instruction": column}), path, compression="zstd")


FILES: dict[str, tuple[str, Make]] = {
    "good": ("en.jsonl", good),
    "good, an array": ("en.json", good_array),
    "one line": ("en.jsonl", repeated(b'{"id": 1, "instruction": "', b"x", b'"}')),
    "one line of empty objects": ("en.jsonl", repeated(b'{"id": 1, "a": [', b"{},", b"{}]}")),
    "one line of numbers": ("en.jsonl", repeated(b'{"id": 1, "a": [', b"0,", b"0]}")),
    "an array in an array": ("en.json", repeated(b"[[", b"[],", b"[]]]")),
    "brackets": ("en.json", repeated(b"", b"[", b"")),
    "braces": ("en.jsonl", repeated(b"", b'{"a":', b"")),
    "a number": ("en.json", repeated(b'[{"id": ', b"9", b"}]")),
    "a string without end": ("en.json", repeated(b'[{"id": "', b"\\n", b"")),
    "white space": ("en.json", repeated(b"[", b" ", b"]")),
    "empty lines": ("en.jsonl", repeated(b"", b"\n", b"")),
    "a key again and again": ("en.jsonl", repeated(b'{"a": 1', b', "a": 1', b"}")),
    "no text": ("en.jsonl", repeated(b"", b"\x93\x01", b"")),
    "a bad byte at the end": ("en.jsonl", one_bad_byte),
    "a quote without end": ("en.csv", repeated(b'id,instruction\n1,"', b"x\n", b"")),
    "a header without end": ("en.csv", repeated(b"", b"a,", b"")),
    "a web page": ("en.json", repeated(b"<html>", b"<p>", b"</html>")),
    "gzip of zeros": ("en.jsonl.gz", packed(gzip.open, b"\0" * MB)),
    "gzip of empty lines": ("en.jsonl.gz", packed(gzip.open, b"\n" * MB)),
    "bz2 of one line": ("en.jsonl.bz2", packed(bz2.open, b"x" * MB)),
    "xz of one line": ("en.jsonl.xz", packed(lzma.open, b"x" * MB)),
    "a text that a column repeats": ("all.parquet", repeating_parquet),
    "texts of zeros": ("all.parquet", zeros_parquet),
}  # fmt: skip


def read_prompts(path: Path) -> int:
    return load_prompts(str(path if path.suffix == ".parquet" else path.parent)).table.num_rows


def read_pairs(path: Path) -> int:
    return len(read_text_preferences(str(path)).pairs)


def read_rows(path: Path) -> int:
    return sum(1 for _ in file_rows(path, "id and instruction"))


READERS = {"prompts": read_prompts, "preferences": read_pairs, "rows": read_rows}


def attempt(reader: str, path: Path, said: "multiprocessing.Queue[tuple[str, float, int]]") -> None:
    start = time.perf_counter()
    try:
        answer = f"{READERS[reader](path):,} rows"
    except InputError as error:
        answer = str(error).replace(str(path.parent), "").removeprefix("/")
    said.put((answer, time.perf_counter() - start, peak_bytes()))


def measure(reader: str, path: Path) -> tuple[str, float, int]:
    """What was said, seconds, and peak memory of a process that reads the file and does nothing else."""
    context = multiprocessing.get_context("spawn")  # a fork would begin with its parent's memory
    said: multiprocessing.Queue[tuple[str, float, int]] = context.Queue()
    process = context.Process(target=attempt, args=(reader, path, said))
    process.start()
    answer = said.get(timeout=600)
    process.join()
    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200, help="size of each file, unpacked")
    parser.add_argument(
        "--folder", type=Path, help="where the files are written, one at a time; default: the temporary folder"
    )
    parser.add_argument("--reader", choices=READERS, default="prompts")
    parser.add_argument("--only", help="only files whose name contains this")
    arguments = parser.parse_args()
    root = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        (root / "en.jsonl").write_text('{"id": 1, "instruction": "a", "prompt": "a", "chosen": "b", "rejected": "c"}\n')
        nothing = measure(arguments.reader, root / "en.jsonl")[2]
        print("| file | on disk, MB | seconds | MB above one row | said |\n|---|---|---|---|---|", flush=True)
        for what, (name, make) in FILES.items():
            if arguments.only and arguments.only not in what:
                continue
            folder = root / "case"
            folder.mkdir()
            make(folder / name, arguments.megabytes * MB)
            size = (folder / name).stat().st_size
            answer, seconds, peak = measure(arguments.reader, folder / name)
            print(f"| {what} | {size / MB:.1f} | {seconds:.1f} | {(peak - nothing) / MB:.0f} | {answer} |", flush=True)
            shutil.rmtree(folder)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
