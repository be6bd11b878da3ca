"""Language identifiers on real gpt-4-turbo outputs to X-AlpacaEval in nine languages.

python tests/benchmarks/bench_language_id.py [--shared FOLDER] [--every 1] [--json PATH]

Columns: percent of a language's responses identified as it; the mean; percent of all flagged as another language with
confidence of at least 0.5, which is what annotate's language filter drops; CPU milliseconds a text. Some responses are rightly in
another language (translations, code), so no identifier reaches 100. Rows: the whole response or its first 40 characters;
choosing among all languages or the nine. Then: how often texts of a language outside a run are taken for one of its own.
Last: the beginnings of right responses (their whole is identified as asked), percent that the filter would drop if every
text were judged, and that it drops as it is. pycld2 is compared where it is installed.
"""

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from icr_platform.core.languages import UNDETERMINED, counts_as, too_short
from icr_platform.engines.identification.language_id import Identified, Identifier, make_identifier

LANGUAGES = ("bn", "de", "en", "es", "fr", "ru", "sw", "th", "zh")
RUN, OUTSIDERS = ("en", "es", "fr"), ("de", "sw", "ru", "zh")
CONFIDENT = 0.5
SHORT = 40
BEGINNINGS = (4, 8, 12, 16, 24, 40)


def load_texts(shared: Path, every: int) -> dict[str, list[str]]:
    """Every `every`-th output of each language."""
    texts = {}
    for language in LANGUAGES:
        path = shared / "data" / "outputs" / language / "gpt-4-turbo-2024-04-09.json"
        texts[language] = [row["output"] for row in json.loads(path.read_text(encoding="utf-8"))][::every]
    return texts


def cld2(texts: Sequence[str]) -> list[Identified]:
    import pycld2

    found = []
    for text in texts:
        try:
            _, code, percent, _ = pycld2.detect(text.encode())[2][0]
        except pycld2.error:  # it refuses some control characters
            code, percent = "un", 0
        found.append(Identified(code.split("-")[0], percent / 100))
    return found


def measure(
    identify: Callable[[Sequence[str]], list[Identified]], texts: dict[str, list[str]], characters: int | None
) -> dict[str, Any]:
    """Accuracy per language, share confidently flagged as another language, CPU milliseconds a text."""
    accuracy, flagged, seconds = {}, 0, 0.0
    for language, whole in texts.items():
        given = [text[:characters] for text in whole]
        start = time.process_time()
        found = identify(given)
        seconds += time.process_time() - start
        accuracy[language] = 100 * sum(item.language == language for item in found) / len(found)
        flagged += sum(item.language != language and item.confidence >= CONFIDENT for item in found)
    total = sum(map(len, texts.values()))
    mean = sum(accuracy.values()) / len(accuracy)
    return {**accuracy, "mean": mean, "flagged": 100 * flagged / total, "ms": 1000 * seconds / total}


def taken_in(identify: Identifier, texts: dict[str, list[str]]) -> float:
    """Percent of whole texts in OUTSIDERS that are confidently taken for a language of RUN other than English."""
    found = [item for language in OUTSIDERS for item in identify(texts[language])]
    own = set(RUN) - {"en"}
    return 100 * sum(item.language in own and item.confidence >= CONFIDENT for item in found) / len(found)


def falsely_dropped(identify: Identifier, texts: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Per length of the beginnings of right responses: percent dropped by either rule, overall and in the worst language."""
    right = {
        language: [text for text, found in zip(whole, identify(whole), strict=True) if found.language == language]
        for language, whole in texts.items()
    }
    rows = []
    for characters in BEGINNINGS:
        shares: dict[str, list[float]] = {"every text": [], "as it is": []}
        for language, whole in right.items():
            cut = [text[:characters] for text in whole]
            wrong = [
                item.language != UNDETERMINED
                and item.confidence >= CONFIDENT
                and not counts_as(language, item.language)
                for item in identify(cut)
            ]
            dropped = [is_wrong and not too_short(text) for is_wrong, text in zip(wrong, cut, strict=True)]
            shares["every text"].append(100 * sum(wrong) / len(wrong))
            shares["as it is"].append(100 * sum(dropped) / len(dropped))
        row: dict[str, Any] = {"identifier": identify.name, "characters": characters}
        for rule, values in shares.items():
            worst = max(range(len(values)), key=values.__getitem__)
            row |= {rule: sum(values) / len(values), f"{rule}, worst": f"{values[worst]:.1f} ({list(right)[worst]})"}
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = os.environ.get("ICR_SHARED", str(Path(__file__).parents[3] / "shared"))
    parser.add_argument("--shared", type=Path, default=Path(default))
    parser.add_argument("--every", type=int, default=1, help="take every n-th output")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    texts = load_texts(options.shared, options.every)
    columns = [*LANGUAGES, "mean", "flagged", "ms"]
    print(f"{sum(map(len, texts.values()))} texts\n\n| identifier | among | text | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 3) + "|")
    results = []
    for name in ("langid", "fasttext", "lingua", "cld2"):
        for among in ("all",) if name == "cld2" else ("all", "nine"):
            identify = cld2 if name == "cld2" else make_identifier(name, among=LANGUAGES if among == "nine" else ())
            identify([texts[language][0] for language in LANGUAGES])  # loads what is loaded lazily
            for characters in (None, SHORT):
                row = measure(identify, texts, characters)
                text = f"first {characters}" if characters else "whole"
                results.append({"identifier": name, "among": among, "text": text, **row})
                cells = " | ".join(
                    f"{row[column]:.2f}" if column == "ms" else f"{row[column]:.1f}" for column in columns
                )
                print(f"| {name} | {among} | {text} | {cells} |", flush=True)
    for name in ("langid", "fasttext"):
        for codes in ((), RUN):
            share = taken_in(make_identifier(name, among=codes), texts)
            print(f"{name} among {' '.join(codes) or 'all'}: {share:.1f}% of {' '.join(OUTSIDERS)} taken for es or fr")
            results.append({"identifier": name, "among": " ".join(among) or "all", "taken_in": share})
    print("\n| identifier | characters | every text | worst | as it is | worst |\n|---|---|---|---|---|---|")
    for name in ("langid", "fasttext", "lingua"):
        for row in falsely_dropped(make_identifier(name), texts):
            print(
                f"| {name} | {row['characters']} | {row['every text']:.1f} | {row['every text, worst']} | {row['as it is']:.1f} | "
                f"{row['as it is, worst']} |",
                flush=True,
            )
            results.append(row)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
