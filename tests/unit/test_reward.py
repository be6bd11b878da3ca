"""Reward kinds, the random control, sample filters and diagnostics."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from icr_platform.annotation.config import AnnotateSettings
from icr_platform.annotation.diagnostics import length_correlation, reward_agreement, with_language_means
from icr_platform.annotation.filters import filter_samples
from icr_platform.annotation.part_scoring import implicit_reward
from icr_platform.core.visible_text import has_visible_character
from icr_platform.engines.scoring.reward_kinds import random_reward, scoring_instruction

PREFIX_SPANISH = (
    "Please answer the following instruction using only Spanish, "
    "unless explicitly instructed to respond in a different language.\n\n"
)


@pytest.mark.parametrize(
    ("kind", "language", "expected"),
    [
        ("cross-lingual", "es", PREFIX_SPANISH + "Say hi."),
        ("cross-lingual", "en", "Say hi."),
        ("multilingual", "es", "Di hola."),
        ("translate", "es", "Say hi."),
    ],
)
def test_instruction_of_a_kind(kind: str, language: str, expected: str) -> None:
    assert scoring_instruction(kind, language, "Di hola.", "Say hi.") == expected


def test_random_scores_no_text() -> None:
    with pytest.raises(ValueError, match="random"):
        scoring_instruction("random", "es", "Di hola.", "Say hi.")


def test_implicit_reward_is_beta_times_the_log_ratio() -> None:
    policy, reference = np.array([-10.0, -3.0, -np.inf, np.nan]), np.array([-12.0, -2.0, -np.inf, -1.0])
    np.testing.assert_allclose(implicit_reward(policy, reference, 0.1), [0.2, -0.1, np.nan, np.nan])


def test_random_reward_is_standard_normal_and_decided_by_its_key() -> None:
    draws = np.array([random_reward(42, "es", f"p{i}", i % 8) for i in range(20_000)])
    assert abs(draws.mean()) < 0.03
    assert abs(draws.std() - 1) < 0.03
    assert np.isfinite(draws).all()
    keys = [(42, "es", "1", 11), (42, "es", "11", 1), (43, "es", "1", 11), (42, "de", "1", 11)]
    assert len({random_reward(*key) for key in keys}) == 4
    assert random_reward(42, "es", "1", 0) == random_reward(42, "es", "1", 0)


def responses(rows: list[tuple[str, str, str, float]]) -> pa.Table:
    text, finish, detected, confidence = zip(*rows, strict=True)
    return pa.table(
        {
            "language": ["es"] * len(rows), "response": text, "finish_reason": finish,
            "token_count": [len(t) + 1 for t in text], "character_count": [len(t) for t in text],
            "detected_language": detected, "language_confidence": confidence,
        }
    )  # fmt: skip


ROWS = responses(
    [
        ("hola", "stop", "es", 0.9),
        (" \u200b\n", "length", "und", 0.0),
        ("hola, buen amigo mio", "length", "en", 0.9),
        ("hello, my good friend", "stop", "en", 0.9),
        ("hello, my good friend", "stop", "en", 0.4),
        ("?", "stop", "und", 1.0),
    ]
)


def test_first_filter_that_holds_gives_the_reason() -> None:
    reasons = [verdict.reason for verdict in filter_samples(ROWS, AnnotateSettings())]
    assert reasons == ["", "empty", "truncated", "wrong-language", "", ""]


@pytest.mark.parametrize(
    ("switched_off", "reasons"),
    [
        ("drop_empty", ["", "truncated", "truncated", "wrong-language", "", ""]),
        ("drop_truncated", ["", "empty", "wrong-language", "wrong-language", "", ""]),
        ("drop_wrong_language", ["", "empty", "truncated", "", "", ""]),
    ],
)
def test_each_filter_can_be_switched_off(switched_off: str, reasons: list[str]) -> None:
    settings = AnnotateSettings(**{switched_off: False})
    assert [verdict.reason for verdict in filter_samples(ROWS, settings)] == reasons


SINDHI = "عجائب گهر صبح جو نو بجي کلندو آهي ۽ رات جي ماني کان اڳ بند ٿيندو آهي."
ENGLISH = "A horse is an animal."


@pytest.mark.parametrize(
    ("asked", "detected", "text", "unknown", "dropped"),
    [
        ("es", "en", ENGLISH, (), True),
        ("es", "en", ENGLISH, None, True),
        ("es", "en", "A horse.", (), False),
        ("zh", "ja", "馬は動", (), False),
        ("zh", "ja", "馬は動物です", (), True),
        ("sd", "ur", SINDHI, ("sd",), False),
        ("sd", "en", ENGLISH, ("sd",), False),
        ("sd", "en", ENGLISH, (), True),  # an identifier that knows Sindhi
        ("sd", "ur", SINDHI, None, False),  # it may know Sindhi or not
        ("zu", "en", ENGLISH, None, False),
        ("sw", "en", ENGLISH, ("sd",), True),
        ("id", "ms", "Kuda adalah seekor haiwan.", (), False),
        ("hr", "sr", "Konj je domaća životinja.", None, False),
        ("no", "da", "Hesten er et stort dyr.", (), True),
        ("es", "und", ENGLISH, (), False),
    ],
)
def test_wrong_language_needs_a_language_that_can_be_told(
    asked: str, detected: str, text: str, unknown: tuple[str, ...] | None, dropped: bool
) -> None:
    rows = responses([(text, "stop", detected, 0.99)]).set_column(0, "language", [[asked]])
    reason = filter_samples(rows, AnnotateSettings(), unknown)[0].reason
    assert reason == ("wrong-language" if dropped else "")


def test_a_response_without_tokens_is_always_empty() -> None:
    row = responses([("", "stop", "und", 0.0)]).set_column(3, "token_count", [[0]])
    everything_off = AnnotateSettings(drop_empty=False, drop_truncated=False, drop_wrong_language=False)
    assert filter_samples(row, everything_off)[0].reason == "empty"


def test_visible_characters() -> None:
    assert all(has_visible_character(text) for text in ("a", " .", "\u0301", "ก", "🙂"))
    assert not any(has_visible_character(text) for text in ("", " \t\n", "\u200b\ufeff\u200d", "\u3000\u00a0", "\x00"))


def test_length_correlation_is_within_prompts() -> None:
    """Between prompts length and reward rise together, within each they fall: only the latter counts."""
    characters = np.array([[10.0, 20.0, 30.0], [110.0, 120.0, 130.0]])
    rewards = np.array([[3.0, 2.0, 1.0], [103.0, 102.0, 101.0]])
    assert length_correlation(rewards, characters) == pytest.approx(-1)
    rewards[0] = np.nan
    rewards[1, 0] = np.nan
    assert length_correlation(rewards, characters) == pytest.approx(-1)
    assert np.isnan(length_correlation(np.ones((2, 3)), characters))


def test_reward_agreement_against_loops() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 4, (30, 5)).astype(float), rng.integers(0, 4, (30, 5)).astype(float)
    first[3, 2] = second[7, 0] = np.nan
    outcomes = [
        (first[p, i] - first[p, j]) * (second[p, i] - second[p, j])
        for p in range(30)
        for i in range(5)
        for j in range(i)
    ]
    compared = [outcome for outcome in outcomes if outcome > 0 or outcome < 0]
    assert reward_agreement(first, second) == sum(outcome > 0 for outcome in compared) / len(compared)
    assert np.isnan(reward_agreement(np.ones((2, 2)), np.ones((2, 2))))


def test_means_are_over_the_languages_that_have_the_figure() -> None:
    metrics = with_language_means(
        {"alpha/es": 1.0, "alpha/de": 3.0, "margin/q10/es": 2.0, "margin/q10/de": np.nan}, ["es", "de"]
    )
    assert metrics == {
        "alpha/es": 1.0,
        "alpha/de": 3.0,
        "margin/q10/es": 2.0,
        "alpha/mean": 2.0,
        "margin/q10/mean": 2.0,
    }
