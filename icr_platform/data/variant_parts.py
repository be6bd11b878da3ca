"""Parts of a source that are named by language and variant: `es_local.jsonl` and `es_mt.jsonl` are both Spanish."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from icr_platform.core.errors import InputError
from icr_platform.core.language_tags import ENGLISH, english_first, find_name, names_language, twice
from icr_platform.data.row_files import stem_of
from icr_platform.data.row_sources import UNNAMED, RowSource, language_of
from icr_platform.data.wording import left_out, shown

_CUT = re.compile(r"[_\-. ]")
_VARIANT_NOT_REGION = ("mt", "ht")
"""Machine and human translation, which BCP 47 would take for Malta and Haiti."""


class Part(NamedTuple):
    """A file, configuration, split or value of a column: its name, and the language and the variant that the name says."""

    name: str
    language: str
    variant: str


def language_and_variant(name: str) -> tuple[str, str] | None:
    """The language that a name says at its beginning or its end, and the variant that the rest of it says; None without a language.

    >>> [language_and_variant(name) for name in ("es", "es_local", "zh_mt", "pt_BR", "mt", "zh-Hant_mt", "ifeval_fr", "train")]
    [('es', ''), ('es', 'local'), ('zh', 'mt'), ('pt_BR', ''), ('mt', ''), ('zh-Hant', 'mt'), ('fr', 'ifeval'), None]
    """
    cuts = [found.start() for found in _CUT.finditer(name)]
    last = name[cuts[-1] + 1 :] if cuts else ""
    if names_language(language_of(name)) and last not in _VARIANT_NOT_REGION:
        return language_of(name), ""
    for cut in reversed(cuts):
        if names_language(language := language_of(name[:cut])):
            return language, name[cut + 1 :]
    for cut in cuts:
        if names_language(language := language_of(name[cut + 1 :])):
            return language, name[:cut]
    return None


def parts_of(source: RowSource, languages: Sequence[str], notes: list[str]) -> list[Part]:
    """The parts of a source that are in some language. Rows of a source that names none are in the one asked for, or in English."""
    parts, unread = [], []
    for name in source.names:
        stem = name or stem_of(Path(source.path).name) or ""
        said = language_and_variant(stem)
        if said is not None:
            parts.append(Part(name, *said))
        elif name != UNNAMED:
            unread.append(name)
        elif len(languages) > 1:
            raise InputError(
                f"{source.path}: nothing says which rows are in which of {', '.join(languages)}; add a column 'language', or give a "
                "folder of LANG.jsonl"
            )
        else:
            parts.append(Part(name, languages[0] if languages else ENGLISH, ""))
            if not languages:
                notes.append(
                    f"{source.path}: nothing says its language; read as {ENGLISH!r}, name another in --languages"
                )
    notes += left_out(source.path, unread)
    if not parts:
        raise InputError(f"{source.path}: nothing is named by a language; found: {shown(source.names)}")
    return parts


def chosen_parts(
    source: RowSource, parts: Sequence[Part], languages: Sequence[str], notes: list[str]
) -> dict[str, list[Part]]:
    """The parts of each language that will be read, and notes on their variants."""
    there = list(dict.fromkeys(part.language for part in parts))
    chosen: dict[str, list[Part]] = {}
    if not languages and (same := twice(there)):
        raise InputError(
            f"{source.path}: {same[1]!r} is the language of {same[0]!r}, which is there too; choose one with --languages"
        )
    for language in dict.fromkeys(languages or english_first(there)):
        try:
            name = find_name(language, there)
        except InputError as error:
            raise InputError(f"{source.path}: {error}") from None
        if name is None:
            raise InputError(f"{source.path}: language {language!r} is missing; found: {shown(source.names)}; add it")
        if name != language:
            notes.append(f"{source.path}: {name!r} is read for {language!r}, the same language")
        chosen[language] = [part for part in parts if part.language == name]
    one = [(part.name or source.path, code, part.variant) for code, [part, *more] in chosen.items() if not more]
    if named := [f"{name!r} is {code!r} ({variant})" for name, code, variant in one if variant]:
        notes.append(f"{source.path}: files are named by language and variant: {', '.join(named)}")
    for language, of in chosen.items():
        if len(of) > 1:
            names = [repr(part.name) for part in of]
            endings = " and ".join(f"@{part.variant}" for part in of if part.variant)
            notes.append(
                f"{source.path}: {', '.join(names[:-1])} and {names[-1]} are all {language!r}: each is a source of its own, and ids "
                f"end in {endings}; to read one only, write its place, as in {source.path}/{{language}}_{of[-1].variant}.jsonl"
            )
    return chosen
