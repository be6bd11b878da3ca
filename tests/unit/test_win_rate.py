"""Win rates: parity with AlpacaEval's algorithm and published figures, the solver against scikit-learn, degenerate input."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from icr_platform.core.errors import InputError
from icr_platform.evaluation.l1_logistic import fit_l1_logistic
from icr_platform.evaluation.win_rate import length_controlled_replicates, length_controlled_win_rate, win_rate
from tests.support import alpaca_eval_restated

MODELS = ["FuseChat-Llama-3.1-8B-Instruct", "alpaca-7b", "claude-2", "minotaur-13b"]


def judged_model(folder: Path, name: str) -> tuple[tuple[Any, Any, Any, Any, Any], Any]:
    """Positional arguments of length_controlled_win_rate, and the published row."""
    rows = pd.read_csv(folder / f"{name}.csv")
    published = pd.read_csv(folder / "leaderboard.csv").set_index("model").loc[name]
    anchors = pd.read_csv(folder / "gamed_surrogate.csv")
    difficulty = rows["instruction_difficulty_positional"]
    return (rows["preference"] - 1, rows["output_2_length"], rows["output_1_length"], difficulty, anchors), published


@pytest.mark.parametrize("model", [model.name for model in alpaca_eval_restated.MODELS])
@pytest.mark.parametrize("choice", ["fixed", "cv"])
def test_parity_with_alpaca_eval_restated(model: str, choice: str) -> None:
    """The expected figures are scikit-learn's, by AlpacaEval's algorithm; `tests.support.alpaca_eval_restated` computes them anew."""
    judgments, anchors, figures = alpaca_eval_restated.read()
    rows = judgments[judgments["model"] == model]
    [expected] = figures[(figures["model"] == model) & (figures["choice"] == choice)].to_dict("records")
    plain = win_rate(rows["preference"])
    assert plain.win_rate == pytest.approx(expected["plain_win_rate"], abs=1e-6)
    assert plain.standard_error == pytest.approx(expected["plain_standard_error"], abs=1e-6)
    assert plain.discrete_win_rate == pytest.approx(expected["discrete_win_rate"], abs=1e-6)

    fit = length_controlled_win_rate(
        rows["preference"], rows["candidate_length"], rows["reference_length"], rows["instruction_difficulty"], anchors,
        C="cv" if choice == "cv" else expected["C"],
    )  # fmt: skip
    assert (fit.flags, fit.variant) == ((), "full")
    assert pytest.approx(expected["C"], rel=1e-6) == fit.C
    for name in ("win_rate", "standard_error", "length_coefficient", "difficulty_coefficient", "model_coefficient"):
        assert getattr(fit, name) == pytest.approx(expected[name], abs=1e-4), name


def test_the_restated_algorithm_gives_the_figures_of_the_fixture() -> None:
    pytest.importorskip("sklearn")
    judgments, anchors, figures = alpaca_eval_restated.read()
    pd.testing.assert_frame_equal(alpaca_eval_restated.expected(judgments, anchors), figures, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_published_figures(shared_data: Path, name: str) -> None:
    arguments, published = judged_model(shared_data / "lc-parity", name)
    rate = win_rate(arguments[0])
    assert rate.win_rate == pytest.approx(published["win_rate"], abs=1e-6)
    assert rate.standard_error == pytest.approx(published["standard_error"], abs=1e-6)
    assert rate.discrete_win_rate == pytest.approx(published["discrete_win_rate"], abs=1e-6)
    counts = tuple(published[["n_wins", "n_draws", "n_wins_base", "n_total"]])
    assert (rate.wins, rate.ties, rate.losses, rate.n) == counts

    at_inferred_C = length_controlled_win_rate(*arguments, C=published["C_inferred"])
    assert at_inferred_C.win_rate == pytest.approx(published["length_controlled_winrate"], abs=0.02)
    assert at_inferred_C.length_coefficient == pytest.approx(published["coef_len"], abs=0.002)
    if not math.isnan(published["lc_standard_error"]):
        assert at_inferred_C.standard_error == pytest.approx(published["lc_standard_error"], abs=0.001)
    cross_validated = length_controlled_win_rate(*arguments, C="cv")
    assert cross_validated.win_rate == pytest.approx(published["length_controlled_winrate"], abs=0.2)
    assert length_controlled_win_rate(*arguments).flags == ()


@pytest.mark.parametrize("name", MODELS)
def test_the_restated_algorithm_gives_the_published_figures(shared_data: Path, name: str) -> None:
    pytest.importorskip("sklearn")
    (preference, candidate, reference, difficulty, anchors), published = judged_model(shared_data / "lc-parity", name)
    judgments = pd.DataFrame({"preference": preference, "candidate_length": candidate, "reference_length": reference})
    fit = alpaca_eval_restated.restated(
        judgments.assign(instruction_difficulty=difficulty), anchors, published["C_inferred"]
    )
    assert fit.win_rate == pytest.approx(published["length_controlled_winrate"], abs=0.02)
    assert fit.length_coefficient == pytest.approx(published["coef_len"], abs=0.002)


def test_bootstrap_sees_the_estimation_error_that_the_published_standard_error_ignores(shared_data: Path) -> None:
    arguments, _ = judged_model(shared_data / "lc-parity", "claude-2")
    rate = length_controlled_win_rate(*arguments, bootstrap=200)
    assert rate.bootstrap_standard_error > 1.5 * rate.standard_error
    assert rate.interval[0] < rate.win_rate < rate.interval[1]
    assert rate == length_controlled_win_rate(*arguments, bootstrap=200)


@pytest.mark.filterwarnings("ignore:Inconsistent values")  # scikit-learn renames `penalty`, older ones need it
@pytest.mark.parametrize("C", [0.02, 1.0, 10.0])
def test_solver_equals_scikit_learn(C: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 3))
    targets = 1 / (1 + np.exp(-features @ [2.0, 0.05, -1.0] + generator.normal(size=300)))
    weights = generator.uniform(0.1, 2.0, 300)
    ours = fit_l1_logistic(features[None], targets[None], weights[None], np.array([1 / C]))[0]
    theirs = linear_model.LogisticRegression(
        penalty="l1", C=C, solver="liblinear", fit_intercept=False, tol=1e-10, max_iter=10_000
    )
    theirs.fit(
        np.tile(features, (2, 1)),
        np.repeat([1, 0], 300),
        sample_weight=np.concatenate([targets * weights, (1 - targets) * weights]),
    )
    np.testing.assert_allclose(ours, theirs.coef_[0], atol=1e-5)
    assert (ours == 0).tolist() == (np.abs(theirs.coef_[0]) < 1e-9).tolist()


def test_solver_is_stationary_on_separable_data_and_in_a_batch() -> None:
    features = np.array([[[1.0, 1.0], [-1.0, 1.0], [2.0, 1.0], [-3.0, 1.0]]])
    targets = np.array([[1.0, 0.0, 1.0, 0.0]])
    penalty = np.array([1e-4, 0.1, 100.0])
    together = fit_l1_logistic(features, targets, np.ones((1, 4)), penalty)
    alone = [fit_l1_logistic(features, targets, np.ones((1, 4)), penalty[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(together, alone, atol=1e-8)
    residual = 1 / (1 + np.exp(-features[0] @ together.T)) - targets.T
    slope = features[0].T @ residual
    assert np.abs(slope[:, 0] + np.sign(together[0]) * penalty[0]).max() < 1e-6
    assert (together[2] == 0).all()


def test_missing_preferences_are_counted() -> None:
    rate = win_rate([1.0, np.nan, 0.5, 0.2])
    assert (rate.wins, rate.ties, rate.losses, rate.n, rate.n_missing) == (1, 1, 1, 3, 1)
    assert rate.win_rate == pytest.approx(170 / 3)
    with pytest.raises(InputError, match=r"row 1: preference is 1\.5"):
        win_rate([0.0, 1.5])


@pytest.mark.parametrize(
    ("preference", "candidate", "reference", "expected", "flag"),
    [
        ([1.0] * 50, range(50), [9] * 50, 100.0, "constant-preference"),
        ([0.5] * 50, range(50), [9] * 50, 50.0, "constant-preference"),
        ([0.0, 1.0, 1.0] * 20, [7] * 60, [7] * 60, 200 / 3, "equal-length-differences"),
        ([0.8], [3], [4], 80.0, "too-few-prompts"),
        ([np.nan] * 5, [3] * 5, [4] * 5, math.nan, "no-preferences"),
        ([], [], [], math.nan, "no-preferences"),
        ([0.2, 0.9, 0.4, 0.1], [3, 5, np.nan, 4], [4, 4, 4, 9], 40.0, "missing-lengths"),
    ],
)
@pytest.mark.parametrize("bootstrap", [0, 20])
def test_degenerate_input_gives_the_win_rate_with_a_flag(
    preference: list[float], candidate: list[float], reference: list[float], expected: float, flag: str, bootstrap: int
) -> None:
    rate = length_controlled_win_rate(preference, list(candidate), reference, bootstrap=bootstrap)
    assert rate.win_rate == pytest.approx(expected, nan_ok=True)
    assert rate.flags == (flag,)
    assert not rate.is_length_controlled


def simulated(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Preferences that longer outputs raise: the candidate's are longer, at equal lengths it wins half the time."""
    generator = np.random.default_rng(seed)
    candidate, reference = generator.integers(800, 2500, n), generator.integers(200, 2000, n)
    difference = (reference - candidate).astype(float)
    chance = 1 / (1 + np.exp(2.0 * np.tanh(difference / difference.std(ddof=1))))
    return (generator.random(n) < chance).astype(float), candidate, reference


def test_length_bias_is_taken_out() -> None:
    preference, candidate, reference = simulated(4000)
    rate = length_controlled_win_rate(preference, candidate, reference, bootstrap=200)
    assert rate.raw.win_rate > 65
    assert rate.win_rate == pytest.approx(50, abs=3 * rate.bootstrap_standard_error)
    assert rate.variant == "minimal"
    assert rate.standard_error == pytest.approx(0, abs=1e-9)


def test_rows_without_a_preference_do_not_enter_the_fit() -> None:
    preference, candidate, reference = simulated(300)
    preference[::7] = np.nan
    kept = np.isfinite(preference)
    whole = length_controlled_win_rate(preference, candidate, reference)
    assert whole.win_rate == length_controlled_win_rate(preference[kept], candidate[kept], reference[kept]).win_rate
    assert whole.raw.n_missing == (~kept).sum()


def test_incomplete_difficulty_falls_back_to_the_minimal_variant() -> None:
    preference, candidate, reference = simulated(300)
    difficulty = np.zeros(300)
    difficulty[5] = np.nan
    rate = length_controlled_win_rate(preference, candidate, reference, difficulty)
    assert (rate.variant, rate.flags) == ("minimal", ("incomplete-difficulty",))
    assert rate.win_rate == length_controlled_win_rate(preference, candidate, reference).win_rate


def test_replicates_are_refits_of_the_resampled_prompts() -> None:
    preference, candidate, reference = simulated(200)
    rows = np.random.default_rng(1).integers(0, 200, (3, 200))
    replicates = length_controlled_replicates(preference, candidate, reference, rows)
    refits = [length_controlled_win_rate(preference[r], candidate[r], reference[r]).win_rate for r in rows]
    np.testing.assert_allclose(replicates, refits, atol=1e-7)


def test_anchors_that_count_from_one_to_two_are_refused_before_anything_is_judged(tmp_path: Path) -> None:
    from icr_platform.evaluation.config import EvalConfig
    from icr_platform.evaluation.inputs import _read_control

    columns = "preference,std_delta_len,instruction_difficulty\n"
    for row, words in {
        "1.7,0.1,0.2": "row 0: preference is 1.7",
        "0.5,,0.2": "row 0: std_delta_len",
        "": "no rows",
    }.items():
        path = tmp_path / "anchors.csv"
        path.write_text(columns + row + "\n")
        with pytest.raises(InputError, match=f"anchors.csv: anchors: {words}"):
            _read_control(EvalConfig(anchors=str(path)), {})


def test_bad_anchors_and_bad_penalties_are_named() -> None:
    preference, candidate, reference = simulated(50)
    with pytest.raises(InputError, match="column std_delta_len is missing"):
        length_controlled_win_rate(preference, candidate, reference, anchors={"preference": [0.5]})
    anchors = {"preference": [0.5, np.nan], "std_delta_len": [1.0, 2.0]}
    with pytest.raises(InputError, match="row 1: preference"):
        length_controlled_win_rate(preference, candidate, reference, anchors=anchors)
    with pytest.raises(InputError, match="C is 0"):
        length_controlled_win_rate(preference, candidate, reference, C=0)
