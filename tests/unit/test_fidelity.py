from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from icr_platform.evaluation.fidelity import WINDOW, confusion_table, fidelity, looping_rate, repeated_share


def naive_repeated_share(text: str) -> float:
    windows = [text[i : i + WINDOW] for i in range(len(text) - WINDOW + 1)]
    earlier = sum(window in windows[:place] for place, window in enumerate(windows))
    return earlier / len(windows) if windows else 0.0


@given(st.text(alphabet="ab ", max_size=90))
def test_repeated_share_counts_windows_seen_before(text: str) -> None:
    assert math.isclose(repeated_share(text), naive_repeated_share(text))


@given(st.lists(st.tuples(st.sampled_from(["en", "es", "zh"]), st.sampled_from(["en", "es", "zh", "und"]))))
def test_the_confusion_table_counts_every_output_once(pairs: list[tuple[str, str]]) -> None:
    cells = confusion_table(pairs)
    assert Counter({(cell.asked, cell.detected): cell.outputs for cell in cells}) == Counter(pairs)
    for code in {asked for asked, _ in pairs}:
        own = [cell for cell in cells if cell.asked == code]
        assert math.isclose(sum(cell.share for cell in own), 100.0)
        right = sum(cell.share for cell in own if cell.detected == code)
        assert math.isclose(right, fidelity(code, [detected for asked, detected in pairs if asked == code]))


def test_loops_are_found_in_languages_without_spaces() -> None:
    loop, plain = (
        "春天来了，花开了。" * 12,
        "春天来了，花开了，鸟儿在树上唱歌，孩子们在公园里奔跑，老人们坐在长椅上晒太阳。",
    )
    assert looping_rate([repeated_share(loop), repeated_share(plain)]) == 50.0
