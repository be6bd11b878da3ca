"""AlpacaEval 2's length-controlled win rate, restated from its published algorithm with scikit-learn, and a small fixture of it.

    python -m tests.support.alpaca_eval_restated            # computes what the fixture expects and compares it with the file
    python -m tests.support.alpaca_eval_restated --write    # draws the judgments anew and writes all three files

Nothing of `icr_platform` is used here, so that agreement means something. The algorithm is `length_controlled_v1` of
tatsu-lab/alpaca_eval (`src/alpaca_eval/metrics/glm_winrate.py`; arXiv 2404.04475):
- features `tanh(std_delta_len) + instruction_difficulty + not_gamed_baseline`, without an intercept, where `std_delta_len` is the
  length of the reference output less the model's, divided by its sample standard deviation;
- trained on two gamed baselines as well, whose rows weigh 0.2 / 2 and have 0 in the last column;
- a soft label p is two rows, one of label 1 with weight p and one of label 0 with weight 1 - p;
- an L1 penalty, C chosen of 10 values by 5-fold GroupKFold with a row's two copies in one group, on the mean log loss;
- the win rate is the mean prediction at equal lengths, its standard error that of a mean over prompts.

The fixture is synthetic: three models of different strength and verbosity, whose judge answers as a confident judge does, near 0
and 1, with some ties and some failures. Files: `judgments.csv`, `anchors.csv` and `expected.csv` in `alpaca_eval_fixture/`.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

FOLDER = Path(__file__).parent / "alpaca_eval_fixture"
PROMPTS = 160
STRENGTHS = np.logspace(-4, 4, 10)
"""Values of C that cross-validation chooses among: scikit-learn's own for `Cs=10`."""
FIXED = 10.0


class Model(NamedTuple):
    """How a synthetic model answers. skill: log-odds at equal lengths; verbosity: mean of log(length / reference length)."""

    name: str
    skill: float
    difficulty: float
    verbosity: float


MODELS = (
    Model("strong and verbose", 0.6, 0.6, 0.5),
    Model("equal and short", 0.0, -0.5, -0.6),
    Model("weak", -4.0, 0.9, -1.5),
)


class Fit(NamedTuple):
    """Win rate and standard error in percent, and the coefficients of length, difficulty and model."""

    win_rate: float
    standard_error: float
    C: float
    length_coefficient: float
    difficulty_coefficient: float
    model_coefficient: float


def restated(judgments: pd.DataFrame, anchors: pd.DataFrame, C: float | None) -> Fit:
    """The length-controlled win rate of one model's judgments; C None: chosen by cross-validation."""
    delta = (judgments["reference_length"] - judgments["candidate_length"]).to_numpy(dtype=float)
    judged = judgments["preference"].notna().to_numpy()
    # AlpacaEval standardises over all prompts; here no failed one is among them, as in its published annotations.
    std_delta_len = delta[judged] / delta[judged].std(ddof=1)
    difficulty = judgments["instruction_difficulty"].to_numpy()[judged]
    own = np.column_stack([np.tanh(std_delta_len), difficulty, np.ones(judged.sum())])
    gamed = np.column_stack(
        [np.tanh(anchors["std_delta_len"]), anchors["instruction_difficulty"], np.zeros(len(anchors))]
    )
    features = np.vstack([gamed, own])
    labels = np.concatenate([anchors["preference"], judgments["preference"].to_numpy()[judged]])
    weights = np.concatenate([np.full(len(anchors), 0.2 / 2), np.ones(len(own))])
    strength = C if C is not None else _cross_validated(features, labels, weights)
    coefficients = _coefficients(features, labels, weights, strength)
    at_equal_length = 1 / (1 + np.exp(-(own[:, 1:] @ coefficients[1:])))
    standard_error = at_equal_length.std(ddof=1) / np.sqrt(len(own))
    return Fit(100 * float(at_equal_length.mean()), 100 * float(standard_error), float(strength), *coefficients)


def _coefficients(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, C: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    regression = LogisticRegression(
        penalty="l1", C=C, solver="liblinear", fit_intercept=False, tol=1e-9, max_iter=100_000, random_state=123
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn renames `penalty`; versions before 1.8 need it
        regression.fit(
            np.vstack([features, features]),
            np.repeat([1, 0], len(labels)),
            sample_weight=np.concatenate([weights * labels, weights * (1 - labels)]),
        )
    return np.asarray(regression.coef_[0])


def _cross_validated(features: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    from sklearn.model_selection import GroupKFold

    groups = np.tile(np.arange(len(labels)), 2)
    doubled = np.vstack([features, features])
    losses = np.zeros((5, len(STRENGTHS)))
    for fold, (train, test) in enumerate(GroupKFold(n_splits=5).split(doubled, groups=groups)):
        kept, held_out = np.unique(groups[train]), np.unique(groups[test])
        for place, C in enumerate(STRENGTHS):
            coefficients = _coefficients(features[kept], labels[kept], weights[kept], C)
            predicted = 1 / (1 + np.exp(-(features[held_out] @ coefficients)))
            predicted = np.clip(predicted, 1e-15, 1 - 1e-15)
            soft = labels[held_out]
            loss = -(soft * np.log(predicted) + (1 - soft) * np.log(1 - predicted))
            losses[fold, place] = (weights[held_out] * loss).mean()
    return float(STRENGTHS[losses.mean(axis=0).argmin()])


def drawn() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judgments of all models, and anchors: a verbose and a concise version of the reference."""
    generator = np.random.default_rng(2404_04475)
    difficulty = generator.normal(0, 0.6, PROMPTS).round(6)
    difficulty[0] = 0.0  # as AlpacaEval's first instruction
    reference = generator.lognormal(7.3, 0.6, PROMPTS).astype(int) + 1

    def preferences(log_odds: np.ndarray) -> np.ndarray:
        # Log-odds as a judge's log-probabilities give them: spread wide, so that most preferences are near 0 or 1.
        return (1 / (1 + np.exp(-(log_odds + generator.logistic(0, 1, PROMPTS)) * 4))).round(7)

    rows = []
    for model in MODELS:
        length = (reference * np.exp(model.verbosity + generator.normal(0, 0.5, PROMPTS))).astype(int) + 1
        delta = reference - length
        t = np.tanh(delta / delta.std(ddof=1))
        preference = preferences(model.skill + model.difficulty * difficulty - 1.1 * t)
        preference[generator.random(PROMPTS) < 0.03] = 0.5
        preference[generator.random(PROMPTS) < 0.03] = np.nan
        rows.append(
            pd.DataFrame(
                {
                    "model": model.name, "index": np.arange(PROMPTS), "reference_length": reference,
                    "candidate_length": length, "preference": preference, "instruction_difficulty": difficulty,
                }
            )
        )  # fmt: skip
    anchors = []
    for name, factor in (("verbose", 0.5), ("concise", -1.2)):
        delta = reference - (reference * np.exp(factor + generator.normal(0, 0.3, PROMPTS)))
        std_delta_len = (delta / delta.std(ddof=1)).round(6)
        preference = preferences(-0.9 * np.tanh(std_delta_len))
        anchors.append(
            pd.DataFrame(
                {
                    "model": name, "preference": preference, "std_delta_len": std_delta_len,
                    "instruction_difficulty": difficulty,
                }
            )
        )  # fmt: skip
    return pd.concat(rows, ignore_index=True), pd.concat(anchors, ignore_index=True)


def expected(judgments: pd.DataFrame, anchors: pd.DataFrame) -> pd.DataFrame:
    """A row per model and choice of C: plain win rate, standard error and discrete win rate, and the length-controlled fit."""
    rows = []
    for model, of_model in judgments.groupby("model", sort=False):
        preference: Any = of_model["preference"].dropna()
        wins = (preference > 0.5) + 0.5 * (preference == 0.5)
        plain = {
            "plain_win_rate": 100 * preference.mean(),
            "plain_standard_error": 100 * preference.sem(),
            "discrete_win_rate": 100 * wins.mean(),
        }
        for choice in ("fixed", "cv"):
            fit = restated(of_model, anchors, FIXED if choice == "fixed" else None)
            rows.append({"model": model, "choice": choice, **plain, **fit._asdict()})
    return pd.DataFrame(rows)


def read() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Judgments, anchors and expected figures of the fixture."""
    judgments, anchors, figures = (pd.read_csv(FOLDER / f"{name}.csv") for name in ("judgments", "anchors", "expected"))
    return judgments, anchors, figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the files instead of comparing with them")
    if parser.parse_args().write:
        FOLDER.mkdir(exist_ok=True)
        for name, table in zip(("judgments", "anchors"), drawn(), strict=True):
            table.to_csv(FOLDER / f"{name}.csv", index=False)
        judgments, anchors = (pd.read_csv(FOLDER / f"{name}.csv") for name in ("judgments", "anchors"))
        expected(judgments, anchors).round(9).to_csv(FOLDER / "expected.csv", index=False)
        return
    judgments, anchors, figures = read()
    now = expected(judgments, anchors)
    print(now.to_string(index=False))
    pd.testing.assert_frame_equal(now, figures, atol=1e-5)
    print("as in expected.csv")


if __name__ == "__main__":
    main()
