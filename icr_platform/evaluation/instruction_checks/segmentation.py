"""Words and sentences of any language, counted exactly where its writing shows them, and between bounds where it does not.

English has IFEval's definitions: a word is a run of letters, digits and underscores, and sentences are those that NLTK's Punkt finds,
here by its rules for abbreviations, initials, numbers and ellipses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import regex

from icr_platform.engines.segmentation.words import segmenter
from icr_platform.evaluation.instruction_checks.arguments import Count
from icr_platform.evaluation.instruction_checks.writing import UNSPACED

_ENGLISH_WORD = re.compile(r"\w+")
# Letters with their marks (which `re` takes for the ends of words), joiners and geresh within a word, and numbers as they are written.
_RUN = r"[\p{L}\p{M}\p{N}_\u200c\u200d\u0640·]+(?:[.,٫٬](?=\p{Nd})\p{Nd}+|[״׳](?=\p{L})\p{L}+)*"
_WORD = regex.compile(_RUN)
_APOSTROPHE_WORD = regex.compile(rf"{_RUN}(?:['’ʼ‘](?=\p{{L}}){_RUN})*")
_ELIDES = frozenset({"fr", "it", "ca", "oc", "lij", "vec", "scn", "fur", "lmo", "pms", "wa", "co"})
"""Languages in which an apostrophe stands between two words; in all others it is a letter, or joins a word's ending to it."""
_UNSPACED_RUN = re.compile(f"[{UNSPACED}]+")
_THAI = re.compile("[\u0e01-\u0e5b]")
_HAN_OR_KANA = re.compile(
    "[\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc\uff66-\uff9f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
_CHARACTERS = re.compile(
    r"\d\s*(?:个|個|多个|多|几)?\s*(?:汉字|漢字|中文字|字(?!母|节|典|幕|段|数组)|文字)|字数|字數|文字数"
)
"""How a Chinese or Japanese prompt says that characters are counted, which English calls words."""


def words_of(text: str, language: str, prompt: str = "") -> Count:
    """How many words a text has.

    Runs of scripts that put no spaces between words are divided by a library that knows the words of the language. Without one a run
    has at least one word, and at most as many as letters. In Chinese and Japanese characters are counted where the prompt says so,
    and a run of other letters or digits as one.

    >>> words_of("Ng'ombe wangu amelala.", "sw").most, words_of("L'ami d'Anna", "fr").most, words_of("আমি বাংলায় গান গাই।", "bn").most
    (3, 4, 4)
    >>> words_of("写一篇关于AI的文章", "zh", "请写至少 5 个字。").most
    9
    """
    if language == "en":
        return Count.of(sum(1 for _ in _ENGLISH_WORD.finditer(text)))
    pattern = _WORD if language in _ELIDES else _APOSTROPHE_WORD
    count = Count.of(sum(1 for _ in pattern.finditer(_UNSPACED_RUN.sub(" ", text))))
    if language in ("zh", "yue", "ja") and _CHARACTERS.search(prompt):
        return count + Count.of(sum(1 for _ in _HAN_OR_KANA.finditer(text)))
    return sum((_words_in(run, language) for run in _UNSPACED_RUN.findall(text)), start=count)


def _words_in(run: str, language: str) -> Count:
    letters = sum(1 for letter in run if letter.isalnum())
    found = segmenter(_language_of(run, language))
    if found.split is None:
        return Count(min(letters, 1), letters, found.why)
    return Count.of(sum(1 for word in found.split(run) if any(letter.isalnum() for letter in word)))


def _language_of(run: str, language: str) -> str:
    """The language whose words a run of unspaced letters has: that of the answer where it is written in them, else the script's own."""
    if re.search("[\u3041-\u30fa]", run):
        return "ja"
    if re.search("[\u4e00-\u9fff]", run):
        return language if language in ("zh", "yue", "ja") else "zh"
    return language if language in ("km", "lo", "my", "bo", "shn") or not _THAI.search(run) else "th"


_CLOSERS = "\"'”’»›)\\]」』】）》〉*_~`“"
# Marks that end a sentence wherever they stand: of Chinese and Japanese, Devanagari and its neighbours, Urdu, Ethiopic, Armenian, Khmer,
# Burmese, Tibetan, and question marks of Arabic. U+037E is the Greek one, which looks like a semicolon.
_ALWAYS = "፡。！？｡．؟۔।॥።፧፨។៕។։။།༎‼⁇⁈⁉\u037e"
_CLOSING = _CLOSERS.replace("\\", "")
_NO_TABLE_ROW = re.compile(r"^(?![ \t]*\|).+$", re.MULTILINE)
_TYPED_DANDA = re.compile("(?<=[\u0900-\u0dff]) ?[|]")
"""A bar for the danda, which many keyboards lack."""
_LETTER = regex.compile(r"[\p{L}\p{N}]")
_WINDOW = 80  # characters: abbreviations are shorter, and slices of a whole text would take its square in time
_END = re.compile(rf"(?:[{_ALWAYS[1:]}.!?…]|፡፡)+[{_CLOSERS}]*")
_ELLIPSES = re.compile(r"^(?:\.{2,}|…+|(?:\. ?){2,})$")
_ABBREVIATIONS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
    "en": "mr mrs ms dr prof gen col capt lt sgt st sen rep reps gov messrs adm maj jr sr inc ltd co corp cie bros cos vs chg dec feb jan "
        "aug oct nov sept sep mon tues wed thu fri sat ga tenn minn okla ariz ore ill conn calif wash wis mich mass fla ala kan ky colo va "
        "pa ct vt ft ave u.s u.k u.n u.s.a u.s.s.r d.c n.y n.j n.h n.c n.m s.c w.va l.a a.m p.m ph.d m.d a.d b.c e.g i.e cf fig no nos al",
        "de": "bzw usw z.b z d.h d u.a u s.o s.u o.ä o.g vgl evtl ggf ca etc dr prof hr fr nr str inkl exkl max min mio mrd tel abs art "
        "abb bspw sog allg geb gest jh jhd st ing dipl phil med rer nat hl usf i.d.r v.a u.u m.e bes engl dt zzgl abzgl mind jan feb "
        "mär apr jun jul aug sept okt nov dez mo di mi do fr sa so",
        "es": "sr sra srta sres dr dra d dña ud uds vd etc pág págs p.ej ej núm nº art cap vol fig av avda c.a a.c d.c ee.uu ee uu aprox "
        "prof ing lic gral cía s.a tel máx mín admón dpto izq dcha depto",
        "fr": "m mm mme mlle mlles dr pr me st ste etc cf p.ex ex env av j.-c c.-à-d éd chap vol fig n° no art p pp tél bd max min s.a r.-v "
        "ap apr janv févr juil sept oct nov déc",
        "it": "sig sigg sig.ra sig.na dott dott.ssa prof prof.ssa ing avv geom ecc es p.es pag pagg cap vol fig n art tel a.c d.c s.p.a "
        "s.r.l ca max min mons on",
        "pt": "sr sra srs srta dr dra prof profa etc ex p.ex pág págs cap vol fig nº n av r art tel a.c d.c ltda cia máx mín aprox eng ed",
        "nl": "dhr mevr mw dr prof ir ing bijv bv d.w.z enz etc o.a m.a.w ca nr blz vgl t.o.v i.p.v z.o.z jl evt incl excl max min tel",
        "ru": "т.е т т.д т.п т.к т.н и.о г гг в вв ул пр пл стр рис см ср др тыс млн млрд трлн руб коп напр обл р им св н.э д.э акад проф "
        "доц канд д-р г-н г-жа тел кв эт англ нем лат рус рр чел экз мин макс сек ч янв февр авг сент окт нояб дек",
        "uk": "т т.д т.п та ін див рис стор ст м р рр вул ім напр грн коп тис млн млрд проф акад обл тел св кв",
        "pl": "np itd itp m.in tzn tj dr prof mgr inż ul al pl r w ok godz min tys mln mld zł św ur zm nr str por tel pt tzw ww hab im",
        "cs": "např atd apod tj tzv dr mgr ing prof doc ul č r s str obr st sv kč tis mil mld tel min max cca pí p",
        "tr": "dr prof doç yrd vb vs örn bkz sn av cad sok mah no tel yy s sf çev min maks müh alb gen krş",
        "sv": "t.ex bl.a dvs osv m.m m.fl s.k f.d e.kr f.kr ca nr kl dr prof st tel resp inkl exkl",
        "da": "f.eks bl.a dvs osv m.m m.fl ca nr kl dr prof tel inkl ekskl pga mht evt",
        "no": "f.eks bl.a dvs osv m.m m.fl ca nr kl dr prof tlf inkl ekskl pga mht evt",
        "ar": "د م أ ص ج ق.م هـ",
        "hi": "डॉ श्री प्रो सं पृ",
        "bn": "ডা ড মো প্রো সং পৃ",
        "sw": "bw bi dk prof mf n.k k.m k.v dkt mhe",
        "vi": "tp ts gs pgs ths tt v.v",
        "id": "rp dr prof ir drs dra hj h jl no tgl dll dsb dst a.n u.p yth sdr",
        "el": "κ κα κκ δρ π.χ μ.χ κ.λπ κ.ά δηλ βλ σελ αρ τηλ χλμ",
        "sr": "dr prof npr itd tj tzv str br god",
    }.items()
}  # fmt: skip
_DOTTED_ORDINALS = frozenset(
    {"de", "da", "no", "nb", "nn", "fi", "et", "lv", "cs", "sk", "sl", "hr", "sr", "bs", "hu", "pl", "tr", "is"}
)
_STARTERS = frozenset(
    [
        "a",
        "according",
        "although",
        "among",
        "an",
        "and",
        "as",
        "at",
        "both",
        "but",
        "by",
        "despite",
        "each",
        "every",
        "for",
        "from",
        "he",
        "her",
        "his",
        "how",
        "however",
        "i",
        "if",
        "in",
        "indeed",
        "instead",
        "it",
        "its",
        "many",
        "meanwhile",
        "moreover",
        "most",
        "my",
        "nevertheless",
        "nonetheless",
        "on",
        "one",
        "or",
        "our",
        "separately",
        "she",
        "similarly",
        "since",
        "so",
        "some",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "though",
        "thus",
        "to",
        "under",
        "we",
        "what",
        "when",
        "where",
        "while",
        "who",
        "why",
        "with",
        "yet",
        "you",
        "your",
    ]
)
"""Words that begin a sentence where one follows an abbreviation: what follows otherwise is a name. Of English."""
_LAST = frozenset(
    {"etc", "usw", "т.д", "т.п", "др", "ecc", "itd", "itp", "osv", "enz", "atd", "vb", "dll", "κ.λπ", "v.v", "и.т.д"}
)
"""Abbreviations that end what they belong to: a capital letter after them begins a sentence."""
_EVERYWHERE = frozenset({"mr", "mrs", "dr", "prof", "vs", "etc"})


def sentences_of(text: str, language: str) -> Count:
    """How many sentences a text has.

    Thai, Lao and their neighbours have no mark for the end of a sentence: a space or a line's end may be one, and every other mark
    for the end surely is.

    >>> sentences_of("Dr. Ruiz paid 3.5 euros. Why? She was late...", "en").most, sentences_of("我来了。你呢？好！", "zh").most
    (3, 3)
    >>> sentences_of("ฉันไปตลาด แล้วกลับบ้าน", "th")
    Count(least=1, most=2, why='no mark ends a sentence in this script')
    """
    if language == "el":
        text = text.replace(";", "?")
    text = _NO_TABLE_ROW.sub(lambda line: _TYPED_DANDA.sub("।", line.group()), text)
    ends = list(_ends(text, language))
    last = ends[-1] if ends else 0
    certain = len(ends) + bool(_LETTER.search(text, last))
    if _UNMARKED.search(text):
        pieces = sum(1 for piece in re.split(rf"\s+|[{_ALWAYS}!?]+", text) if _LETTER.search(piece))
        return Count(certain, max(certain, pieces), "no mark ends a sentence in this script")
    return Count.of(certain)


_UNMARKED = re.compile("[\u0e01-\u0eff\u19e0-\u19ff\u1a20-\u1aad]")
"""Thai, Lao and Tai letters."""


def _ends(text: str, language: str) -> Iterator[int]:
    """Where sentences end, after the mark and what closes with it."""
    last = searched = 0
    has_letter = False  # since the last end
    # Punkt ends English sentences before small letters, too; elsewhere they go on, unless the whole text is in small letters.
    goes_on_small = language != "en" and text.lower() != text
    for found in _END.finditer(text):
        mark, after = found.group().rstrip(_CLOSING), text[found.end() : found.end() + _WINDOW]
        has_letter = has_letter or bool(_LETTER.search(text, searched, found.start()))
        searched = found.end()
        if not mark or not has_letter:
            continue
        following = after.lstrip()
        end = found.end()
        if not set(mark).isdisjoint(_ALWAYS):
            # A dot within full-width digits, and a question that is quoted within a sentence: 「行くの？」と言った。
            is_inside = (mark == "．" and following[:1].isdigit()) or (
                language == "ja" and found.group() != mark and following[:1] in tuple("とっはがをにのでも、")
            )
        elif (after and not (after[0].isspace() or _is_unspaced(after[0]))) or (
            goes_on_small and following[:1].islower()
        ):
            is_inside = True
        elif _ELLIPSES.match(mark):
            is_inside = bool(following) and (not _starts_a_sentence(following) or following == after)
        else:
            before = text[max(last, found.start() - _WINDOW) : found.start()]
            is_inside = (
                mark[0] == "."
                and bool(following)
                and _goes_on(before, after[: len(after) - len(following)], following, language)
            )
        if not is_inside:
            yield end
            last, has_letter = end, False


def _is_unspaced(letter: str) -> bool:
    return bool(_UNSPACED_RUN.match(letter))


def _starts_a_sentence(following: str) -> bool:
    first = following.lstrip(_CLOSING + "([¿¡«„“-–—•*#> ")[:1]
    return first.isupper() or not first.isalpha() or first.lower() == first.upper()


def _goes_on(before: str, gap: str, following: str, language: str) -> bool:
    """Whether the dot after `before` is that of an abbreviation, an initial or a number, and `following`, after the gap, is of the
    same sentence."""
    word = re.split(r"[\s(\[\"'«“„¿¡*_/—–-]", before)[-1]
    if word.isdigit():
        if language == "en":  # Punkt takes the number of an item for a sentence, but before a small letter
            return following[:1].islower() or following[:1] in tuple(",;:.!?")
        # The number of an item, and German "am 3. Mai".
        is_first = before[: -len(word)].rpartition("\n")[2].strip(" \t*#>-") == ""
        return is_first or (language in _DOTTED_ORDINALS and len(word) <= 2)
    if _UNMARKED.match(word[-1:]):
        return True  # Thai has dots in abbreviations only: พ.ศ., กทม.
    known = word.lower()
    if (
        len(word) > 1
        and word.upper() == word.lower()
        and not _UNSPACED_RUN.search(word)
        and len(regex.findall(r"\X", word)) == 1
    ):
        return True  # an initial of a script without case: కె. విశ్వనాథ్
    # An initial, and a part of т. е. or z. B.
    is_initial = len(word) == 1 and (
        (word.isupper() and not (language == "en" and word == "I")) or following[:1].islower()
    )
    if not is_initial and known not in _abbreviations(language):
        return bool(regex.search(r"\p{L}\.\p{L}$", word)) and following[:1].islower()
    if "\n" in gap or (known in _LAST and following[:1].isupper()):
        return False
    if language != "en":
        return True
    next_word = regex.match(r"\p{L}*", following)
    return next_word is None or not next_word[0][:1].isupper() or next_word[0].lower() not in _STARTERS


@cache
def _abbreviations(language: str) -> frozenset[str]:
    return _ABBREVIATIONS.get(language, frozenset()) | _EVERYWHERE
