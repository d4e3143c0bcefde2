from __future__ import annotations

import numpy as np
import pytest

from fer_mtl.data.drawing.action_units import ACTION_UNITS, CONTROLS, VARIANTS, controls_of, sample_units
from fer_mtl.data.expressions import EXPRESSIONS


def control(name: str, units: dict[int, tuple[float, float]]) -> np.ndarray:
    return controls_of(units)[CONTROLS.index(name)]


def test_the_tables_name_each_other_correctly() -> None:
    assert set(VARIANTS) == {*EXPRESSIONS, "neutral"}
    for _, effects in ACTION_UNITS.values():
        assert effects and set(effects) <= set(CONTROLS)
    for variants in VARIANTS.values():
        for variant in variants:
            assert {*variant.units, *variant.optional} <= set(ACTION_UNITS)
            assert all(0 < level <= 1 for level in (*variant.units.values(), *variant.optional.values()))


@pytest.mark.parametrize(
    ("expression", "defining"),
    [
        ("anger", {4, 7, 23}), ("contempt", {12, 14}), ("disgust", {9}), ("fear", {1, 4, 5, 20}),
        ("happiness", {6, 12}), ("sadness", {1, 4, 15}), ("surprise", {1, 2, 5, 26}),
    ],
)  # fmt: skip
def test_every_variant_has_the_units_that_define_its_expression(expression: str, defining: set[int]) -> None:
    assert all(defining <= set(variant.units) for variant in VARIANTS[expression])


def test_effects_add_up_on_each_half() -> None:
    assert control("corner_up", {12: (1.0, 0.5)}) == pytest.approx([0.14, 0.07])
    assert control("corner_up", {12: (1.0, 0.0), 15: (1.0, 1.0)}) == pytest.approx([0.0, -0.14])
    assert not controls_of({}).any()


@pytest.mark.parametrize("expression", list(VARIANTS))
def test_intensities_stay_in_range_and_grow_with_the_whole(expression: str) -> None:
    def total(intensity: float) -> float:
        drawn = [sample_units(expression, intensity, np.random.default_rng(i)) for i in range(50)]
        levels = [level for units in drawn for halves in units.values() for level in halves]
        assert all(0 <= level <= 1 for level in levels)
        return sum(levels)

    if expression != "neutral":
        assert total(1.0) > 1.3 * total(0.5)
    assert total(0.0) < 50 * 2 * 0.23  # nothing but the stray unit


def test_contempt_is_one_sided_on_either_side() -> None:
    differences = []
    for seed in range(40):
        left, right = sample_units("contempt", 1.0, np.random.default_rng(seed))[14]
        differences.append(left - right)
    assert min(map(abs, differences)) > 0.4
    assert min(differences) < 0 < max(differences)


def test_other_expressions_are_nearly_symmetric() -> None:
    for seed in range(20):
        for left, right in sample_units("happiness", 1.0, np.random.default_rng(seed)).values():
            assert abs(left - right) < 0.25
