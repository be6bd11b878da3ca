"""The whole method on a real multilingual model with exact checkers in the judge's place: one seed takes two hours on one core.

    python tests/benchmarks/bench_real_model.py MODEL --seed 0 --work FOLDER          # the same command continues after a kill
    python tests/benchmarks/bench_real_model.py --tiny --work FOLDER                  # the same code in a minute, on a random tiny model

MODEL is the folder of Gemma 3 270M (base) that `bench_gemma.py prepare` makes; its vocabulary is cut to the tokens of real texts in en,
es, de, fr and ru. ICR_SHARED names the folder with X-AlpacaEval's instructions and the outputs whose sentences make answers.

A task is an instruction followed by one of six constraints, written in its language, which a few lines of Python check exactly: two or
three bullet points, exactly one sentence, capital letters only, the whole answer in double quotation marks, a given word first.
Instructions are split in three: those of finetuning and English pairs, those of ICR, and those of the test.

pi_ref   `icr sft` on documents of five languages, half of which comply with their constraint
pi_0     `icr train` on English pairs only: the chosen answer complies, the rejected one does not
pi_1     one ICR iteration from pi_0: `icr generate`, `icr annotate` (cross-lingual reward of pi_0 against pi_ref), `icr train`
control  the same samples and steps, with random labels; multilingual (--arms): with the reward after the native instruction

Compliance: the share of sampled answers to test prompts that comply; intervals of 95% by a bootstrap over test instructions. Reward
accuracy (`icr reward-bench`): the share of labelled pairs under test instructions (an answer that complies, one that does not) whose first has the higher
reward of (pi_0, pi_ref), ties counted half, beside the log-likelihood under pi_0 alone and the longer one. Of the policy's own
samples: the same for the pairs that annotate chose of which one answer complies, and over all such pairs of a prompt before length
control. The translate kind takes a translator: --translator MODEL, or else one that `icr sft` makes from the base model and instructions
outside the test, which are parallel, in the forms of answers. A model of this size translates badly. What a perfect translator could reach
is near the English figure, since the forms of answers are the same in all languages.

Every step is skipped once it is finished. Rows of (seed, measure, arm) go to real_model.csv at the end, in the place of earlier ones.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from tests.support.real_data import shared_folder

LANGUAGES = ("en", "es", "de", "fr", "ru")
OTHERS = LANGUAGES[1:]
MODELS = ("gpt-4o-mini", "gpt-3.5-turbo-0125", "gpt-4-turbo-2024-04-09")
LONGEST_INSTRUCTION = 150  # characters
SENTENCE = (25, 115)  # characters of a sentence of an answer
SENTENCES = 3  # that an instruction must have in every language
RARE = 12  # a token that occurs less often in the texts is cut
RESAMPLES = 2000
TRANSLATED = "cross-lingual, of those that were translated"
WORDS = {
    "en": ("Certainly", "Honestly", "Briefly", "Indeed"),
    "es": ("Claro", "Francamente", "Brevemente", "Efectivamente"),
    "de": ("Sicherlich", "Ehrlich", "Kurz", "Wirklich"),
    "fr": ("Certainement", "Franchement", "Bref", "Effectivement"),
    "ru": ("Конечно", "Честно", "Кратко", "Действительно"),
}
ASKED = {
    "bullets": {
        "en": "Answer with exactly {} bullet points.",
        "es": "Responde con exactamente {} viñetas.",
        "de": "Antworte mit genau {} Aufzählungspunkten.",
        "fr": "Réponds avec exactement {} puces.",
        "ru": "Ответь ровно {} пунктами списка.",
    },
    "sentence": {
        "en": "Answer in exactly one sentence.",
        "es": "Responde con exactamente una frase.",
        "de": "Antworte mit genau einem Satz.",
        "fr": "Réponds en exactement une phrase.",
        "ru": "Ответь ровно одним предложением.",
    },
    "capitals": {
        "en": "Answer in capital letters only.",
        "es": "Responde solo con letras mayúsculas.",
        "de": "Antworte nur in Großbuchstaben.",
        "fr": "Réponds uniquement en lettres majuscules.",
        "ru": "Ответь только заглавными буквами.",
    },
    "quotes": {
        "en": "Put your whole answer in double quotation marks.",
        "es": "Escribe toda tu respuesta entre comillas dobles.",
        "de": "Setze deine ganze Antwort in doppelte Anführungszeichen.",
        "fr": "Mets toute ta réponse entre guillemets doubles.",
        "ru": "Заключи весь ответ в двойные кавычки.",
    },
    "begins": {
        "en": 'Begin your answer with the word "{}".',
        "es": 'Empieza tu respuesta con la palabra "{}".',
        "de": 'Beginne deine Antwort mit dem Wort "{}".',
        "fr": 'Commence ta réponse par le mot "{}".',
        "ru": 'Начни ответ со слова "{}".',
    },
}
COLUMNS = (
    "seed", "measure", "arm", "n", *LANGUAGES, "mean_of_the_four", "low", "high", "minus_pi_0", "minus_low", "minus_high",
    "by_constraint", "minutes", "cores", "torch", "transformers",
)  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """How much of everything. constraints: of each instruction. rates: of sft, the English pairs and an iteration."""

    sft: int = 110
    icr: int = 40
    test: int = 40
    constraints: int = 2
    samples: int = 4
    max_tokens: int = 90
    translations: int = 600
    translation_tokens: int = 160
    rates: tuple[str, str, str] = ("1e-4", "3e-5", "2e-5")
    rare: int = RARE


TINY = Sizes(
    sft=6,
    icr=3,
    test=3,
    samples=4,
    max_tokens=12,
    translations=16,
    translation_tokens=160,
    rates=("1e-3", "1e-3", "1e-3"),
    rare=1,
)


class Constraint(NamedTuple):
    """kind: of ASKED. number: of bullet points, or the place of the word in WORDS."""

    kind: str
    number: int = 0

    @property
    def name(self) -> str:
        return f"{self.kind}{self.number}" if self.kind in ("bullets", "begins") else self.kind

    def asked(self, language: str) -> str:
        """As it is written under an instruction."""
        filled = WORDS[language][self.number] if self.kind == "begins" else self.number
        return ASKED[self.kind][language].format(filled)


def complies(constraint: Constraint, language: str, text: str) -> bool:
    r"""Whether a text does what the constraint asks.

    >>> complies(Constraint("bullets", 2), "en", "- One.\n- Two."), complies(Constraint("bullets", 3), "en", "- One.\n- Two.")
    (True, False)
    >>> complies(Constraint("sentence"), "de", "Das ist gut."), complies(Constraint("sentence"), "de", "Das. Ist. Gut.")
    (True, False)
    >>> complies(Constraint("capitals"), "ru", "ДА, 3."), complies(Constraint("capitals"), "fr", "OUI, à 3.")
    (True, False)
    >>> complies(Constraint("quotes"), "es", '"Sí."'), complies(Constraint("begins", 0), "es", "Claro: sí.")
    (True, True)
    """
    text = text.strip()
    lines = [line for line in text.splitlines() if line.strip()]
    if not any(character.isalpha() for character in text):
        return False
    if constraint.kind == "bullets":
        return len(lines) == constraint.number and all(re.match(r"\s*[-*•]\s+\S", line) for line in lines)
    if constraint.kind == "sentence":
        ends = re.findall(r"[.!?…]+(?=[\s\"'»”]|$)", text)
        return (
            len(ends) == 1 and len(lines) == 1 and bool(re.search(r"[.!?…]+[\"'»”]?$", text)) and text[0] not in "-*•"
        )
    if constraint.kind == "capitals":
        return not any(character.islower() for character in text)
    if constraint.kind == "quotes":
        return len(text) > 2 and (text[0], text[-1]) in (('"', '"'), ("“", "”"), ("„", "“"), ("«", "»"))
    word = WORDS[language][constraint.number].casefold()
    return bool(re.match(re.escape(word) + r"(?!\w)", text.casefold()))


CONSTRAINTS = (
    Constraint("bullets", 2), Constraint("bullets", 3), Constraint("sentence"), Constraint("capitals"), Constraint("quotes"),
    Constraint("begins"),
)  # fmt: skip
FORMS: Mapping[str, tuple[int, Callable[[Sequence[str], str], str]]] = {
    "plain": (2, lambda said, word: " ".join(said)),
    "sentence": (1, lambda said, word: said[0]),
    "bullets2": (2, lambda said, word: "\n".join(f"- {one}" for one in said)),
    "bullets3": (3, lambda said, word: "\n".join(f"- {one}" for one in said)),
    "capitals": (2, lambda said, word: " ".join(said).upper()),
    "quotes": (2, lambda said, word: f'"{" ".join(said)}"'),
    "begins": (2, lambda said, word: f"{word}: {' '.join(said)}"),
}
"""How many sentences an answer of a form has, and how it is written."""


@dataclass(frozen=True)
class Task:
    """An instruction with a constraint. text: the instruction by language; sentences: of real answers to it, by language."""

    instruction: str
    constraint: Constraint
    text: Mapping[str, str]
    sentences: Mapping[str, Sequence[str]] = field(repr=False)

    @property
    def id(self) -> str:
        return f"{self.instruction}-{self.constraint.name}"

    def prompt(self, language: str) -> str:
        return f"{self.text[language]}\n{self.constraint.asked(language)}"

    def complies(self, language: str, text: str) -> bool:
        return complies(self.constraint, language, text)

    def answer(self, language: str, is_right: bool, seed: int, what: str) -> str:
        """An answer of real sentences that complies, or does not; its form is the same in all languages.

        what: tells several answers to one task apart.
        """
        forms = random.Random(f"form {seed} {self.id} {is_right} {what}").sample(list(FORMS), len(FORMS))
        own = self.constraint.name if self.constraint.kind == "bullets" else self.constraint.kind
        word = WORDS[language][self.constraint.number if self.constraint.kind == "begins" else 0]
        rng = random.Random(f"answer {seed} {self.id} {language} {is_right} {what}")
        for form in [own] if is_right else [form for form in forms if form != own]:
            count, write = FORMS[form]
            for _ in range(20):
                text = write(rng.sample(list(self.sentences[language]), count), word)
                if self.complies(language, text) == is_right:
                    return text
        raise ValueError(f"no answer to {self.id} in {language}")


def main(words: Sequence[str] | None = None) -> None:
    """Run what is not finished, and write the rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", type=Path, help="folder of the base model, with a chat template")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the answers, the data order and the samples")
    parser.add_argument("--work", type=Path, required=True, help="a folder of this seed's own")
    parser.add_argument("--arms", default="control", help="beside pi_1: control, multilingual")
    parser.add_argument(
        "--translator",
        default="",
        help="a model that translates into English, in the place of the one that is made here",
    )
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_name("real_model.csv"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--cut", type=Path, help=argparse.SUPPRESS)  # a process of its own, whose end frees the memory
    given = parser.parse_args(words)
    given.csv = given.csv.resolve()
    if given.cut:
        cut_vocabulary(
            given.model,
            given.cut,
            json.loads((given.work / "texts.json").read_text()),
            TINY.rare if given.tiny else RARE,
        )
        return
    if not given.tiny and not (given.model and shared_folder().is_dir()):
        sys.exit(f"needs the folder of a model and real texts ({shared_folder()}; set ICR_SHARED)")
    given.work.mkdir(parents=True, exist_ok=True)
    given.work = given.work.resolve()
    rows = Run(given, TINY if given.tiny else Sizes()).rows()
    replace_rows(given.csv, given.seed, rows)
    for row in rows:
        print(json.dumps(row, ensure_ascii=False), flush=True)


class Run:
    """One seed, in a folder of its own."""

    def __init__(self, given: argparse.Namespace, sizes: Sizes) -> None:
        self.given, self.sizes, self.seed, self.work = given, sizes, int(given.seed), Path(given.work)
        self.start = time.monotonic()

    def rows(self) -> list[dict[str, Any]]:
        """Take all steps that are not finished; return the rows of the table."""
        sizes = self.sizes
        base = self.step("vocabulary", self.make_base)
        tasks = self.tasks()
        self.step("data", lambda: self.write_data(tasks))
        arms = [arm for arm in self.given.arms.split(",") if arm]
        rate_of_sft, rate_of_pairs, rate_of_icr = sizes.rates
        steps = ("--batch-size", "4", "--accumulation", "4", "--max-length", "512", "--save-steps", "5")

        self.icr(
            "pi_ref", "sft", "--policy", base, "--documents", "sft", "--learning-rate", rate_of_sft, *steps,
        )  # fmt: skip
        self.icr(
            "pi_0", "train", "--policy", self.policy("pi_ref"), "--preferences", "pairs.jsonl", "--learning-rate", rate_of_pairs,
            "--epochs", "2", *steps,
        )  # fmt: skip
        for arm in ("pi_ref", "pi_0"):
            self.sample_test(arm)
        kinds = ["cross-lingual", "multilingual", "translate"]
        translator = self.given.translator or self.make_translator(base, tasks, *steps)
        rewarded = ("--policy", self.policy("pi_0"), "--reference", self.policy("pi_ref"))
        every = ("--no-drop-wrong-language", "--no-drop-truncated", "--no-drop-empty")
        self.icr(
            "accuracy", "reward-bench", *rewarded, "--pairs", "labelled", "--reward-kind", ",".join(kinds), "--translator", translator,
            "--translation-max-tokens", str(sizes.translation_tokens),
        )  # fmt: skip

        self.icr(
            "sampled", "generate", "--policy", self.policy("pi_0"), "--prompts", "icr", "--samples", str(sizes.samples), "--temperature",
            "0.9", *self.sampling(),
        )  # fmt: skip
        labels = {"pi_1": "cross-lingual", "control": "random", "multilingual": "multilingual"}
        kept = every if self.given.tiny else ()
        for arm in ("pi_1", *arms):
            self.icr(
                f"{arm}-annotated", "annotate", *rewarded, "--prompts", "icr", "--responses", "sampled/responses", "--reward-kind",
                labels[arm], "--seed", str(self.seed), *kept,
            )  # fmt: skip
            self.icr(
                arm, "train", "--policy", self.policy("pi_0"), "--preferences", f"{arm}-annotated/preferences", "--learning-rate",
                rate_of_icr, *steps,
            )  # fmt: skip
            self.sample_test(arm)
        return self.measured(
            tasks, kinds, [arm for arm in ("pi_1", *arms) if labels[arm] != "random"], ["pi_ref", "pi_0", "pi_1", *arms]
        )

    def make_translator(self, base: str, tasks: Mapping[str, Sequence[Task]], *steps: str) -> str:
        """A translator into English: `icr sft` of the base model on parallel texts, asked as `icr reward-bench` asks."""
        documents = self.work / "translations" / "en.jsonl"
        if not documents.exists():
            write_lines(documents, self.translations({task.instruction for task in tasks["test"]}))
        self.icr(
            "translator", "sft", "--policy", base, "--documents", "translations", "--learning-rate", self.sizes.rates[0], *steps,
        )  # fmt: skip
        return self.policy("translator")

    def translations(self, kept_out: Set[str]) -> list[dict[str, str]]:
        """Instructions, one or a few at a time, in the forms that answers have, with the same in English."""
        from icr_platform.engines.sampling.translation import INSTRUCTION

        texts = {language: self.read(language)[0] for language in LANGUAGES}
        ids = [
            one
            for one in sorted(set.intersection(*map(set, texts.values())) - kept_out)
            if all(
                len(texts[language][one]) <= LONGEST_INSTRUCTION and "\n" not in texts[language][one]
                for language in LANGUAGES
            )
        ]
        rng = random.Random(f"translations {self.seed}")
        documents = []
        for place in range(self.sizes.translations):
            count, write = rng.choice(list(FORMS.values()))
            said, word = rng.sample(ids, count), rng.randrange(4)
            native, english = (
                write([texts[language][one] for one in said], WORDS[language][word])
                for language in (OTHERS[place % len(OTHERS)], "en")
            )
            documents.append({"instruction": INSTRUCTION.format(text=native), "output": english})
        return documents

    def say(self, text: str) -> None:
        seconds = int(time.monotonic() - self.start)
        print(
            f"[{time.strftime('%H:%M:%S')} +{seconds // 60:02}:{seconds % 60:02}] seed {self.seed}: {text}", flush=True
        )

    def step(self, name: str, make: Callable[[], Any]) -> Any:
        """Take a step unless it is finished; what it returns is kept, with its minutes, which grow over attempts."""
        done, begun = self.work / "done" / f"{name}.json", self.work / "done" / f"{name}.begun"
        if done.exists():
            return json.loads(done.read_text())["result"]
        done.parent.mkdir(exist_ok=True)
        self.say(f"{name} ...")
        start = time.monotonic()
        earlier = float(begun.read_text()) if begun.exists() else 0.0
        watch = Minutes(begun, earlier)
        with watch:
            result = make()
        minutes = earlier + (time.monotonic() - start) / 60
        temporary = done.with_suffix(".part")
        temporary.write_text(json.dumps({"result": result, "minutes": minutes}))
        temporary.replace(done)
        self.say(f"{name} took {minutes:.1f} minutes")
        return result

    def icr(self, output: str, stage: str, *words: str) -> None:
        """Run a stage into the folder `output`, to be continued where it was killed."""
        seed = () if "--seed" in words else ("--seed", str(self.seed))
        self.step(
            output,
            lambda: self.command("-m", "icr_platform", stage, *words, *seed, "--output", output, "--no-tracking"),
        )

    def command(self, *words: str) -> None:
        """Run Python in the work folder, in a process that dies with this one; with --tiny in this one, where nothing takes memory."""
        if self.given.tiny:
            self.command_here(*words)
            return
        here = os.pathsep.join(os.path.abspath(path or ".") for path in sys.path)
        environment = {**os.environ, "PYTHONPATH": here, "ICR_CACHE": str(self.work / "cache")}
        done = subprocess.run([sys.executable, *words], cwd=self.work, env=environment, preexec_fn=_die_with_parent)
        if done.returncode:
            sys.exit(f"{' '.join(words[:3])} ended with status {done.returncode}")

    def command_here(self, *words: str) -> None:
        """Run what `command` runs, in this process."""
        from icr_platform.cli.commands import run

        before = Path.cwd()
        os.chdir(self.work)
        try:
            if words[0] == "-m":
                status = run(list(words[2:]))
                if status:
                    sys.exit(f"{words[2]} ended with status {status}")
            else:
                main(words[1:])
        finally:
            os.chdir(before)

    def policy(self, name: str) -> str:
        return str(self.work / name / "checkpoint")

    def sampling(self) -> tuple[str, ...]:
        return ("--max-tokens", str(self.sizes.max_tokens), "--batch-size", "128", "--shard-prompts", "16")

    def sample_test(self, arm: str) -> None:
        """One answer of a policy to every test prompt."""
        self.icr(
            f"{arm}-test", "generate", "--policy", self.policy(arm), "--prompts", "test", "--samples", "1", "--temperature", "0.7",
            *self.sampling(),
        )  # fmt: skip

    def make_base(self) -> str:
        """The base model with a cut vocabulary."""
        source = self.given.model
        if self.given.tiny:
            from tests.support.tiny_models import save_tiny_model

            source = save_tiny_model(self.work / "tiny")
        texts = [text for language in LANGUAGES for text in self.all_texts(language)]
        texts += [text for constraint in ASKED.values() for text in constraint.values()]
        texts += [word for words in WORDS.values() for word in words for _ in range(RARE)]
        (self.work / "texts.json").write_text(json.dumps(texts))
        folder = self.work / "base"
        tiny = ["--tiny"] if self.given.tiny else []
        self.command(
            os.path.abspath(__file__),
            str(Path(source).resolve()),
            "--cut",
            str(folder),
            "--work",
            str(self.work),
            *tiny,
        )
        return str(folder)

    def all_texts(self, language: str) -> Iterator[str]:
        instructions, outputs = self.read(language)
        yield from instructions.values()
        for texts in outputs.values():
            yield from texts
            yield from (text.upper() for text in texts[:1])  # capitals are other tokens

    def read(self, language: str) -> tuple[dict[str, str], dict[str, list[str]]]:
        """Instructions and outputs by id."""
        if self.given.tiny:
            words = {"en": "The number {} is here today.", "es": "El número {} está aquí hoy.", "de": "Die Zahl {} ist heute hier.",
                     "fr": "Le nombre {} est ici ce jour.", "ru": "Число {} сегодня находится здесь."}  # fmt: skip
            ids = [str(number) for number in range(14)]
            return (
                {one: f"{one}?" for one in ids},
                {one: [" ".join(words[language].format(f"{one}{k}") for k in range(4))] for one in ids},
            )
        folder = shared_folder()
        prompts = json.loads((folder / "prompts" / "x-alpacaeval" / f"{language}.json").read_text(encoding="utf-8"))
        by_text = {row["instruction"]: str(row["id"]) for row in prompts}
        outputs: dict[str, list[str]] = defaultdict(list)
        for model in MODELS:
            for row in json.loads((folder / "outputs" / language / f"{model}.json").read_text(encoding="utf-8")):
                if (found := by_text.get(row["instruction"])) is not None:  # some files have no ids
                    outputs[found].append(row["output"])
        return {number: instruction for instruction, number in by_text.items()}, outputs

    def tasks(self) -> dict[str, list[Task]]:
        """The tasks of each split, by the seed; constraints take turns."""
        texts = {language: self.read(language) for language in LANGUAGES}
        pool = {
            one: {language: sentences_of(texts[language][1].get(one, ())) for language in LANGUAGES}
            for one, instruction in texts["en"][0].items()
            if all(len(texts[language][0].get(one, "x" * 999)) <= LONGEST_INSTRUCTION for language in LANGUAGES)
        }
        ids = sorted(one for one, said in pool.items() if min(map(len, said.values())) >= SENTENCES)
        random.Random(f"split {self.seed}").shuffle(ids)
        tasks: dict[str, list[Task]] = {}
        for split in ("sft", "icr", "test"):
            count = getattr(self.sizes, split)
            chosen, ids = ids[:count], ids[count:]
            if len(chosen) < count:
                sys.exit(f"only {len(chosen)} instructions are left for {split}, {count} are wanted")
            order = [
                (one, CONSTRAINTS[(place * self.sizes.constraints + turn) % len(CONSTRAINTS)])
                for place, one in enumerate(chosen)
                for turn in range(self.sizes.constraints)
            ]
            tasks[split] = [
                Task(
                    one,
                    constraint._replace(number=random.Random(f"word {self.seed} {one}").randrange(4))
                    if constraint.kind == "begins"
                    else constraint,
                    {language: texts[language][0][one] for language in LANGUAGES},
                    pool[one],
                )
                for one, constraint in order
            ]
        return tasks

    def write_data(self, tasks: Mapping[str, Sequence[Task]]) -> dict[str, int]:
        """Documents, English pairs, prompts and labelled pairs as files, which the stages read."""
        seed, work = self.seed, self.work
        for language in LANGUAGES:
            documents = [
                {"instruction": task.prompt(language), "output": task.answer(language, place % 2 == 0, seed, "sft")}
                for place, task in enumerate(shuffled(tasks["sft"], f"sft {seed}"))
            ]
            write_lines(work / "sft" / f"{language}.jsonl", documents)
            for split in ("icr", "test"):
                prompts = [{"id": task.id, "instruction": task.prompt(language)} for task in tasks[split]]
                write_lines(work / split / f"{language}.jsonl", prompts)
        pairs = [
            {
                "prompt": task.prompt("en"),
                "chosen": task.answer("en", True, seed, "pair"),
                "rejected": task.answer("en", False, seed, "pair"),
            }
            for task in tasks["sft"]
        ]
        write_lines(work / "pairs.jsonl", pairs)
        for language in LANGUAGES:
            labelled = [
                {
                    "id": task.id,
                    "prompt": task.prompt(language),
                    "english_instruction": task.prompt("en"),
                    "chosen": task.answer(language, True, seed, "test"),
                    "rejected": task.answer(language, False, seed, "test"),
                    "category": task.constraint.kind,
                }
                for task in tasks["test"]
            ]
            write_lines(work / "labelled" / f"{language}.jsonl", labelled)
        return {name: len(tasks[name]) for name in tasks}

    def measured(
        self, tasks: Mapping[str, Sequence[Task]], kinds: Sequence[str], rewarded: Sequence[str], arms: Sequence[str]
    ) -> list[dict[str, Any]]:
        """The rows of the table."""
        by_id = {task.id: task for split in ("icr", "test") for task in tasks[split]}
        minutes = {
            path.stem: json.loads(path.read_text())["minutes"] for path in sorted((self.work / "done").glob("*.json"))
        }
        about = {
            "seed": self.seed,
            "cores": os.cpu_count(),
            "torch": version("torch"),
            "transformers": version("transformers"),
        }
        about["minutes"] = round(sum(minutes.values()), 1)
        rows = []
        compliance = {arm: graded(table(self.work / f"{arm}-test" / "responses"), by_id) for arm in arms}
        for arm in arms:
            against = compliance["pi_0"] if arm not in ("pi_ref", "pi_0") else None
            rows.append(about | {"measure": "compliance", "arm": arm} | figures(compliance[arm], self.seed, against))
        ranked = table(self.work / "accuracy" / "reward_bench")
        all_pairs = {(row["language"], row["prompt_id"]) for row in ranked}
        translated = {
            (row["language"], row["prompt_id"])
            for row in ranked
            if row["kind"] == "translate" and row["is_right"] is not None
        }
        judged = [(kind, kind, all_pairs, lambda row: row["is_right"]) for kind in kinds]
        # A pair of which an answer could not be translated is not ranked by its translation.
        judged.append((TRANSLATED, "cross-lingual", translated, lambda row: row["is_right"]))
        judged.append(("log-likelihood", "multilingual", all_pairs, _is_likelier))
        judged.append(("the longer one", "length", all_pairs, lambda row: row["is_right"]))
        for name, kind, pairs, is_right in judged:
            right = [
                Graded(row["language"], by_id[row["prompt_id"]].instruction, row["category"], is_right(row))
                for row in ranked
                if row["kind"] == kind and row["is_right"] is not None and (row["language"], row["prompt_id"]) in pairs
            ]
            rows.append(about | {"measure": "accuracy on labelled pairs", "arm": name} | figures(right, self.seed))
        for arm in rewarded:
            rows += [about | row for row in self.own_samples(arm, by_id)]
        return rows

    def own_samples(self, arm: str, by_id: Mapping[str, Task]) -> Iterator[dict[str, Any]]:
        """How well an arm's rewards rank the policy's own samples: all pairs of a prompt, and those that annotate chose."""
        kind = {"pi_1": "cross-lingual"}.get(arm, arm)
        score = keyed(table(self.work / f"{arm}-annotated" / "rewards"), kind, "reward")
        responses = {
            (row["language"], row["prompt_id"], row["sample_index"]): row["response"]
            for row in table(self.work / "sampled" / "responses")
        }
        prompts: dict[tuple[str, str], list[int]] = defaultdict(list)
        for language, prompt_id, index in responses:
            prompts[language, prompt_id].append(index)
        within = []
        for (language, prompt_id), indices in sorted(prompts.items()):
            task = by_id[prompt_id]
            right = {index: task.complies(language, responses[language, prompt_id, index]) for index in indices}
            for good in (index for index in indices if right[index]):
                for bad in (index for index in indices if not right[index]):
                    if (language, prompt_id, good) in score and (language, prompt_id, bad) in score:
                        won = higher(score, language, prompt_id, good, bad)
                        within.append(Graded(language, task.instruction, task.constraint.kind, won))
        yield {"measure": "own samples, pairs within a prompt", "arm": kind} | figures(within, self.seed)
        chosen = []
        for row in table(self.work / f"{arm}-annotated" / "preferences"):
            task = by_id[row["prompt_id"]]
            first, second = (task.complies(row["language"], row[name]) for name in ("chosen", "rejected"))
            if first != second:
                chosen.append(Graded(row["language"], task.instruction, task.constraint.kind, float(first)))
        yield {"measure": "own samples, pairs that annotate chose", "arm": kind} | figures(chosen, self.seed)


class Minutes:
    """Writes down how long a step has taken so far, every few seconds: a kill loses no more of it."""

    def __init__(self, path: Path, earlier: float) -> None:
        import threading

        self._path, self._earlier, self._start = path, earlier, time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        while not self._ended.wait(5):
            temporary = self._path.with_suffix(".writing")
            temporary.write_text(str(self._earlier + (time.monotonic() - self._start) / 60))
            temporary.replace(self._path)


class Graded(NamedTuple):
    """One measured thing. right: in [0, 1]."""

    language: str
    instruction: str
    constraint: str
    right: float


def figures(found: Sequence[Graded], seed: int, against: Sequence[Graded] | None = None) -> dict[str, Any]:
    """Percentages by language and their unweighted mean over the four beside English, with intervals of 95% by a bootstrap over
    instructions; against: the same of another policy, of which the difference is taken, paired by instruction."""
    import numpy as np

    def sums(rows: Sequence[Graded]) -> Any:
        """[instructions, languages, (right, count)]"""
        total = np.zeros((len(names), len(LANGUAGES), 2))
        for row in rows:
            total[names[row.instruction], LANGUAGES.index(row.language)] += (row.right, 1)
        return total

    names = {name: place for place, name in enumerate(sorted({row.instruction for row in (*found, *(against or ()))}))}

    def mean_of_four(total: Any) -> float:
        right, count = total[..., 1:, 0].sum(0), total[..., 1:, 1].sum(0)
        return float(np.mean(right[count > 0] / count[count > 0]) * 100) if (count > 0).any() else float("nan")

    own, other = sums(found), sums(against) if against is not None else None
    draws: Any = np.random.default_rng(seed).integers(0, len(names), (RESAMPLES, len(names))) if names else []
    spread = [mean_of_four(own[draw]) for draw in draws]
    by_language = own.sum(0) if names else np.zeros((len(LANGUAGES), 2))
    kinds = Counter(row.constraint for row in found if row.language != "en")
    values: dict[str, Any] = {
        language: round(100 * right / count, 1) if count else ""
        for language, (right, count) in zip(LANGUAGES, by_language, strict=True)
    }
    values |= {"n": len(found), "mean_of_the_four": rounded(mean_of_four(own) if names else float("nan"))}
    values |= dict(zip(("low", "high"), interval(spread), strict=True))
    values["by_constraint"] = json.dumps({
        kind: round(100 * sum(row.right for row in found if row.constraint == kind and row.language != "en") / count)
        for kind, count in sorted(kinds.items())
    })  # fmt: skip
    if other is not None:
        differences = [mean_of_four(own[draw]) - mean_of_four(other[draw]) for draw in draws]
        values["minus_pi_0"] = rounded(mean_of_four(own) - mean_of_four(other))
        values |= dict(zip(("minus_low", "minus_high"), interval(differences), strict=True))
    return values


def interval(values: Sequence[float]) -> tuple[Any, Any]:
    import numpy as np

    known = [value for value in values if value == value]
    return (
        (rounded(float(np.percentile(known, 2.5))), rounded(float(np.percentile(known, 97.5)))) if known else ("", "")
    )


def rounded(value: float) -> float | str:
    return round(value, 1) if value == value else ""


def graded(responses: Sequence[Mapping[str, Any]], by_id: Mapping[str, Task]) -> list[Graded]:
    """Whether each response complies."""
    found = []
    for row in responses:
        task = by_id[row["prompt_id"]]
        right = float(task.complies(row["language"], row["response"]))
        found.append(Graded(row["language"], task.instruction, task.constraint.kind, right))
    return found


Score = Mapping[tuple[str, str, int], float]


def keyed(rewards: Sequence[Mapping[str, Any]], kind: str, column: str) -> Score:
    """A column of the rewards of a kind, by sample."""
    return {
        (row["language"], row["prompt_id"], row["sample_index"]): row[column]
        for row in rewards
        if row["kind"] == kind and row[column] is not None
    }


def higher(score: Score, language: str, prompt_id: str, first: int, second: int) -> float:
    """1 where the first sample has the higher score, half where they are equal."""
    a, b = score[language, prompt_id, first], score[language, prompt_id, second]
    return 0.5 if a == b else float(a > b)


def _is_likelier(row: Mapping[str, Any]) -> float:
    """Whether the better response has the higher log-probability under the policy alone."""
    better, worse = row["chosen_policy_logprob"], row["rejected_policy_logprob"]
    return 0.5 if better == worse else float(better > worse)


def sentences_of(outputs: Sequence[str]) -> list[str]:
    """Plain sentences of real answers, each once."""
    found: dict[str, None] = {}
    for output in outputs:
        for line in output.splitlines():
            plain = re.sub(r"^[\s#>*\-•\d.)]+", "", line).replace("*", "").strip()
            for sentence in re.findall(r"[^.!?]+[.!?](?=\s|$)", plain):
                text = sentence.strip()
                if (
                    SENTENCE[0] <= len(text) <= SENTENCE[1]
                    and not re.search(r"[:;\"«»„“”()\[\]|`…\t]", text)
                    and text[0].isupper()
                ):
                    found[text] = None
    return list(found)


def cut_vocabulary(source: Path, folder: Path, texts: Sequence[str], rare: int) -> None:
    """Write the model of `source` with the tokens alone that occur at least `rare` times in the texts, and what merges into them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    written = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    # By number; a token that was added is in the vocabulary of some tokenizers and not of others.
    before = written["model"]["vocab"] | {one["content"]: one["id"] for one in written["added_tokens"]}
    kept = kept_tokens(AutoTokenizer.from_pretrained(source), written, texts, rare)
    numbers = {name: number for number, name in enumerate(sorted(kept, key=before.__getitem__))}

    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    if not model.config.tie_word_embeddings:
        sys.exit(f"{source}: only models whose embeddings are tied are cut")
    weights = model.get_input_embeddings().weight.detach()[[before[name] for name in numbers]].clone()
    model.resize_token_embeddings(len(numbers), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(weights)
    model.tie_weights()
    renumbered = {number: numbers[name] for name, number in before.items() if name in numbers}
    for config in (model.config, model.generation_config):
        for field_name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            value = getattr(config, field_name, None)
            new = [renumbered[one] for one in (value if isinstance(value, list) else [value]) if one in renumbered]
            setattr(config, field_name, new if isinstance(value, list) else next(iter(new), None))
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)

    written["model"]["vocab"] = {name: number for name, number in numbers.items() if name in written["model"]["vocab"]}
    written["model"]["merges"] = [[a, b] for a, b in written["model"]["merges"] if {a, b, a + b} <= kept]
    written["added_tokens"] = [
        one | {"id": numbers[one["content"]]} for one in written["added_tokens"] if one["content"] in numbers
    ]
    (folder / "tokenizer.json").write_text(json.dumps(written, ensure_ascii=False), encoding="utf-8")
    # The class of Gemma's tokenizer would add tokens that were cut, such as <mask>, behind the others, where the model has no rows.
    settings = {
        name: value
        for name, value in json.loads((source / "tokenizer_config.json").read_text()).items()
        if not (isinstance(value, str) and name.endswith("_token") and value not in numbers)
    } | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    shutil.copy(source / "chat_template.jinja", folder)

    cut = AutoTokenizer.from_pretrained(folder)
    some = texts[:: max(1, len(texts) // 500)]
    lost = [text for text in some if cut.decode(cut(text, add_special_tokens=False)["input_ids"]) != text]
    if len(cut) != len(numbers) or lost:
        sys.exit(f"{folder}: {len(cut)} tokens of {len(numbers)}, and texts that do not come back: {lost[:2]}")
    parameters = sum(one.numel() for one in model.parameters())
    print(
        f"vocabulary cut from {len(before):,} to {len(numbers):,} tokens; {parameters:,} parameters are left",
        flush=True,
    )


def kept_tokens(tokenizer: Any, written: Mapping[str, Any], texts: Sequence[str], rare: int) -> set[str]:
    """The tokens that occur often, those that frame turns, bytes and single letters, and all that BPE makes on its way to them.

    written: tokenizer.json.
    """
    counts: Counter[int] = Counter()
    for text in texts:
        counts.update(tokenizer(text, add_special_tokens=False)["input_ids"])
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
    frame = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id)
    numbers = {token for token, count in counts.items() if count >= rare} | {*frame, *special} - {None}
    kept = {str(name) for name in tokenizer.convert_ids_to_tokens(sorted(numbers))}
    # From which every text can be written.
    for name, number in written["model"]["vocab"].items():
        is_letter = len(name) == 1 and (ord(name) < 0x250 or number in counts)
        if is_letter or re.fullmatch(r"<0x[0-9A-F]{2}>", name):
            kept.add(name)
    added = {one["content"] for one in written["added_tokens"]}
    ranks = {tuple(pair): rank for rank, pair in enumerate(written["model"]["merges"])}
    return kept.union(*(merged_on_the_way(name, ranks) for name in kept if name not in added))


def merged_on_the_way(token: str, ranks: Mapping[tuple[str, ...], int]) -> set[str]:
    """All tokens that BPE makes on its way from the letters of a token to the token.

    >>> sorted(merged_on_the_way("abc", {("b", "c"): 0, ("a", "bc"): 1}))
    ['a', 'abc', 'b', 'bc', 'c']
    """
    pieces = list(token)
    found = {*pieces}
    while len(pieces) > 1:
        pairs = [(ranks.get((a, b), len(ranks)), place) for place, (a, b) in enumerate(pairwise(pieces))]
        rank, place = min(pairs)
        if rank == len(ranks):
            break
        pieces[place : place + 2] = [pieces[place] + pieces[place + 1]]
        found.add(pieces[place])
    return found


def shuffled(tasks: Sequence[Task], seed: str) -> list[Task]:
    return random.Random(seed).sample(list(tasks), len(tasks))


def table(folder: Path) -> list[dict[str, Any]]:
    """The rows of an artifact."""
    import pyarrow.dataset as ds

    rows: list[dict[str, Any]] = ds.dataset(folder, format="parquet", exclude_invalid_files=True).to_table().to_pylist()
    return rows


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def replace_rows(path: Path, seed: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the rows of a seed into the CSV, in the place of those that it had. Another seed's may end at the same moment."""
    with FileLock(Path(tempfile.gettempdir()) / f"{path.name}.lock"):
        kept: list[Mapping[str, Any]] = []
        if path.exists():
            with path.open(encoding="utf-8", newline="") as stream:
                kept = [row for row in csv.DictReader(stream) if row["seed"] != str(seed)]
        temporary = path.with_suffix(".part")
        with temporary.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n", restval="")
            writer.writeheader()
            writer.writerows([*kept, *rows])
        temporary.replace(path)


def _die_with_parent() -> None:
    """A command that is left alone by a kill would go on and write what the next attempt writes."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


if __name__ == "__main__":
    main()
