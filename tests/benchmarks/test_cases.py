from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from benchmarks.cases import OPS, SHAPES, SUITES, Selection, Shape, norm_cost, share_cost

ROOT = Path(__file__).resolve().parents[2]
LARGE = Shape(64, 32, 64)  # so many pixels that weights do not count


def readme_numbers(row: str) -> list[int]:
    """The numbers before C or C^2 in a row of the cost table: forward, backward."""
    text = (ROOT / "fused_ops/selective_share/README.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith(f"| {row}"))
    return [int(number) for number in re.findall(r"(\d+) C", line)]


def test_share_flops_are_those_of_its_readme() -> None:
    per_pixel = LARGE.channels**2 * LARGE.pixels
    forward, backward = readme_numbers("FLOP")
    assert share_cost(LARGE, "forward", 4).flops == forward * per_pixel == 24 * per_pixel
    assert share_cost(LARGE, "backward", 4).flops == backward * per_pixel
    assert share_cost(LARGE, "full", 4).flops == (forward + backward) * per_pixel


def test_share_bytes_are_those_of_its_readme() -> None:
    elements = LARGE.channels * LARGE.pixels
    forward, backward = readme_numbers("fewest elements moved")
    assert share_cost(LARGE, "forward", 2).bytes / (2 * elements) == pytest.approx(forward, rel=0.01)
    assert share_cost(LARGE, "backward", 2).bytes / (2 * elements) == pytest.approx(backward, rel=0.01)
    # In training the forward writes the six gates too.
    assert share_cost(LARGE, "full", 2).bytes / (2 * elements) == pytest.approx(
        forward + 6 + backward, rel=0.01
    )


def test_recomputation_trades_bytes_for_flops() -> None:
    kept, again = share_cost(LARGE, "full", 4), share_cost(LARGE, "full", 4, recompute=True)
    elements = LARGE.channels * LARGE.pixels
    assert (kept.bytes - again.bytes) / (4 * elements) == 12  # gates neither written nor read
    assert again.flops - kept.flops == 24 * LARGE.channels * elements


def test_weights_count_where_pixels_are_few() -> None:
    tiny = Shape(1, 100, 1)
    assert share_cost(tiny, "forward", 4).bytes == 4 * (4 * 100 + 12 * 100**2)


def test_a_norm_takes_four_copies_and_one_with_running_statistics() -> None:
    copy = 2 * 4 * LARGE.elements
    assert norm_cost(LARGE, "full", 4).bytes == 4 * copy
    assert norm_cost(LARGE, "forward", 4).bytes + norm_cost(LARGE, "backward", 4).bytes == 4 * copy
    assert norm_cost(LARGE, "forward", 4, running=True).bytes == copy


def test_every_op_belongs_to_a_suite_and_has_a_cost_in_each_mode() -> None:
    for op in OPS.values():
        assert op.suite in SUITES
        for mode in op.modes:
            op.cost(op.shapes[0], mode, 4)
        assert set(op.quick_modes) <= set(op.modes)


def test_the_quick_cases_are_some_of_the_full_ones() -> None:
    for suite in SUITES:
        quick, full = (
            {case.name: case for case in Selection(tier).cases(suite)} for tier in ("quick", "full")
        )
        assert quick.keys() < full.keys()
        assert all(set(quick[name].providers) <= set(full[name].providers) for name in quick)
        assert not any(case.shape.tier == "test" for case in full.values())


def test_a_sweep_takes_one_mode_unless_more_are_asked_for() -> None:
    def modes(**asked) -> set[str]:
        cases = Selection("full", ops=("adain",), shapes=("b1-c8-s2",), **asked).cases("norm_act")
        return {case.mode for case in cases}

    assert modes() == {"full"}
    assert modes(modes=("forward", "backward")) == {"forward", "backward"}


def test_the_selection_narrows_every_axis() -> None:
    selection = Selection(
        "full",
        ops=("adain",),
        modes=("backward",),
        shapes=("b8-c64-s96",),
        dtypes=("float16",),
        layouts=("contiguous",),
        providers=("eager", "cpu"),
    )
    (case,) = selection.cases("norm_act")
    assert case.name == "adain-backward-b8-c64-s96-float16-contiguous"
    assert case.providers == ("eager", "cpu")
    assert selection.cases("selective_share") == []


def test_a_suite_names_its_ops_unless_an_op_is_called_so() -> None:
    norms = {case.op for case in Selection("full", ops=("norm_act",)).cases("norm_act")}
    assert norms == {name for name, op in OPS.items() if op.suite == "norm_act"}
    shares = {case.op for case in Selection("full", ops=("selective_share",)).cases("selective_share")}
    assert shares == {"selective_share"}


def test_cases_with_the_same_tensors_are_neighbours() -> None:
    setups = [case.setup for case in Selection("full").cases("norm_act")]
    changes = sum(one != other for one, other in itertools.pairwise(setups))
    assert changes + 1 == len(set(setups))


@pytest.mark.parametrize(
    ("field", "listed"),
    [
        ("ops", "selective_share"),
        ("modes", "backward"),
        ("shapes", "b16-c64-s48"),
        ("dtypes", "bfloat16"),
        ("layouts", "channels_last"),
        ("providers", "bound"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(field: str, listed: str) -> None:
    with pytest.raises(ValueError, match=f"{field}: 'nonsense' is unknown; known are .*{listed}"):
        Selection(**{field: ("nonsense",)})


def test_a_name_means_one_shape() -> None:
    for op in OPS.values():
        for shape in op.shapes:
            named = SHAPES[shape.name]
            assert (named.batch, named.channels, named.side, named.preset) == (
                shape.batch,
                shape.channels,
                shape.side,
                shape.preset,
            )
