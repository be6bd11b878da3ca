"""Training through oneDNN: products and gradients of torch's own layers, and a library that is chosen once."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from icr_platform.core.errors import InputError
from icr_platform.engines.scoring.cpu_linear import has_onednn, product
from icr_platform.training import cpu_products
from icr_platform.training.cpu_products import (
    BY_ONEDNN,
    BY_TORCH,
    FILE,
    choose_library,
    measure,
    multiply_by_onednn,
)

needs_onednn = pytest.mark.skipif(not has_onednn(), reason="torch has no oneDNN for this machine")


class Blocks(nn.Module):
    """Linear layers with and without a bias, one that is frozen, and inputs and gradients that do not lie in order."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.frozen, self.last = nn.Linear(12, 40), nn.Linear(40, 24, bias=False), nn.Linear(24, 5)
        self.frozen.requires_grad_(False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        inner = self.first(hidden.transpose(0, 1)).relu()
        return self.last(self.frozen(inner).transpose(0, 1)).transpose(1, 2)


@needs_onednn
@pytest.mark.parametrize("rows", [0, 1, 37])
def test_layers_have_the_outputs_and_gradients_of_torchs_own(rows: int) -> None:
    torch.manual_seed(0)
    ours, theirs = Blocks(), Blocks().double()
    theirs.load_state_dict(ours.state_dict())
    multiply_by_onednn(ours)
    hidden = torch.randn(3, rows, 12)
    found = []
    for model, given in ((ours, hidden), (theirs, hidden.double())):
        given = given.clone().requires_grad_()
        seen = model(given)
        # The gradient of a sum is one number, spread without memory of its own.
        (seen.square().sum() + seen.sum()).backward()
        found.append([seen.detach(), given.grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert ours.frozen.weight.grad is None
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


@needs_onednn
def test_a_layer_still_has_what_is_trained_later_and_no_gradient_where_none_is_asked_for() -> None:
    """Weights are read when they are multiplied: an optimizer changes them in place, and loading puts others there."""
    model = Blocks()
    multiply_by_onednn(model)
    hidden = torch.randn(2, 9, 12)
    for _ in range(2):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1.5)
            plain = copy.deepcopy(model)
            for module in plain.modules():
                vars(module).pop("forward", None)
            seen = model(hidden)
            assert not seen.requires_grad
            torch.testing.assert_close(seen, plain(hidden), atol=1e-5, rtol=1e-5)


@needs_onednn
@pytest.mark.parametrize("is_begun", [False, True])
def test_products_in_place_are_the_same_by_both_libraries(is_begun: bool) -> None:
    left, right = torch.randn(7, 13), torch.randn(5, 13)
    totals = []
    for products in (BY_TORCH, BY_ONEDNN):
        total = torch.full((7, 5), 2.0 if is_begun else float("nan"))
        products.add(total, left, right, is_begun)
        totals.append(total)
        torch.testing.assert_close(products.multiply(left, right, torch.empty(7, 5)), left @ right.t())
    torch.testing.assert_close(*totals)
    torch.testing.assert_close(product(left.t().contiguous().t(), right.t().contiguous().t()), left @ right.t())


@needs_onednn
def test_a_library_is_measured_once_and_kept_where_the_work_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_products, "_SMALL", 0)
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))
    left = ["onednn", "torch"]
    monkeypatch.setattr(cpu_products, "measure", lambda model: left.pop(0))
    model = Blocks()
    assert choose_library(model, "auto", tmp_path / "work") == "onednn"
    assert choose_library(model, "auto", tmp_path / "other") == "onednn"
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "another machine"))
    assert choose_library(model, "auto", tmp_path / "work") == "onednn"
    assert choose_library(model, "auto", tmp_path / "third") == "torch"
    assert choose_library(model, "onednn", tmp_path / "third") == "onednn"
    # One that goes on from before there was a choice.
    (tmp_path / "begun" / "checkpoint-10").mkdir(parents=True)
    assert choose_library(model, "auto", tmp_path / "begun") == "torch"
    (tmp_path / "work" / FILE).write_text('{"library": "cuda"}')
    with pytest.raises(InputError, match=r"machine\.json: field 'library' is 'cuda'; delete the file"):
        choose_library(model, "auto", tmp_path / "work")


@needs_onednn
def test_a_small_model_is_not_measured_and_a_measurement_is_a_library(tmp_path: Path) -> None:
    model = Blocks()
    assert choose_library(model, "auto", tmp_path) == "torch"
    assert not (tmp_path / FILE).exists()
    assert measure(model) in ("onednn", "torch")
