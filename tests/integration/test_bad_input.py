"""Bad input, as a person meets it: exit status 2, one line that names what is wrong, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr_platform.cli.commands import run
from icr_platform.core.artifacts import ArtifactWriter, read_json, write_json
from icr_platform.core.schemas import RESPONSES

Damage = Callable[[Path], object]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    folder = tmp_path / "prompts"
    folder.mkdir()
    for language in ("en", "es"):
        rows = [{"id": i, "instruction": f"{language} {i}"} for i in range(4)]
        (folder / f"{language}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def edit(folder: Path, name: str, row: int, text: str) -> None:
    lines = (folder / name).read_text().splitlines()
    lines[row] = text
    (folder / name).write_text("\n".join(lines) + "\n")


def expect(capsys: pytest.CaptureFixture[str], arguments: list[str], *said: str) -> None:
    """Run a command and require exit status 2 and one last line with every fragment of `said`."""
    capsys.readouterr()
    status = run([*arguments, "--no-tracking"])
    printed = capsys.readouterr().err.strip().splitlines()
    assert status == 2, printed
    assert printed[-1].startswith("icr: ")
    assert sum(line.startswith("icr: ") for line in printed) == 1
    assert "Traceback" not in "\n".join(printed)
    for fragment in said:
        assert fragment in printed[-1]


PROMPT_DAMAGE: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "no folder": (lambda f: shutil.rmtree(f), ("prompts",)),
    "no English": (lambda f: (f / "en.jsonl").unlink(), ("en",)),
    "invalid JSON": (lambda f: edit(f, "es.jsonl", 2, '{"id": 2, '), ("es.jsonl", "3", "JSON")),
    "no instruction": (lambda f: edit(f, "es.jsonl", 1, '{"id": 1}'), ("es.jsonl", "2", "instruction")),
    "instruction is a number": (
        lambda f: edit(f, "es.jsonl", 1, '{"id": 1, "instruction": 5}'),
        ("es.jsonl", "instruction"),
    ),
    "no id": (lambda f: edit(f, "es.jsonl", 1, '{"instruction": "x"}'), ("es.jsonl", "2", "id")),
    "duplicate id": (lambda f: edit(f, "es.jsonl", 3, '{"id": 0, "instruction": "x"}'), ("es.jsonl", "4", "'0'")),
    "id not in English": (lambda f: edit(f, "es.jsonl", 3, '{"id": 99, "instruction": "x"}'), ("es.jsonl", "'99'")),
    "empty set": (lambda f: [(f / f"{code}.jsonl").write_text("") for code in ("en", "es")], ("en.jsonl",)),
}


@pytest.mark.parametrize("case", list(PROMPT_DAMAGE))
def test_bad_prompts(
    case: str, prompts: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, said = PROMPT_DAMAGE[case]
    damage(prompts)
    output = tmp_path / "out"
    arguments = [
        "generate",
        f"--policy={tiny_model}",
        f"--prompts={prompts}",
        "--languages=en,es",
        f"--output={output}",
    ]
    expect(capsys, arguments, *said)
    assert not output.exists()


def test_truncated_parquet_prompts(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "prompts.parquet"
    rows = {"language": ["en"] * 9, "prompt_id": [str(i) for i in range(9)], "instruction": ["x"] * 9}
    pq.write_table(pa.table(rows), path)
    path.write_bytes(path.read_bytes()[:-20])
    expect(capsys, ["generate", f"--policy={tiny_model}", f"--prompts={path}"], "prompts.parquet", "Parquet")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--languages=en,xx"], ("'xx'",)),
        (["--samples=ten"], ("'samples'", "'ten'")),
        (["--samples=0"], ("'samples'",)),
        (["--smaples=3"], ("--smaples", "--samples")),
        (["--policy=/no/such/model"], ("/no/such/model", "no such folder")),
        (["--policy=runs:/0123/checkpoint"], ("runs:/0123",)),
        (["--config=none.yaml"], ("none.yaml",)),
        (["--prompts="], ("prompts", "--prompts")),
        (["--temperature=inf"], ("'temperature'", "finite")),
        (["--device=tpu9"], ("'device'", "'tpu9'", "auto")),
        (["--device=cuda:99"], ("'device'", "'cuda:99'", "CUDA GPUs here")),
        (["--sampler=server"], ("'server_url'", "base URL")),
        (["--sampler=server", "--server-url=ftp://host/v1"], ("'server_url'", "'ftp://host/v1'", "base URL")),
        (["--sampler=server", "--server-url=http://[::1/v1"], ("'server_url'", "base URL")),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_flags(
    flags: list[str], said: tuple[str, ...], prompts: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expect(capsys, ["generate", f"--policy={tiny_model}", f"--prompts={prompts}", *flags], *said)


def test_bad_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("itertions: 3\n")
    expect(capsys, ["iterate", f"--config={preset}"], "mine.yaml", "'itertions'", "'iterations'")
    preset.write_text("iterations: true\n")
    expect(capsys, ["iterate", f"--config={preset}"], "mine.yaml", "'iterations'", "true is a truth value")
    preset.write_text("iterations: [3\n")
    expect(capsys, ["iterate", f"--config={preset}"], "mine.yaml", "YAML")


def test_models_that_cannot_work(
    prompts: Path,
    tiny_model: Path,
    tmp_path: Path,
    make_tiny_model: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_model, bare)
    (bare / "chat_template.jinja").unlink()
    expect(capsys, ["generate", f"--policy={bare}", f"--prompts={prompts}"], "bare", "chat_template")
    other = make_tiny_model(tmp_path / "other", steps=0, vocab_size=350)
    responses = write_responses(tmp_path / "responses", samples=2)
    arguments = ["annotate", f"--policy={tiny_model}", f"--prompts={prompts}", f"--responses={responses}"]
    expect(capsys, [*arguments, f"--reference={other}"], "vocab", "one tokenizer")


def test_responses_that_cannot_be_annotated(
    prompts: Path, tiny_models: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy, reference = tiny_models
    arguments = ["annotate", f"--policy={policy}", f"--reference={reference}", f"--prompts={prompts}"]
    single = write_responses(tmp_path / "single", samples=1)
    expect(capsys, [*arguments, f"--responses={single}"], "single", "2")
    old = write_responses(tmp_path / "old", samples=2)
    write_json(old / "manifest.json", read_json(old / "manifest.json") | {"schema_version": 0})
    expect(capsys, [*arguments, f"--responses={old}"], "old", "schema_version")
    cut = write_responses(tmp_path / "cut", samples=2)
    part = cut / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-30])
    expect(capsys, [*arguments, f"--responses={cut}"], "part-00000.parquet", "truncated")
    (cut / "manifest.json").unlink()
    expect(capsys, [*arguments, f"--responses={cut}"], "manifest.json", "unfinished")
    stray = write_responses(tmp_path / "stray", samples=2, prompt_id="77")
    expect(capsys, [*arguments, f"--responses={stray}"], "'77'")


def write_responses(folder: Path, samples: int, prompt_id: str = "0") -> Path:
    rows = [
        {
            "language": "es", "prompt_id": prompt_id, "sample_index": i, "response": "x" * (i + 1),
            "token_ids": [70 + i, 2], "finish_reason": "stop", "token_ids_source": "sampler", "token_count": 2,
            "character_count": i + 1, "detected_language": "es", "language_confidence": 1.0,
        }
        for i in range(samples)
    ]  # fmt: skip
    writer = ArtifactWriter(folder, RESPONSES, "f")
    writer.write_part(0, pa.Table.from_pylist(rows, schema=RESPONSES.schema))
    writer.close(1)
    return folder
