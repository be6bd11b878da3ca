"""Sentences of every script, and corruptions of real and of awkward outputs, against tables written by hand."""

from __future__ import annotations

import itertools
import unicodedata
from collections import Counter

import pytest

from icr_platform.evaluation.corruptions import (
    CORRUPTIONS,
    IDENTICAL,
    LOOPS_ALREADY,
    NO_NUMBER,
    NO_OTHER_LANGUAGE,
    NO_OTHER_PROMPT,
    NO_PROSE,
    ONE_SENTENCE,
    ONLY_A_LIST,
    REFUSALS,
    TOO_SHORT,
    TRUNCATED,
    WRONG_LANGUAGE,
    Corruptions,
    GivenOutput,
    corrupt,
)
from icr_platform.evaluation.sentences import sentences

SENTENCES = [
    ("en", "Dr. Smith paid $3.50 to J. R. Brown. Really? Yes!", ["Dr. Smith paid $3.50 to J. R. Brown.", "Really?", "Yes!"]),
    ("en", 'He said "Stop." Then he left...  and came back.', ['He said "Stop."', "Then he left...  and came back."]),
    ("en", "See https://a.b/c.d?e=f. G and `x. Y` end. Ok", ["See https://a.b/c.d?e=f. G and `x. Y` end.", "Ok"]),
    ("de", "Am 3. Oktober kam z. B. Frau Dr. Meier. Sie blieb.", ["Am 3. Oktober kam z. B. Frau Dr. Meier.", "Sie blieb."]),
    ("es", "¿Qué hora es? ¡Tarde! El Sr. Paz duerme.", ["¿Qué hora es?", "¡Tarde!", "El Sr. Paz duerme."]),
    ("fr", "Vraiment ? Oui ! M. Petit le dit.", ["Vraiment ?", "Oui !", "M. Petit le dit."]),
    ("ru", "Родился в 1990 г. в Москве, т. е. давно. Вырос.", ["Родился в 1990 г. в Москве, т. е. давно.", "Вырос."]),
    ("el", "Τι ώρα είναι; Είναι αργά.", ["Τι ώρα είναι;", "Είναι αργά."]),
    ("zh", "你好。今天3.5度！“走吧。”他说", ["你好。", "今天3.5度！", "“走吧。”", "他说"]),
    ("zh", "真的?是的!好", ["真的?", "是的!", "好"]),
    ("ja", "これは本です。「はい。」と言った。本当？", ["これは本です。", "「はい。」", "と言った。", "本当？"]),
    ("ko", "저는 학생입니다. 당신은요? 네.", ["저는 학생입니다.", "당신은요?", "네."]),
    ("hi", "यह एक किताब है। क्या? हाँ।", ["यह एक किताब है।", "क्या?", "हाँ।"]),
    ("hi", "यह किताब है | क्या ? हाँ |", ["यह किताब है |", "क्या ?", "हाँ |"]),
    ("hi", "| क | ख |", ["| क | ख |"]),
    ("es", "En EE. UU. vive Ana. Sí.", ["En EE. UU. vive Ana.", "Sí."]),
    ("bn", "এটি একটি বই। তাই? হ্যাঁ!", ["এটি একটি বই।", "তাই?", "হ্যাঁ!"]),
    ("ar", "هذا كتاب. ما هذا؟ نعم!", ["هذا كتاب.", "ما هذا؟", "نعم!"]),
    ("ur", "یہ کتاب ہے۔ کیا؟ ہاں۔", ["یہ کتاب ہے۔", "کیا؟", "ہاں۔"]),
    ("am", "ይህ መጽሐፍ ነው። አዎ።", ["ይህ መጽሐፍ ነው።", "አዎ።"]),
    ("hy", "Սա գիրք է։ Այո։", ["Սա գիրք է։", "Այո։"]),
    ("my", "ဒါစာအုပ်ပါ။ ဟုတ်ကဲ့။", ["ဒါစာအုပ်ပါ။", "ဟုတ်ကဲ့။"]),
    ("th", "ประเทศไทยอยู่ในเอเชียตะวันออกเฉียงใต้ เมืองหลวงคือกรุงเทพ", ["ประเทศไทยอยู่ในเอเชียตะวันออกเฉียงใต้", "เมืองหลวงคือกรุงเทพ"]),
    ("th", "คุณ สมชาย ใจดี", ["คุณ สมชาย ใจดี"]),
    ("sw", "Habari yako? Nzuri sana. Asante.", ["Habari yako?", "Nzuri sana.", "Asante."]),
    ("en", "# Title\n\n1. One. Two.\n- **Three**: x\n\n2) Four.", ["Title", "One.", "Two.", "**Three**: x", "Four."]),
    ("en", "Run:\n```py\na = 1. b\nc = 2\n```\nDone.", ["Run:", "```py\na = 1. b\nc = 2\n```", "Done."]),
    ("en", "~~~\nnever. Closed", ["~~~\nnever. Closed"]),
    ("en", "\r\n One.\r\n\tTwo.\u2028Three.  ", ["One.", "Two.", "Three."]),
    ("en", "", []),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text", "expected"), SENTENCES)
def test_sentences_of_every_script(language: str, text: str, expected: list[str]) -> None:
    spans = sentences(text, language)
    assert [text[span.start : span.end] for span in spans] == expected
    assert all(one.end <= other.start for one, other in itertools.pairwise(spans))


def made(text: str, corruption: str, language: str = "en", seed: int = 0) -> str:
    """What one corruption makes of a text: the rejected text, or why it cannot be applied."""
    result = corrupt([GivenOutput(language, "1", text)], seed, [corruption])
    return result.pairs[0].rejected if result.pairs else result.refusals[0].reason


NUMBERS = [  # text, language, the digits that may have changed ('' for none)
    ("It has 24 legs.", "en", "24"),
    ("1. Wash.\n2. Dry for 40 minutes.", "en", "40"),
    ("**3)** GPT4 and COVID-19 and H2O cost 5 euros.", "en", "5"),
    ("Three men, twenty-two boats, Louis XIV.", "en", ""),
    ("See https://a.b/2024 and `x = 3` at 7 pm.", "en", "7"),
    ("```\nx = 12\n```\nIt takes 0.5 s.", "en", "0.5"),
    ("Es kostet 1.234,50 Euro.", "de", "1.234,50"),
    ("1️⃣ Premier 2️⃣ Second", "fr", ""),
    ("३. यह १९४७ में हुआ।", "hi", "१९४७"),
    ("১। এটি ১৯৭১ সালে হয়।", "bn", "১৯৭১"),
    ("حدث ذلك عام ١٩٧٣.", "ar", "١٩٧٣"),
    ("در سال ۱۳۵۷ بود.", "fa", "۱۳۵۷"),
    ("เกิดในปี๒๕๔๐ครับ", "th", "๒๕๔๐"),
    ("今年是２０２４年。", "zh", "２０２４"),
    ("三十年前有5个人。", "zh", "5"),
    ("第3章は12ページです。", "ja", "3 12"),
    ("Score: 0 to nil", "en", "0"),
    ("(12) and [13] stay out at the start only of lines: 14", "en", "13 14"),
    ("- 2 eggs\n- 300 g flour", "en", "2 300"),
    ("No digits. ² and ½ and Ⅳ are none.", "en", ""),
]


@pytest.mark.parametrize(("text", "language", "changeable"), NUMBERS)
def test_a_number_changes_in_its_script_and_nothing_else_does(text: str, language: str, changeable: str) -> None:
    for seed in range(8):
        rejected = made(text, "number", language, seed)
        if not changeable:
            assert rejected == NO_NUMBER
            continue
        (place,) = [index for index, (one, other) in enumerate(zip(text, rejected, strict=True)) if one != other]
        starts = {text.index(number): number for number in changeable.split()}
        assert any(start <= place < start + len(number) for start, number in starts.items())
        assert unicodedata.digit(rejected[place]) not in (0, unicodedata.digit(text[place]))
        assert unicodedata.name(rejected[place]).rpartition(" ")[0] == unicodedata.name(text[place]).rpartition(" ")[0]


REFUSED = [
    ("shuffled", "Only one sentence here.", "en", ONE_SENTENCE),
    ("shuffled", "- apples\n- pears\n- plums", "en", ONLY_A_LIST),
    ("shuffled", "Apples\nPears\nPlums", "en", ONLY_A_LIST),
    ("shuffled", "同じ。同じ。", "ja", IDENTICAL),
    ("shuffled", "One sentence.\n\n---", "en", ONE_SENTENCE),
    ("shuffled", "```\na = 1\n```", "en", NO_PROSE),
    ("cut", "Yes, Paris.", "en", TOO_SHORT),
    ("cut", "是的。", "zh", TOO_SHORT),
    ("cut", "```\nprint('a long line of code, not prose')\n```", "en", NO_PROSE),
    ("cut", "👍", "en", NO_PROSE),
    ("looped", "This goes on and on again. " * 9, "en", LOOPS_ALREADY),
    ("looped", "~~~\nx\n~~~", "en", NO_PROSE),
    ("other-prompt", "Alone.", "en", NO_OTHER_PROMPT),
    ("other-language", "Alone.", "en", NO_OTHER_LANGUAGE),
    ("number", "Nothing to count.", "en", NO_NUMBER),
    ("cut", " \n", "en", "empty"),
]


@pytest.mark.parametrize(("corruption", "text", "language", "reason"), REFUSED)
def test_what_cannot_be_corrupted_says_why(corruption: str, text: str, language: str, reason: str) -> None:
    assert made(text, corruption, language) == reason
    assert reason in REFUSALS


CUTS = [
    ("en", "It rains. The quick brown fox jumps over the lazy dog near the river. It ends."),
    ("ru", "Идёт дождь. Быстрая лиса прыгает через ленивую собаку у реки. Конец."),
    ("zh", "下雨了。敏捷的棕色狐狸跳过了河边那只懒惰的狗然后跑掉。结束了。"),
    ("ja", "雨だ。素早い茶色の狐が川のそばの怠け者の犬を飛び越えました。終わり。"),
    ("th", "ประเทศไทยตั้งอยู่ในภูมิภาคเอเชียตะวันออกเฉียงใต้และมีกรุงเทพเป็นเมืองหลวง"),
    ("hi", "बारिश हो रही है। तेज़ भूरी लोमड़ी नदी के पास आलसी कुत्ते के ऊपर कूदती है। अंत।"),
    ("bn", "বৃষ্টি হচ্ছে। দ্রুত বাদামী শিয়াল নদীর কাছে অলস কুকুরের উপর লাফ দেয়। শেষ।"),
    ("ar", "إنها تمطر. يقفز الثعلب البني السريع فوق الكلب الكسول قرب النهر. انتهى."),
    ("ko", "비가 온다. 빠른 갈색 여우가 강가의 게으른 개를 뛰어넘어 갔습니다. 끝."),
]


@pytest.mark.parametrize(("language", "text"), CUTS)
def test_a_cut_is_within_a_sentence_and_between_words_where_there_are_spaces(language: str, text: str) -> None:
    ends = {span.end for span in sentences(text, language)}
    for seed in range(8):
        rejected = made(text, "cut", language, seed)
        assert text.startswith(rejected)
        assert len(rejected) not in ends
        assert 0.15 < len(rejected) / len(text) < 0.85
        assert unicodedata.category(text[len(rejected)])[0] != "M", "no letter loses its vowel sign"
        if language not in ("zh", "ja", "th"):
            assert text[len(rejected)].isspace()


@pytest.mark.parametrize(("language", "text"), CUTS)
def test_a_loop_begins_as_the_output_and_is_no_shorter(language: str, text: str) -> None:
    looped = made(text, "looped", language)
    said = [looped[span.start : span.end] for span in sentences(looped, language)]
    assert text.startswith(said[0])
    assert len(looped) >= len(text)
    assert len(said) >= 3
    assert len(set(said[-4:])) == 1
    assert ("。 " in looped) is False, "scripts without spaces between sentences loop without them"


def test_shuffled_sentences_all_move_and_lists_code_and_layout_stay() -> None:
    text = "# A plan!\n\nFirst do this. Then that!\n\n1. Wash it.\n2. Dry it.\n\n```\ncode. Here\n```\n\nDone?"
    for seed in range(8):
        rejected = made(text, "shuffled", seed=seed)
        before, after = (
            [part[span.start : span.end] for span in sentences(part, "en") if not span.is_code]
            for part in (text, rejected)
        )
        assert Counter(before) == Counter(after)
        assert Counter(text) == Counter(rejected)
        assert all(one != other for one, other in zip(before, after, strict=True))
        assert "\n\n1. " in rejected
        assert "\n2. " in rejected
        assert "```\ncode. Here\n```" in rejected


def corpus() -> list[GivenOutput]:
    return [
        GivenOutput(
            "en", "1", "Paris is the capital of France. It has 2 million people.", instruction="Capital of France?"
        ),
        GivenOutput("es", "1", "París es la capital. Tiene 2 millones.", instruction="¿Capital de Francia?"),
        GivenOutput("en", "2", "Paris.", instruction="Capital  of France?\n"),
        GivenOutput("en", "3", "Cats sleep all day. They purr.", instruction="What do cats do?"),
        GivenOutput("en", "4", "Hola, buenos días.", instruction="Say good morning in Spanish.", detected="es"),
        GivenOutput("es", "4", "Hola, buenos días.", instruction="Di buenos días en español.", detected="es"),
        GivenOutput("en", "5", "This one was cut at the lim", instruction="Go on.", is_cut=True),
        GivenOutput("nn", "6", "Eg bur i Noreg no.", instruction="Kvar?"),
        GivenOutput("nb", "6", "Jeg bor i Norge nå.", instruction="Hvor?"),
    ]


def outcome(result: Corruptions, language: str, prompt_id: str, corruption: str) -> str:
    key = (language, prompt_id, 0, corruption)
    (found,) = [pair.rejected for pair in result.pairs if pair[:4] == key] + [
        refusal.reason for refusal in result.refusals if refusal[:4] == key
    ]
    return found


@pytest.mark.parametrize(
    ("language", "prompt_id", "corruption", "expected"),
    [
        # Not prompt 2, which asks the same in other space; not 4, which is Spanish; not 5, which is cut.
        ("en", "1", "other-prompt", "Cats sleep all day. They purr."),
        ("es", "1", "other-prompt", "Hola, buenos días."),
        ("en", "1", "other-language", "París es la capital. Tiene 2 millones."),
        ("es", "1", "other-language", "Paris is the capital of France. It has 2 million people."),
        ("en", "3", "other-language", NO_OTHER_LANGUAGE),
        ("en", "4", "other-language", WRONG_LANGUAGE),
        ("es", "4", "other-language", NO_OTHER_LANGUAGE),
        ("en", "5", "cut", TRUNCATED),
        ("en", "5", "other-prompt", TRUNCATED),
        ("nn", "6", "other-language", NO_OTHER_LANGUAGE),
    ],
)
def test_other_answers_are_taken_only_where_they_are_wrong(
    language: str, prompt_id: str, corruption: str, expected: str
) -> None:
    assert outcome(corrupt(corpus(), 0), language, prompt_id, corruption) == expected


def test_every_output_and_corruption_is_a_pair_or_a_refusal_and_no_pair_is_of_equals() -> None:
    outputs = corpus() + [GivenOutput(language, "t", text) for language, text, _ in SENTENCES]
    outputs += [GivenOutput(language, "c", text) for language, text in CUTS]
    for seed in range(4):
        result = corrupt(outputs, seed)
        assert len(result.pairs) + len(result.refusals) == len(outputs) * len(CORRUPTIONS)
        assert all(pair.chosen.split() != pair.rejected.split() for pair in result.pairs)
        assert {pair.corruption for pair in result.pairs} == set(CORRUPTIONS)
        assert {row.reason for row in result.refusals} <= set(REFUSALS)


def test_pairs_depend_on_seed_and_key_not_on_order_or_company() -> None:
    outputs = corpus()
    whole, again, other = corrupt(outputs, 0), corrupt(outputs[::-1], 0), corrupt(outputs, 1)
    assert set(whole.pairs) == set(again.pairs) != set(other.pairs)
    alone = corrupt(outputs[:1], 0, ["cut", "shuffled", "looped", "number"])
    assert set(alone.pairs) <= set(whole.pairs)
    assert len(alone.pairs) == 4
