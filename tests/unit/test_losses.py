"""Preference losses, their weights and KTO against computations by hand and TRL's own trainers: values and gradients to 1e-5."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.kto_config import KTOConfig
from trl.trainer.kto_trainer import KTOTrainer

from icr_platform.core.artifacts import open_artifact
from icr_platform.core.errors import InputError
from icr_platform.core.schemas import PREFERENCES
from icr_platform.models.loading import load_model, load_tokenizer
from icr_platform.training import dpo, kto, packed_rows, step_means
from icr_platform.training.config import TrainConfig, TrainSettings
from icr_platform.training.dataset import TrainingPairs, load_pairs
from icr_platform.training.examples import TrainingExamples, others_of
from icr_platform.training.loss_checks import check_loss, notes_of_balance, notes_of_loss
from icr_platform.training.losses import Responses, preference_loss, sampling_weights, without_tails
from icr_platform.training.reference_logprobs import score_pairs
from icr_platform.training.weights import load_trainable

PAIRED = ["sigmoid", "sigmoid_norm", "ipo", "hinge", "robust", "apo_zero", "apo_down"]


def logistic(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def by_hand(loss: str, beta: float, smoothing: float, sides: list[tuple[float, int]]) -> float:
    """The loss of a pair from the log-ratio and the length of each side, written from the papers."""
    (won, won_tokens), (lost, lost_tokens) = sides
    margin, per_token = beta * (won - lost), won / won_tokens - lost / lost_tokens
    return {
        "sigmoid": lambda: -math.log(logistic(margin)),
        "sigmoid_norm": lambda: -math.log(logistic(beta * per_token)),
        "ipo": lambda: (per_token - 1 / (2 * beta)) ** 2,
        "hinge": lambda: max(0.0, 1 - margin),
        "robust": lambda: (
            (-(1 - smoothing) * math.log(logistic(margin)) + smoothing * math.log(logistic(-margin)))
            / (1 - 2 * smoothing)
        ),
        "apo_zero": lambda: (1 - logistic(beta * won)) + logistic(beta * lost),
        "apo_down": lambda: logistic(beta * won) + (1 - logistic(margin)),
    }[loss]()


@pytest.mark.parametrize("loss", PAIRED)
def test_each_loss_and_its_gradient_equal_what_the_paper_says(loss: str) -> None:
    """200 random pairs; the gradient by central differences in float64."""
    draw = random.Random(loss)
    for _ in range(200):
        beta, smoothing = draw.choice([0.01, 0.1, 0.5, 2.0]), draw.uniform(0.01, 0.49)
        sides = [(draw.gauss(0, 5), draw.randint(1, 40)) for _ in range(2)]
        settings = TrainSettings.model_validate(
            {"loss": loss, "beta": beta, "label_smoothing": smoothing if loss == "robust" else 0.0}
        )
        ratios = torch.tensor([[side[0]] for side in sides], dtype=torch.float64, requires_grad=True)
        seen = preference_loss(
            settings,
            *(Responses(ratio, torch.tensor([tokens])) for ratio, (_, tokens) in zip(ratios, sides, strict=True)),
        )
        assert float(seen.detach()) == pytest.approx(by_hand(loss, beta, smoothing, sides), rel=1e-5, abs=1e-5)
        seen.sum().backward()
        assert ratios.grad is not None
        for side in range(2):
            step = 1e-6
            ends = [
                by_hand(loss, beta, smoothing, [(r + sign * step * (i == side), n) for i, (r, n) in enumerate(sides)])
                for sign in (1, -1)
            ]
            if loss != "hinge" or min(ends) > 0:  # at its kink it has no gradient
                expected = (ends[0] - ends[1]) / (2 * step)
                assert float(ratios.grad[side]) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_tails_and_sampling_weights_equal_loops_over_tokens() -> None:
    draw = random.Random(1)
    for _ in range(100):
        spans = [(draw.randint(0, 3), draw.randint(1, 9)) for _ in range(4)]  # where a response starts, and its tokens
        width = max(start + tokens for start, tokens in spans) + 1
        logprobs, squares, mask = torch.zeros(4, width), torch.zeros(4, width), torch.zeros(4, width, dtype=torch.long)
        for row, (start, tokens) in enumerate(spans):
            for place in range(start, start + tokens):
                logprobs[row, place], squares[row, place], mask[row, place] = -draw.random() * 4, -draw.random() * 4, 1
        alpha = draw.random()
        seen = without_tails(logprobs, mask, alpha)
        for row, (start, tokens) in enumerate(spans):
            shared = min(tokens, spans[(row + 2) % 4][1])
            values = logprobs[row, start : start + tokens].tolist()
            assert float(seen[row]) == pytest.approx(sum(values[:shared]) + alpha * sum(values[shared:]), abs=1e-5)
        weights = sampling_weights(logprobs, squares, mask).tolist()
        for row, weight in enumerate(weights):
            geometric = []
            for side in (row, row + 2):
                start, tokens = spans[side]
                places = range(start, start + tokens)
                geometric.append(math.exp(sum(float(logprobs[side, i] - squares[side, i]) for i in places) / tokens))
            assert weight == pytest.approx(geometric[0] * geometric[1], rel=1e-5)


@pytest.fixture(scope="module")
def pairs(
    tiny_model: Path, make_preferences: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> TrainingPairs:
    folder = make_preferences(tmp_path_factory.mktemp("losses") / "preferences", tiny_model, 12)
    found = load_pairs(open_artifact(folder, PREFERENCES), load_tokenizer(str(tiny_model)), 4096)
    some = slice(0, 12, 3)
    return TrainingPairs(
        found.languages[some], found.prompt_ids[some], found.chosen_ids[some], found.rejected_ids[some], {}
    )


def config_for(models: tuple[Path, Path], **changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "policy": str(models[0]), "reference": str(models[1]), "dpo_reference": "initial", "preferences": "-", "device": "cpu",
        "batch_size": 4, "accumulation": 1, "gamma": 0.0, "beta": 0.3,
    }  # fmt: skip
    return TrainConfig.model_validate(values | changes)


def gradients(trainer: Any, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of a batch, and its gradients."""
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    return float(loss.detach()), found


def assert_equal(seen: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], what: str = "") -> None:
    assert seen.keys() == expected.keys()
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert scale > 0
    assert max(float((seen[name] - expected[name]).abs().max()) for name in expected) < 1e-5 * max(scale, 1), what


VARIANTS: list[dict[str, Any]] = [
    *({"loss": loss} for loss in PAIRED),
    {"loss": "robust", "label_smoothing": 0.2},
    *({"loss": loss, "ld_alpha": 0.3} for loss in ("sigmoid", "hinge", "robust", "apo_zero", "apo_down")),
    {"loss": "sigmoid", "ld_alpha": 0.0},
    {"loss": "sigmoid", "ld_alpha": 1.0},
    *({"loss": loss, "use_weighting": True} for loss in PAIRED),
    {"loss": "apo_zero", "ld_alpha": 0.5, "use_weighting": True},
]


def test_every_loss_is_trls_own_with_and_without_the_reference_scored_before(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients of a batch of four pairs over packed rows, and TRL's DPOTrainer told of the same loss, over padded ones."""
    base = config_for(tiny_models, use_weighting=True)  # then TRL's models give what the weights are made of
    ours = dpo.build_trainer(base, pairs, None, tmp_path / "ours")
    with monkeypatch.context() as patched:
        patched.setattr(step_means, "why_not_packed_rows", lambda _: "TRL's own is asked for")
        trls = dpo.build_trainer(base, pairs, None, tmp_path / "theirs")
    model: Any = trls.model
    packed: Any = ours.model
    assert [packed.config._attn_implementation, model.config._attn_implementation] == [packed_rows.NAME, "sdpa"]
    rows: Any = ours.train_dataset
    batch = ours.data_collator([rows[i] for i in range(4)])
    lengths = [(len(won), len(lost)) for won, lost in zip(pairs.chosen_ids, pairs.rejected_ids, strict=True)]
    assert any(won > lost for won, lost in lengths)
    assert any(won < lost for won, lost in lengths)
    reference = load_trainable(base.reference, base)
    for variant in VARIANTS:
        config = config_for(tiny_models, **variant)
        check_loss(config)
        ours._config, ours.ld_alpha, ours.precompute_ref_logps = config, config.ld_alpha, False
        value, seen = gradients(ours, dict(batch))
        scored = torch.tensor(score_pairs(config, pairs, reference), dtype=torch.float32)
        ours.precompute_ref_logps = True
        before = dict(batch) | {"ref_chosen_logps": scored[:, 0], "ref_rejected_logps": scored[:, 1]}
        also_value, also = gradients(ours, before)
        # TRL's own loss, run as its trainer runs it on equal models and the same batch.
        trls.loss_types, trls.loss_weights = [config.loss], [1.0]
        trls.label_smoothing, trls.use_weighting, trls.ld_alpha = (
            config.label_smoothing,
            config.use_weighting,
            config.ld_alpha,
        )
        given = {name: batch[name] for name in ("input_ids", "attention_mask", "completion_mask")}
        model.zero_grad()
        theirs = DPOTrainer._compute_loss(trls, model, given, False)
        if (
            config.loss == "hinge" and config.use_weighting
        ):  # TRL weighs relu's output in place, whose gradient torch then refuses
            assert value == pytest.approx(float(theirs.detach()), abs=1e-5)
            continue
        theirs.backward()
        expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        assert value == pytest.approx(float(theirs.detach()), abs=1e-5), variant
        assert also_value == pytest.approx(value, abs=1e-4), variant
        assert_equal(seen, expected, str(variant))
        assert_equal(also, expected, str(variant))
    assert isinstance(ours.args, DPOConfig)


def first_step(build: Any, config: TrainConfig, rows: Any, reference: Any, work: Path) -> dict[str, torch.Tensor]:
    """What the optimizer is given in the first step, before it is clipped."""
    seen: dict[str, torch.Tensor] = {}
    trainer = build(config, rows, reference, work)
    trainer._clip_grad_norm = lambda model: seen.update(
        {name: p.grad.clone() for name, p in model.named_parameters() if not seen and p.grad is not None}
    )
    trainer.train()
    return seen


@pytest.mark.parametrize("changes", [{"loss": "apo_zero", "ld_alpha": 0.4, "use_weighting": True}, {"loss": "kto"}])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_step_does_not_know_how_it_was_batched(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, changes: dict[str, Any], rank: int
) -> None:
    """Four rows at once, or one after the other; the reference of LoRA is the policy without adapters, scored before or not."""
    is_kto = changes["loss"] == "kto"
    rows: Any = examples_of(pairs, 4) if is_kto else pairs
    build = kto.build_trainer if is_kto else dpo.build_trainer
    steps = []
    for batch_size, accumulation, scored in ((4, 1, False), (1, 4, True), (3, 2, False)):
        config = config_for(
            tiny_models, gamma=0.7, lora_rank=rank, dpo_reference="policy" if rank else "initial", batch_size=batch_size,
            accumulation=accumulation, **changes,
        )  # fmt: skip
        model = load_trainable(config.policy if rank else config.reference, config)
        reference = score_pairs(config, rows, model) if scored else None
        steps.append(first_step(build, config, rows, reference, tmp_path / str(batch_size)))
    assert_equal(steps[1], steps[0])
    assert_equal(steps[2], steps[0])


def examples_of(pairs: TrainingPairs, count: int) -> TrainingExamples:
    """The first responses of pairs: good, bad, good, bad; the third starts behind a thought of one token."""
    prompts = [prompt for prompt in pairs.prompt_ids for _ in range(2)][:count]
    responses = [ids for both in zip(pairs.chosen_ids, pairs.rejected_ids, strict=True) for ids in both][:count]
    labels = [True, False] * (count // 2)
    languages = [language for language in pairs.languages for _ in range(2)][:count]
    return TrainingExamples(
        languages, prompts, responses, labels, [0, 0, 1, 0][:count], others_of(prompts, labels), 4096
    )


def naive_sum(model: Any, prompt: list[int], response: list[int], start: int) -> torch.Tensor:
    logits = model(torch.tensor([[*prompt, *response]])).logits[0].double().log_softmax(-1)
    scored = [logits[len(prompt) - 1 + i, token] for i, token in enumerate(response)]
    return torch.stack(scored[start:]).sum()


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 2.5)])
def test_kto_is_its_equation_over_the_whole_step(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, weights: tuple[float, float]
) -> None:
    examples = examples_of(pairs, 4)
    config = config_for(
        tiny_models,
        loss="kto",
        gamma=0.7,
        desirable_weight=weights[0],
        undesirable_weight=weights[1],
        batch_size=2,
        accumulation=2,
    )
    policy, reference = (load_model(str(path), "float32", "cpu") for path in tiny_models)
    losses, likelihoods, ratios, strays = [], [], [], []
    for row in range(4):
        prompt, response, start = (
            list(examples.prompt_ids[row]),
            list(examples.response_ids[row]),
            examples.starts[row],
        )
        ours = naive_sum(policy, prompt, response, start)
        with torch.no_grad():
            ratios.append((ours - naive_sum(reference, prompt, response, start), ours, len(response) - start))
            other = examples.others[row]
            assert examples.prompt_ids[other] != examples.prompt_ids[row]
            stray = (prompt, list(examples.response_ids[other]), examples.starts[other])
            strays.append(naive_sum(policy, *stray) - naive_sum(reference, *stray))
        ratios[-1] = (ours - naive_sum(reference, prompt, response, start).detach(), ours, len(response) - start)
    z = max(0.0, float(torch.stack(strays).mean()))
    for (ratio, ours, tokens), good in zip(ratios, examples.is_good, strict=True):
        value = torch.sigmoid(config.beta * ((ratio - z) if good else (z - ratio)))
        losses.append(weights[0 if good else 1] * (1 - value))
        if good:
            likelihoods.append(-ours / tokens)
    (torch.stack(losses).mean() + 0.7 * torch.stack(likelihoods).mean()).backward()
    expected = {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}
    assert_equal(first_step(kto.build_trainer, config, examples, None, tmp_path), expected)


def test_kto_over_one_batch_is_trls_own(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = examples_of(pairs, 4)
    config = config_for(tiny_models, loss="kto", undesirable_weight=1.5)
    ours = kto.build_trainer(config, examples, None, tmp_path / "ours")
    monkeypatch.setattr(step_means, "why_not_packed_rows", lambda _: "TRL's own is asked for")
    trls = kto.build_trainer(config, examples, None, tmp_path / "theirs")
    model: Any = trls.model
    rows: Any = ours.train_dataset
    batch = ours.data_collator([rows[i] for i in range(4)])
    value, seen = gradients(ours, dict(batch))
    trls.loss_type, trls.undesirable_weight = "kto", 1.5
    given = {name: tensor for name, tensor in batch.items() if name != "language"}
    model.zero_grad()
    theirs = KTOTrainer._compute_loss(trls, model, given, False)
    theirs.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert value == pytest.approx(float(theirs.detach()), abs=1e-5)
    assert_equal(seen, expected)
    assert isinstance(ours.args, KTOConfig)


def test_curve_names_both_likelihoods_of_every_language(
    tiny_models: tuple[Path, Path], pairs: TrainingPairs, tmp_path: Path
) -> None:
    mixed = TrainingPairs(["en", "es", "en", "es"], pairs.prompt_ids, pairs.chosen_ids, pairs.rejected_ids, {})
    config = config_for(tiny_models, beta=0.3)
    policy, reference = (load_model(str(path), "float32", "cpu") for path in tiny_models)
    trainer = dpo.build_trainer(config, mixed, np.zeros((4, 2)), tmp_path)
    trainer.train()
    first = next(entry for entry in trainer.state.log_history if "logps/chosen" in entry)
    with torch.no_grad():
        chosen = [
            float(naive_sum(policy, list(prompt), list(ids), 0))
            for prompt, ids in zip(mixed.prompt_ids, mixed.chosen_ids, strict=True)
        ]
    assert first["logps/chosen"] == pytest.approx(np.mean(chosen), abs=1e-3)
    assert first["logps/chosen/en"] == pytest.approx((chosen[0] + chosen[2]) / 2, abs=1e-3)
    assert first["logps/chosen/es"] == pytest.approx((chosen[1] + chosen[3]) / 2, abs=1e-3)
    for name in ("logps/rejected", "rewards/margins"):
        halves = [first[f"{name}/{language}"] for language in ("en", "es")]
        assert first[name] == pytest.approx(sum(halves) / 2, abs=1e-4)
    assert {"logps/chosen/es", "rewards/margins/en", "logps/rejected"} <= set(trainer.logged)
    assert reference is not None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        *[
            ({"loss": loss, "label_smoothing": 0.1}, "'label_smoothing' (0.1)")
            for loss in (*PAIRED, "kto")
            if loss != "robust"
        ],
        *[({"loss": loss, "ld_alpha": 0.5}, "'ld_alpha' (0.5)") for loss in ("sigmoid_norm", "ipo", "kto")],
        ({"loss": "sigmoid_norm", "ld_alpha": 0.0}, "'ld_alpha' (0.0)"),
        ({"loss": "kto", "use_weighting": True}, "'use_weighting' (True)"),
        ({"loss": "kto", "likelihood": "tokens"}, "'likelihood' (tokens)"),
        *[({"loss": loss, "desirable_weight": 2.0}, "loss=kto only") for loss in PAIRED],
        ({"loss": "apo_down", "undesirable_weight": 0.5}, "'undesirable_weight' (0.5)"),
    ],
)
def test_settings_that_a_loss_does_not_take_are_refused_in_one_line(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as refused:
        check_loss(TrainSettings.model_validate(settings), "train.")
    assert "\n" not in str(refused.value)
    assert said in str(refused.value).replace("train.", "")
    assert f"train.loss={settings['loss']}" in str(refused.value)


@pytest.mark.parametrize("name", ["label_smoothing", "ld_alpha"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), True, "much"])
def test_values_out_of_bounds_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=name):
        TrainSettings.model_validate({"loss": "robust" if name == "label_smoothing" else "sigmoid", name: value})


def test_half_of_the_labels_wrong_has_no_loss() -> None:
    with pytest.raises(ValueError, match=r"less than 0\.5"):
        TrainSettings.model_validate({"loss": "robust", "label_smoothing": 0.5})
    assert "is the sigmoid loss" in notes_of_loss(TrainSettings(loss="robust"))[0]
    assert not notes_of_loss(TrainSettings(loss="robust", label_smoothing=0.1))


@pytest.mark.parametrize(
    ("good", "bad", "settings", "advice"),
    [
        (50, 50, {}, None),
        (57, 43, {}, None),
        (90, 10, {}, "undesirable_weight=9"),
        (10, 90, {}, "desirable_weight=9"),
        (90, 10, {"undesirable_weight": 9.0}, None),
        (10, 0, {}, None),
    ],
)
def test_uneven_labels_are_said(good: int, bad: int, settings: dict[str, Any], advice: str | None) -> None:
    notes = notes_of_balance(TrainSettings.model_validate({"loss": "kto", **settings}), good, good + bad)
    assert ([f"give {advice}" in note for note in notes] == [True]) if advice else not notes


@pytest.mark.parametrize(
    ("prompts", "labels", "others"),
    [
        ([1, 2, 3], [True, True, True], [2, 0, 1]),
        ([1, 1, 2, 2], [True, False, True, False], [2, 3, 0, 1]),
        ([1, 1, 1, 2], [True, True, True, True], [3, 3, 3, 2]),  # several responses to one prompt in a row
        ([1, 2, 2], [True, False, True], [2, 0, 0]),  # no other response has its label
    ],
)
def test_a_mismatched_response_answers_another_prompt(
    prompts: list[int], labels: list[bool], others: list[int]
) -> None:
    assert list(others_of([[prompt] for prompt in prompts], labels)) == others


def test_one_prompt_alone_has_no_mismatched_response() -> None:
    with pytest.raises(InputError, match="different prompts"):
        others_of([[1], [1]], [True, False])


def test_a_mismatched_response_is_cut_where_the_sequence_is_full() -> None:
    examples = TrainingExamples(["en"] * 2, [[1, 2, 3], [4]], [[5], [6, 7, 8, 9]], [True, True], [0, 1], [1, 0], 5)
    assert examples.mismatched(0) == ([6, 7], 1)
    assert examples.group(0).completions == ([5], [6, 7])
