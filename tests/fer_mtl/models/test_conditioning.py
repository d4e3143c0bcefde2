import pytest
import torch

from fer_mtl.models.conditioning import expression_codes


def test_labels_become_one_hot():
    codes = expression_codes(torch.tensor([2, 0]), 3, torch.float64)
    assert codes.dtype == torch.float64
    assert codes.tolist() == [[0, 0, 1], [1, 0, 0]]


def test_codes_are_taken_as_they_are():
    mixture = torch.tensor([[0.25, 0.75]])
    assert torch.equal(expression_codes(mixture, 2, torch.float32), mixture)


def test_no_labels_give_no_codes():
    assert expression_codes(torch.zeros(0, dtype=torch.int64), 4, torch.float32).shape == (0, 4)


@pytest.mark.parametrize(
    ("expression", "error", "message"),
    [
        (torch.tensor([0, 7]), ValueError, "0 .. 6 are allowed, got 0 .. 7"),
        (torch.tensor([-1]), ValueError, "0 .. 6 are allowed, got -1 .. -1"),
        (torch.tensor([[1]]), ValueError, r"labels must be \[N\]"),
        (torch.rand(2, 6), ValueError, r"\[N, 7\] .* \[2, 6\]"),
        (torch.rand(7), ValueError, r"\[N, 7\] .* \[7\]"),
        (torch.tensor([1], dtype=torch.int32), TypeError, "torch.int32"),
        (torch.tensor([True]), TypeError, "torch.bool"),
        ([0, 1], TypeError, "a tensor .* got list"),
        ("happiness", TypeError, "a tensor .* got str"),
    ],
)
def test_wrong_expressions_are_named(expression, error, message):
    with pytest.raises(error, match=f"expression: .*{message}"):
        expression_codes(expression, 7, torch.float32)
