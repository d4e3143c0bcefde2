"""How both GPU backends get on with the rest of torch: compile, CUDA graphs, autocast, devices, streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict

import torch
from torch import Tensor, nn

from benchmarks.gpu.found import Found, card_answers
from benchmarks.gpu.stages import Context
from benchmarks.gpu.timing import capturing
from fused_ops import (
    FusedBatchNormAct2d,
    FusedGroupNormAct,
    FusedSelectiveShare,
    explain,
    instance_norm_act,
    use,
)

Result = tuple[Tensor, ...]
BIG = (1 << 31) + (1 << 22)  # elements: more than 31 bits count


class Skipped(Exception):
    """This cannot be checked here; the message says why."""


class Wrong(Exception):
    """The message says what is wrong."""


def modules() -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """A module of each op family on the CPU in float32, and its inputs."""
    torch.manual_seed(20209)
    x, y = (torch.randn(2, 16, 12, 12).contiguous(memory_format=torch.channels_last) for _ in range(2))
    yield "share", FusedSelectiveShare(16), (x, y)
    yield "batch norm", FusedBatchNormAct2d(16, activation="relu"), (x, y)
    yield "group norm", FusedGroupNormAct(4, 16, activation="silu"), (x,)


def on(
    device: str, dtype: torch.dtype = torch.float32
) -> Iterator[tuple[str, nn.Module, tuple[Tensor, ...]]]:
    """The modules with their inputs on a device, in a dtype."""
    for name, module, inputs in modules():
        yield name, module.to(device, dtype), tuple(tensor.to(device, dtype) for tensor in inputs)


def results(module: nn.Module, inputs: Result) -> Result:
    """Outputs and gradients of inputs and parameters."""
    leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in inputs)
    outputs = module(*leaves)
    outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
    loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
    grads = torch.autograd.grad(loss, [*leaves, *module.parameters()])
    return *(output.detach() for output in outputs), *grads


def assert_close(ours: Result, expected: Result, tolerance: float) -> None:
    """Wrong unless both agree to a share of the largest value."""
    for index, (our, their) in enumerate(zip(ours, expected, strict=True)):
        difference = (our.double() - their.to(our.device).double()).abs().max().item()
        largest = their.double().abs().max().item()
        if not difference <= tolerance * max(largest, 1e-6):
            raise Wrong(f"result {index} differs by {difference:.3g}, values up to {largest:.3g}")


def compiled(context: Context, backend: str) -> None:
    """Under torch.compile a fused module gives what it gives eagerly; dry, without Inductor."""
    engine = "eager" if context.dry else "inductor"
    for _, module, inputs in on(context.device):
        torch._dynamo.reset()
        expected = results(module, inputs)
        assert_close(results(torch.compile(module, backend=engine, fullgraph=True), inputs), expected, 1e-4)


def autocast(context: Context, backend: str) -> None:
    """Under autocast a share computes in bfloat16, and norms keep the dtype that they get."""
    for name, module, inputs in on(context.device):
        expected = results(module, inputs)
        with torch.autocast(context.device, torch.bfloat16):
            found = results(module, inputs)
        wanted = torch.bfloat16 if name == "share" else torch.float32
        if found[0].dtype != wanted:
            raise Wrong(f"{name}: the output is {found[0].dtype}, not {wanted}")
        assert_close(found, expected, 5e-2)


def same_bits(context: Context, backend: str) -> None:
    """The same call twice gives the same bits."""
    for name, module, inputs in on(context.device):
        for one, other in zip(results(module, inputs), results(module, inputs), strict=True):
            if not torch.equal(one, other):
                raise Wrong(f"{name}: two calls differ")


def slices(context: Context, backend: str) -> None:
    """Slices along the channels and along the width compute what their copies do."""
    for _, module, inputs in on(context.device):
        expected = results(module, inputs)
        for dim in (1, 3):
            sliced = []
            for tensor in inputs:
                room = torch.full_like(torch.cat([tensor, tensor], dim), float("nan"))
                part = room.narrow(dim, 1, tensor.size(dim))
                sliced.append(part.copy_(tensor))
            leaves = [tensor.requires_grad_() for tensor in sliced]
            outputs = module(*leaves)
            outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
            assert_close(tuple(outputs), expected[: len(outputs)], 1e-4)


def graphs(context: Context, backend: str) -> None:
    """Captured in a CUDA graph, forward and backward follow new inputs."""
    if context.device == "cpu":
        raise Skipped("CUDA graphs need a card")
    for _, module, inputs in on(context.device):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]

        def step(module: nn.Module = module, leaves: list[Tensor] = leaves) -> Result:
            outputs = module(*leaves)
            outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
            loss = torch.stack([output.square().mean() for output in outputs]).sum()
            return *(o.detach() for o in outputs), *torch.autograd.grad(loss, [*leaves, *module.parameters()])

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with capturing(graph):
            found = step()
        new = [torch.randn_like(tensor) for tensor in inputs]
        with torch.no_grad():
            for leaf, value in zip(leaves, new, strict=True):
                leaf.copy_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert_close(found, results(module, tuple(new)), 1e-4)


def no_waiting(context: Context, backend: str) -> None:
    """No call waits for the card."""
    if context.device == "cpu":
        raise Skipped("only a card can be waited for")
    for _, module, inputs in on(context.device):
        results(module, inputs)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            results(module, inputs)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def other_stream(context: Context, backend: str) -> None:
    """Work goes to the current stream: behind a long wait there, it sees what was written before."""
    if context.device == "cpu":
        raise Skipped("streams need a card")
    for _, module, inputs in on(context.device):
        expected = results(module, inputs)
        late = tuple(torch.full_like(tensor, float("nan")) for tensor in inputs)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            torch.cuda._sleep(20_000_000)
            for tensor, value in zip(late, inputs, strict=True):
                tensor.copy_(value)
            found = results(module, late)
        stream.synchronize()
        assert_close(found, expected, 1e-5)


def second_device(context: Context, backend: str) -> None:
    """On the second card while the first is the current one."""
    if context.device == "cpu" or torch.cuda.device_count() < 2:
        raise Skipped("there is one card at most")
    for (_, first, inputs), (_, second, others) in zip(on("cuda:0"), on("cuda:1"), strict=True):
        with torch.cuda.device(0):
            assert_close(results(second, others), tuple(t.cpu() for t in results(first, inputs)), 1e-4)


def large_tensors(context: Context, backend: str) -> None:
    """More elements than 31 bits count: the last images are normalized as they are alone."""
    if context.device == "cpu":
        raise Skipped("16 GiB of memory are taken on a card alone")
    if torch.cuda.mem_get_info()[0] < 24 << 30:
        raise Skipped("the card has less than 24 GiB free")
    plane = 64 * 128 * 128
    x = torch.empty((-(-BIG // plane), 64, 128, 128), dtype=torch.bfloat16, device=context.device)
    x[-2:].normal_()
    with torch.no_grad():
        found, expected = (
            instance_norm_act(x, activation="relu")[-2:],
            instance_norm_act(x[-2:].clone(), activation="relu"),
        )
    assert_close((found,), (expected,), 1e-2)


CHECKS: dict[str, Callable[[Context, str], None]] = {
    function.__name__.replace("_", " "): function
    for function in (
        autocast, same_bits, slices, graphs, no_waiting, other_stream, second_device, large_tensors, compiled
    )
}  # fmt: skip


NEEDS_SECONDS = {"compiled": 25.0}


def run(context: Context, before: Sequence[Found] = ()) -> list[Found]:
    """Every check for every backend, as far as time goes; what is found is kept with that of ``before``."""
    found: list[Found] = []
    lost = ""
    for name, function in CHECKS.items():
        for backend in context.backends():
            context.keep({"checks": [asdict(each) for each in (*before, *found)]})
            title = f"{name}, {backend}"
            reason = lost or ("no time was left" if context.left <= NEEDS_SECONDS.get(name, 0) else "")
            if reason:
                found.append(Found(title, "refused", reason))
                continue
            try:
                with use(backend):
                    probe(context)
                    function(context, backend)
                found.append(Found(title, "right"))
            except Skipped as reason:
                found.append(Found(title, "refused", str(reason)))
            except Exception as error:  # whatever it is, the others are still to be seen
                found.append(Found(title, "wrong", f"{type(error).__name__}: {error}"[:500]))
                if context.device != "cpu" and not card_answers():
                    lost = f"the card answers nothing since: {title}"
    return found


def probe(context: Context) -> None:
    """Skipped, with the reason, where the backend serves nothing here."""
    try:
        for _, module, inputs in on(context.device):
            explain(module, *inputs)
    except RuntimeError as error:
        _, refused, reason = str(error).partition("cannot serve this call: ")
        if refused:
            raise Skipped(reason) from None
        raise
