"""The table of keys: each sign and place is one key's, on every keyboard that the tests know."""

from __future__ import annotations

import json

import pytest

from tests.support.keyboards import KEYBOARDS
from ui.pages.keys import KEYS, REASON_KEYS, keys_json
from ui.review.verdicts import CHOICES, REASONS


def test_every_sign_and_place_is_one_keys() -> None:
    for found in ([key.sign for key in KEYS], [key.place for key in KEYS]):
        assert len(found) == len(set(found)), "two keys would press one thing or the other, by what the page has"
    assert list(REASON_KEYS) == list(REASONS)
    pressed = {key.target for key in KEYS}
    assert {"#key-1", "#key-2", "#key-3", "#key-4", "#key-s", "#key-z"} <= pressed
    assert len(CHOICES) - 1 == 5, "a choice more needs a key"


@pytest.mark.parametrize("layout", KEYBOARDS)
def test_no_key_means_two_things(layout: str) -> None:
    """What is printed on a key wins over its place, so that a place whose print is another key's sign would be lost."""
    printed, signs = KEYBOARDS[layout], {key.sign for key in KEYS}
    for key in KEYS:
        if key.place in printed and printed[key.place] != key.sign:
            assert printed[key.place] not in signs, (key.place, printed[key.place])


def test_the_table_ends_no_script() -> None:
    assert "<" not in keys_json()
    assert [key["sign"] for key in json.loads(keys_json())] == [key.sign for key in KEYS]
