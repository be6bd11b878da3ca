"""Languages by tags of every standard, from prompts to the inspector's pages; and an evaluation set without English."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icr_platform.annotation import stage as annotation
from icr_platform.annotation.config import AnnotateConfig
from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import html_lang, is_right_to_left
from icr_platform.core.languages import language_name
from icr_platform.core.schemas import OUTPUTS, PREFERENCES, PROMPTS
from icr_platform.core.stage_protocol import StageContext
from icr_platform.evaluation import stage as evaluation
from icr_platform.evaluation.config import EvalConfig
from icr_platform.generation import stage as generation
from icr_platform.generation.config import GenerateConfig
from icr_platform.pipeline.config import IterateConfig
from icr_platform.pipeline.iterate import iterate
from icr_platform.pipeline.session import RunOptions, open_session
from icr_platform.tracking.reader import TrackingReader
from ui.pages.inspector import Inspector
from ui.pages.table_of_pages import PAGES
from ui.review.verdict_store import VerdictStore
from ui.tables.queries import QueryEngine
from ui.tables.runs import Catalogue
from ui.tables.view import View

TAGS = (
    "en", "zh-Hant", "zho_Hans", "pt-BR", "pt-PT", "fil", "mt", "ckb", "kmr", "yue", "swh_Latn", "arb_Arab", "arz", "sr-Latn",
    "sr-Cyrl", "es-419", "ger", "fre", "az-Arab", "pa-Arab", "ks", "ug", "dv", "nqo", "syr", "yi", "nb", "nn", "en-GB", "iw",
)  # fmt: skip


def write_prompts(folder: Path, tags: tuple[str, ...], count: int = 1) -> Path:
    folder.mkdir()
    for tag in tags:
        rows = [{"id": number, "instruction": f"Name fruit {number}. {tag}"} for number in range(count)]
        (folder / f"{tag}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_thirty_tags_from_generate_to_the_inspector(
    tiny_models: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    prompts = write_prompts(tmp_path / "prompts", TAGS)
    config = IterateConfig(
        iterations=1,
        policy=str(tiny_models[0]),
        reference=str(tiny_models[1]),
        prompts=str(prompts),
        languages=TAGS,
        seed=1,
        generate={"samples": 3, "max_tokens": 12},
        annotate={"drop_wrong_language": False, "drop_truncated": False},
        train={"learning_rate": 1e-4, "batch_size": 16, "accumulation": 1},
        eval_prompts=str(prompts),
        eval_languages=TAGS,
        eval={"max_tokens": 4},
    )
    arm = iterate(open_session(RunOptions()), config)
    assert arm.run is not None

    catalogue = Catalogue(TrackingReader(f"sqlite:///{tmp_path}/mlflow.db"), tmp_path / "cache")
    inspector = Inspector(catalogue, QueryEngine(), VerdictStore(str(tmp_path / "verdicts.db")))
    focus = inspector.focus(View())
    assert focus is not None
    assert focus.arm.languages() == ["en", "en-GB", *sorted(set(TAGS) - {"en", "en-GB"})]
    shows = {page.address: page.show for page in PAGES if page.show is not None}
    for address in ("", "pairs", "margins"):  # without a judge the others have nothing
        assert shows[address](inspector, focus).main
    for tag in TAGS:
        view = View(run=arm.run.run_id, iteration=1, id="0", id_language=tag)
        content = shows["pairs"](inspector, focus._replace(view=view)).main
        assert language_name(tag) in content
        direction = "rtl" if is_right_to_left(tag) else "auto"
        assert f'dir="{direction}" lang="{html_lang(tag)}"' in content

    pairs = open_artifact(next((tmp_path / "mlruns").rglob("preferences/manifest.json")).parent, PREFERENCES).read()
    assert pairs.num_rows > 20
    assert set(pairs["language"].to_pylist()) <= set(TAGS)
    report = next(tmp_path.rglob("report-icr.html")).read_text(encoding="utf-8")
    assert all(language_name(tag) in report for tag in TAGS)


def test_an_evaluation_set_in_one_language_has_no_english(tiny_models: tuple[Path, Path], tmp_path: Path) -> None:
    """What needs English says so before it works; all else works."""
    prompts = write_prompts(tmp_path / "prompts", ("mt",), count=3)
    common = {"policy": str(tiny_models[0]), "prompts": str(prompts), "samples": 3, "max_tokens": 12}
    read = generation.read(GenerateConfig(**common))
    generated = generation.run(read, StageContext(tmp_path / "out", "f"))
    assert any("there is no English" in note for note in generated.notes)
    table = open_artifact(generated.artifacts["prompts"], PROMPTS).read()
    assert table["english_instruction"].null_count == 3

    done = evaluation.run(
        evaluation.read(EvalConfig(**common, judge="none")),
        StageContext(tmp_path / "eval", "f"),
    )
    assert open_artifact(done.artifacts["outputs"], OUTPUTS).read().num_rows == 9
    assert "fidelity/mt" in done.metrics

    annotated = {
        "policy": str(tiny_models[0]), "reference": str(tiny_models[1]), "responses": str(generated.artifacts["responses"]),
        "prompts": str(generated.artifacts["prompts"]), "drop_wrong_language": False, "drop_truncated": False,
    }  # fmt: skip
    with pytest.raises(
        InputError, match=r"3 prompts in mt have no English instruction, which the cross-lingual reward"
    ) as caught:
        annotation.read(AnnotateConfig(**annotated))
    assert "--reward-kind multilingual" in str(caught.value)
    native = AnnotateConfig(**annotated, reward_kind=("multilingual",))
    pairs = annotation.run(annotation.read(native), StageContext(tmp_path / "pairs", "f")).artifacts["preferences"]
    assert open_artifact(pairs, PREFERENCES).read()["english_instruction"].null_count == 3
