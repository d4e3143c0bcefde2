from __future__ import annotations

import pytest
import torch

from benchmarks.cases import Case, Shape
from benchmarks.problems import make_problem
from benchmarks.providers import OpProviders, Unavailable, backend_context, why_not_compile
from fused_ops import FusedSelectiveShare, backends, explain, native, use


@pytest.fixture
def providers() -> OpProviders:
    case = Case("selective_share", "full", Shape(2, 4, 5), "float32", "channels_last", ())
    return OpProviders(make_problem(case, "cpu"), "cpu")


def call():
    share, x = FusedSelectiveShare(4), torch.randn(1, 4, 3, 3)
    return lambda: share(x, x)


def test_a_backend_that_refuses_is_unavailable_with_its_reason() -> None:
    with pytest.raises(Unavailable, match=r"cpu|no implementation"):
        backend_context("cuda", call())


def test_the_automatic_choice_is_measured_as_such_and_others_by_name() -> None:
    chosen = explain(call())[0].backend
    wishes = {chosen: "auto", "reference": "reference"}  # the reference is always asked for
    for name, wish in wishes.items():
        with backend_context(name, call())():
            assert backends.requested() == wish
            assert explain(call())[0].backend == name


def test_another_error_is_no_reason() -> None:
    def broken() -> None:
        raise RuntimeError("a kernel crashed")

    with pytest.raises(RuntimeError, match="a kernel crashed"):
        backend_context("reference", broken)


def test_the_interpreters_time_is_not_taken(monkeypatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(Unavailable, match="interpreter"):
        backend_context("triton", call())


def test_compile_needs_a_compiler(providers, monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no-such-compiler" in why_not_compile()
    with pytest.raises(Unavailable, match="no-such-compiler"):
        providers.runner("compile", "full")


def test_wrong_results_are_no_result(providers, monkeypatch) -> None:
    assert providers.facts("reference", "full")["error_roundings"] < 10
    monkeypatch.setattr(providers, "_errors", {("reference", True): 1e7})
    with pytest.raises(ValueError, match="wrong results: 1e\\+07 roundings"):
        providers.facts("reference", "full")


@pytest.mark.slow
@pytest.mark.inductor
def test_compile_computes_what_eager_does(providers) -> None:
    ours, eager = (providers.runner(name, "full").once() for name in ("compile", "eager"))
    for one, other in zip(ours, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert providers.facts("compile", "full")["saved_bytes"] < providers.facts("eager", "full")["saved_bytes"]


def test_modes_do_their_part(providers) -> None:
    assert not any(out.requires_grad for out in providers.runner("reference", "forward").once())
    gradients = providers.runner("reference", "backward").once()
    assert [g.shape for g in gradients] == [
        leaf.shape for leaf in providers.problem.leaves(providers.problem.fused)
    ]
    for one, other in zip(gradients, providers.runner("reference", "full").once(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_bound_is_the_same_products() -> None:
    """24 C^2 and 48 C^2 FLOP per pixel, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    case = Case("selective_share", "full", Shape(2, 8, 5), "float32", "channels_last", ())
    problem = make_problem(case, "cpu")
    for mode, factor in (("forward", 24), ("backward", 48), ("full", 72)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            problem.bounds[mode]()
        assert counter.get_total_flops() == factor * 8**2 * 50


@pytest.mark.skipif(not native.cpu_library().loaded, reason="no native CPU library")
def test_errors_are_those_of_a_right_result(providers) -> None:
    with use("auto"):
        assert providers.facts("cpu", "full")["error_roundings"] < 50
        assert providers.facts("eager", "full")["error_roundings"] < 50


def test_auto_is_measured_where_it_is_none_of_the_backends(monkeypatch) -> None:
    """A norm this small goes to torch's own kernels."""
    case = Case("batch_norm_act", "full", Shape(2, 8, 5), "float32", "channels_last", ())
    providers = OpProviders(make_problem(case, "cpu"), "cpu")
    runner = providers.runner("auto", "full")
    for one, other in zip(runner.once(), providers.runner("eager", "full").once(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    decisions = (backends.Decision("norm_act", "cpu", {}),)
    monkeypatch.setattr("benchmarks.providers.explain", lambda call: decisions)
    with pytest.raises(Unavailable, match="measured as cpu"):
        providers.runner("auto", "full")
