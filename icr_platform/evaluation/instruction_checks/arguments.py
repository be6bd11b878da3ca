"""The kwargs of an instruction, read so that whatever does not fit leaves the instruction unverified.

Files carry null for every argument of every other kind, localised words with blanks around them, and integers that a table made floats.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from icr_platform.evaluation.instruction_checks.verdict import UnverifiedError

Relation = Callable[[int, int], bool]
"""Whether a count stands in the relation to the number that the instruction names."""

_LESS = "less than"
_SAID: dict[str, tuple[str, ...]] = {
    "at least": (
        "at least", "no fewer than", "no less than", "not less than", "minimum", ">=", "al menos", "por lo menos", "como mínimo",
        "almenys", "com a mínim", "au moins", "mindestens", "wenigstens", "zumindest", "almeno", "pelo menos", "no mínimo", "ao menos",
        "minstens", "ten minste", "не менее", "не меньше", "по крайней мере", "как минимум", "минимум", "не менш ніж", "щонайменше",
        "co najmniej", "przynajmniej", "alespoň", "nejméně", "cel puțin", "legalább", "vähintään", "minst", "mindst", "en az",
        "τουλάχιστον", "至少", "不少于", "最少", "至少有", "不低于", "少なくとも", "以上", "最低", "적어도", "최소", "최소한", "이상",
        "على الأقل", "ما لا يقل عن", "לפחות", "حداقل", "دست کم", "کم از کم", "कम से कम", "न्यूनतम", "কমপক্ষে", "অন্তত", "ন্যূনতম",
        "குறைந்தது", "కనీసం", "किमान", "ઓછામાં ઓછા", "ਘੱਟੋ-ਘੱਟ", "อย่างน้อย", "ไม่น้อยกว่า", "ít nhất", "tối thiểu", "setidaknya",
        "paling sedikit", "minimal", "sekurang-kurangnya", "hindi bababa", "hindi bababa sa", "angalau", "si chini ya",
        "isiyopungua", "ቢያንስ", "aƙalla", "o kere ju",
    ),
    _LESS: (
        "less than", "fewer than", "under", "below", "<", "menos de", "menos que", "menys de", "moins de", "moins que", "weniger als",
        "unter", "meno di", "minder dan", "менее", "меньше", "менее чем", "меньше чем", "менше", "менше ніж", "mniej niż", "méně než",
        "mai puțin de", "kevesebb mint", "alle", "mindre än", "mindre enn", "mindre end", "daha az", "'den az", "az",
        "λιγότερο από", "λιγότερες από", "少于", "小于", "不到", "低于", "未満", "より少ない", "미만", "보다 적은", "보다 적게",
        "أقل من", "פחות מ", "کمتر از", "سے کم", "से कम", "से कम बार", "এর কম", "এর চেয়ে কম", "কম", "க்கும் குறைவாக", "కంటే తక్కువ",
        "पेक्षा कमी", "น้อยกว่า", "ít hơn", "dưới", "kurang dari", "mas mababa sa", "mas kaunti sa", "mas kaunti kaysa",
        "chini ya", "pungufu ya", "ከ ያነሰ",
    ),
    "at most": (
        "at most", "no more than", "not more than", "maximum", "<=", "como máximo", "como mucho", "a lo sumo", "au plus", "höchstens",
        "maximal", "al massimo", "no máximo", "hoogstens", "не более", "не больше", "максимум", "co najwyżej", "en fazla", "最多",
        "不超过", "不多于", "以下", "以内", "多くとも", "최대", "이하", "على الأكثر", "अधिकतम", "ज़्यादा से ज़्यादा", "সর্বাধিক", "সর্বোচ্চ",
        "ไม่เกิน", "อย่างมาก", "nhiều nhất", "tối đa", "paling banyak", "maksimal", "hindi hihigit sa", "isiyozidi", "si zaidi ya",
    ),
    "more than": (
        "more than", "over", "above", ">", "más de", "más que", "plus de", "mehr als", "über", "più di", "mais de", "mais que", "meer dan",
        "более", "больше", "более чем", "więcej niż", "'den fazla", "daha fazla", "多于", "超过", "大于", "より多い", "초과", "보다 많은",
        "أكثر من", "से अधिक", "से ज़्यादा", "এর বেশি", "มากกว่า", "nhiều hơn", "lebih dari", "higit sa", "zaidi ya",
    ),
    "exactly": (
        "exactly", "equal to", "=", "==", "exactamente", "exactement", "genau", "esattamente", "exatamente", "precies", "ровно",
        "точно", "dokładnie", "tam olarak", "正好", "恰好", "ちょうど", "정확히", "بالضبط", "ठीक", "ঠিক", "พอดี", "chính xác", "đúng",
        "tepat", "persis", "eksakto", "hasa", "kamili",
    ),
}  # fmt: skip
"""Relations as files and their translations write them. IFEval has the first two."""
_RELATIONS: dict[str, Relation] = {
    "at least": lambda count, number: count >= number,
    _LESS: lambda count, number: count < number,
    "at most": lambda count, number: count <= number,
    "more than": lambda count, number: count > number,
    "exactly": lambda count, number: count == number,
}
_RELATION_OF = {said: name for name, words in _SAID.items() for said in words}


@dataclass(frozen=True)
class Arguments:
    """The kwargs of one instruction. Every reader raises UnverifiedError where its argument is missing or does not fit."""

    given: Mapping[str, Any]

    @staticmethod
    def of(kwargs: Any) -> Arguments:
        """kwargs as a file has them: an object, the same as a JSON text (as in Multi-IF), or null for none."""
        if isinstance(kwargs, str):
            try:
                kwargs = json.loads(kwargs) if kwargs.strip() else {}
            except (ValueError, RecursionError):
                raise UnverifiedError("kwargs are a text that is not JSON") from None
        if kwargs is None:
            return Arguments({})
        if not isinstance(kwargs, Mapping):
            raise UnverifiedError(f"kwargs are a {type(kwargs).__name__}, not an object")
        return Arguments(kwargs)

    def _present(self, name: str) -> Any:
        value = self.given.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            raise UnverifiedError(f"kwargs lack {name!r}")
        return value

    def number(self, name: str, *, least: int = 0) -> int:
        value = self._present(name)
        if isinstance(value, bool) or not isinstance(value, Real) or float(value) != float(value) // 1:
            raise UnverifiedError(f"kwargs: {name!r} is {_shown(value)}, not a whole number")
        if value < least:
            raise UnverifiedError(f"kwargs: {name!r} is {_shown(value)}, below {least}")
        return int(float(value))

    def text(self, name: str) -> str:
        value = self._present(name)
        if not isinstance(value, str):
            raise UnverifiedError(f"kwargs: {name!r} is {_shown(value)}, not a text")
        if not value.strip():
            raise UnverifiedError(f"kwargs: {name!r} is empty")
        return value.strip()

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; blanks around them, which translations left there, are not part of them."""
        value = self._present(name)
        values = value.tolist() if hasattr(value, "tolist") else value  # a list within a table is an array
        if not isinstance(values, (list, tuple)) or not all(isinstance(one, str) for one in values):
            raise UnverifiedError(f"kwargs: {name!r} is {_shown(value)}, not a list of texts")
        texts = tuple(one.strip() for one in values if one.strip())
        if not texts:
            raise UnverifiedError(f"kwargs: {name!r} is empty")
        return texts

    def relation(self, name: str = "relation") -> str:
        """`at least`, `less than`, `at most`, `more than` or `exactly`."""
        said = " ".join(self.text(name).casefold().replace("_", " ").split())
        if said not in _RELATION_OF:
            raise UnverifiedError(f"kwargs: {name!r} is {_shown(said)}, which is not a relation that is known")
        return _RELATION_OF[said]


@dataclass(frozen=True)
class Count:
    """How many there are: at least `least` and at most `most`, which are the same where counting is certain.

    why: they are not.
    """

    least: int
    most: int
    why: str = ""

    @staticmethod
    def of(number: int) -> Count:
        return Count(number, number)

    def __add__(self, other: Count) -> Count:
        return Count(self.least + other.least, self.most + other.most, self.why or other.why)

    def stands(self, relation: str, number: int, what: str) -> bool:
        """Whether the count stands in the relation to the number.

        Raises:
            UnverifiedError: it does for some of the possible counts only.

        >>> Count(2, 9).stands("at least", 2, "sentences"), Count(2, 9).stands("less than", 2, "sentences")
        (True, False)
        """
        low, high = _RELATIONS[relation](self.least, number), _RELATIONS[relation](self.most, number)
        is_between = relation == "exactly" and self.least < number < self.most
        if low != high or is_between:
            raise UnverifiedError(f"{what} cannot be counted exactly: {self.why}")
        return low


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
