"""Small extensions of the platform, one of each kind, applied to a copy of its sources.

Each one is real: it is chosen on the command line like the parts that ship, and its result can be checked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Edit(NamedTuple):
    """A piece of text of an existing file and what stands in its place."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Extension:
    """What someone who adds a part writes. most_files: that a part of its kind may touch, new ones included."""

    most_files: int
    new_files: Mapping[str, str] = field(default_factory=dict)
    edits: tuple[Edit, ...] = ()

    @property
    def files(self) -> set[str]:
        return {*self.new_files, *(edit.path for edit in self.edits)}

    def applied(self, folder: Path) -> Path:
        """The tree with the extension, in `folder`."""
        for part in ("icr_platform", "ui", "projects"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        for path, text in self.new_files.items():
            assert not (folder / path).exists(), f"{path} is not new"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text, encoding="utf-8")
        for path, old, new in self.edits:
            text = (folder / path).read_text(encoding="utf-8")
            assert text.count(old) == 1, (
                f"{path} contains {text.count(old)} times, where the extension changes it: {old}"
            )
            (folder / path).write_text(text.replace(old, new), encoding="utf-8")
        return folder


def run_python(tree: Path, code: str, *arguments: str) -> str:
    """What a program prints that imports the platform from `tree`, run in the folder next to it."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tree.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def icr(tree: Path, *arguments: str) -> str:
    """`icr ARGUMENTS` of `tree`."""
    return run_python(tree, "from icr_platform.cli import main; main()", *arguments)


REWARD_KIND = Extension(
    most_files=2,
    edits=(
        Edit(
            "icr_platform/engines/scoring/reward_kinds.py",
            '    RewardKind("random", draw=random_reward,',
            '    RewardKind("brief", draw=lambda seed, language, prompt_id, sample_index: -float(sample_index)),\n'
            '    RewardKind("random", draw=random_reward,',
        ),
    ),
)

JUDGE = Extension(
    most_files=3,
    new_files={
        "icr_platform/engines/judging/length_judge.py": '''"""A judge that prefers the longer output."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from icr_platform.engines.judging.pairwise import NO_ORDER, Judgment, Pair, Template
from icr_platform.engines.judging.settings import PairwiseJudging


class LengthJudge:
    """Counts characters, and needs no wording."""

    def __init__(self, settings: PairwiseJudging, template: Template, seed: int) -> None:
        pass

    def judge(self, parts: Iterable[Sequence[Pair]]) -> Iterator[list[Judgment]]:
        for part in parts:
            yield [self._judge(pair) for pair in part]

    def _judge(self, pair: Pair) -> Judgment:
        value = float(len(pair.candidate) > len(pair.reference))
        return Judgment(pair.language, pair.prompt_id, pair.sample_index, NO_ORDER, value, None, "ok", "length", 0, 0, "")


def check(settings: PairwiseJudging, template: Template) -> None:
    """It always works."""
'''
    },
    edits=(
        Edit(
            "icr_platform/engines/judging/settings.py",
            "JUDGES = {\n",
            "JUDGES = {\n"
            '    "length": BuiltInJudge(\n'
            '        Part("icr_platform.engines.judging.length_judge:LengthJudge", "the longer output"),\n'
            '        "icr_platform.engines.judging.length_judge:check",\n'
            "    ),\n",
        ),
    ),
)

IDENTIFIER = Extension(
    most_files=3,
    new_files={
        "icr_platform/engines/identification/marks.py": '''"""Tells three languages by letters that only one of them writes."""

from __future__ import annotations

from icr_platform.engines.identification.language_id import Identified, Made


def marks(codes: frozenset[str]) -> Made:
    def identify(text: str) -> Identified:
        if set(text) & set("ñ¿¡"):
            return Identified("es", 1.0)
        return Identified("de" if set(text) & set("äöüß") else "en", 0.75)

    return ("de", "en", "es"), identify
'''
    },
    edits=(
        Edit(
            "icr_platform/engines/identification/language_id.py",
            "IDENTIFIERS = {\n",
            "IDENTIFIERS = {\n"
            '    "marks": Part("icr_platform.engines.identification.marks:marks", "letters of three languages"),\n',
        ),
    ),
)

PAGE = Extension(
    most_files=4,
    new_files={
        "ui/pages/iterations.py": '''"""Iterations: how many the run has, and which stages of each have finished."""

from __future__ import annotations

from markupsafe import Markup

from ui.html.rendering import render
from ui.pages.inspector import Content, Focus, Inspector


def show(inspector: Inspector, focus: Focus) -> Content:
    """A line per iteration."""
    return Content(Markup(""), Markup(render("iterations", iterations=focus.arm.iterations)))
''',
        "ui/html/templates/iterations.html.j2": """<h1>Iterations</h1>
{% for iteration in iterations %}<p>iteration {{ iteration.number }}: {{ iteration.stages|sort|join(', ') }}</p>
{% endfor %}
""",
    },
    edits=(
        Edit(
            "ui/pages/table_of_pages.py",
            "from ui.pages import agreement, compare, disagreements, margins,",
            "from ui.pages import agreement, compare, disagreements, iterations, margins,",
        ),
        Edit(
            "ui/pages/table_of_pages.py",
            '    Page("agreement", "Agreement", agreement.show),\n',
            '    Page("agreement", "Agreement", agreement.show),\n'
            '    Page("iterations", "Iterations", iterations.show),\n',
        ),
    ),
)

SAMPLER = Extension(
    most_files=2,
    new_files={
        "icr_platform/engines/sampling/echo_sampler.py": '''"""A sampler that answers with the prompt: what a policy must beat."""

from __future__ import annotations

from collections.abc import Sequence

from icr_platform.core.config import ChatSettings
from icr_platform.engines.sampling.sampler import Advance, Request, Sample, Sampler, ignore_progress
from icr_platform.engines.sampling.settings import SamplingSettings
from icr_platform.models.chat import encode_response
from icr_platform.models.loading import load_tokenizer


class EchoSampler(Sampler):
    """Needs the policy's tokenizer alone."""

    def __init__(self, settings: SamplingSettings, policy: str, chat: ChatSettings) -> None:
        self.tokenizer = load_tokenizer(policy, chat)

    def sample(
        self, requests: Sequence[Request], samples: int, seed: int, advance: Advance = ignore_progress
    ) -> list[list[Sample]]:
        answered = []
        for request in requests:
            ids = encode_response(self.tokenizer, request.instruction)
            answered.append([Sample(request.instruction, ids, "stop") for _ in range(samples)])
            advance(samples, samples * len(ids))
        return answered


def check(settings: SamplingSettings, policy: str, chat: ChatSettings) -> None:
    """It always works."""
'''
    },
    edits=(
        Edit(
            "icr_platform/engines/sampling/settings.py",
            "SAMPLERS = {\n",
            "SAMPLERS = {\n"
            '    "echo": BuiltInSampler(\n'
            '        Part("icr_platform.engines.sampling.echo_sampler:EchoSampler", "the prompt"),\n'
            '        "icr_platform.engines.sampling.echo_sampler:check",\n'
            "    ),\n",
        ),
    ),
)

STAGE = Extension(
    most_files=4,
    new_files={
        "icr_platform/evaluation/count.py": '''"""count: responses -> the samples that are too short, and how many responses each language has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple

import pyarrow as pa

from icr_platform.core.artifacts import Artifact, ArtifactWriter, open_artifact
from icr_platform.core.config import Config, setting
from icr_platform.core.schemas import DROPS, RESPONSES
from icr_platform.core.stage_protocol import StageContext, StageResult


class CountConfig(Config):
    """What `icr count` can be asked for."""

    heading = "counting"
    required: ClassVar[tuple[str, ...]] = ("responses",)

    responses: str = setting("", "responses artifact", "input")
    least: int = setting(12, "characters that a response needs", ge=0)
    seed: int = setting(42, "seed of the inputs of a world", "place", ge=0)
    output: str = setting("", "folder of the artifacts; empty: a work folder", "place")


class Inputs(NamedTuple):
    least: int
    responses: Artifact


def read(config: CountConfig) -> Inputs:
    """Open the responses."""
    return Inputs(config.least, open_artifact(Path(config.responses), RESPONSES))


def run(inputs: Inputs, context: StageContext) -> StageResult:
    """Write a part per part of the responses."""
    writer = ArtifactWriter(context.folder / "short", DROPS, context.fingerprint)
    counts: Counter[str] = Counter()
    for index in range(len(inputs.responses.parts)):
        rows = inputs.responses.read_part(index).to_pylist()
        counts.update(row["language"] for row in rows)
        short = [
            {name: row[name] for name in ("language", "prompt_id", "sample_index")} | {"reason": "short", "detail": ""}
            for row in rows
            if row["character_count"] < inputs.least
        ]
        writer.write_part(index, pa.Table.from_pylist(short, schema=DROPS.schema))
    writer.close(len(inputs.responses.parts))
    return StageResult({"short": writer.folder}, {f"responses/{code}": float(count) for code, count in counts.items()})
'''
    },
    edits=(
        Edit(
            "icr_platform/pipeline/stages.py",
            '        StageRow(\n            name="benchmarks",\n',
            '        StageRow(\n            name="count",\n'
            '            help="count responses, and name the short ones",\n'
            '            config_class="icr_platform.evaluation.count:CountConfig",\n'
            '            module="icr_platform.evaluation.count",\n'
            '            artifacts=("short",),\n'
            "        ),\n"
            '        StageRow(\n            name="benchmarks",\n',
        ),
        Edit(
            "projects/MLproject", "    command: icr eval\n", "    command: icr eval\n  count:\n    command: icr count\n"
        ),
        Edit(
            "projects/backends/kubernetes/MLproject",
            "    command: icr --unquote eval\n",
            "    command: icr --unquote eval\n  count:\n    command: icr --unquote count\n",
        ),
    ),
)
