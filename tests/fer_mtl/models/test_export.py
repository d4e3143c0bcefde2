from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

from fer_mtl.models import export
from fer_mtl.models.fersnet import FERSNet

ONNX = ("onnx", "onnxruntime", "onnxscript")


def needs_onnx() -> None:
    for package in ONNX:
        pytest.importorskip(package, reason="needs the extra `export`")


@pytest.fixture(scope="module")
def model() -> FERSNet:
    torch.manual_seed(1)
    return FERSNet(3, 32, 0.125, in_channels=1, blend=True).eval()


@pytest.fixture(scope="module")
def made(model: FERSNet) -> list[export.Program]:
    return export.programs(model)


def test_programs_are_plain_pytorch_and_tell_no_paths(made: list[export.Program]) -> None:
    assert [program.part.name for program in made] == ["recognition", "synthesis"]
    for program in made:
        assert not [node for node in program.exported.graph.nodes if "fused_ops" in str(node.target)]
        assert not [node for node in program.exported.graph.nodes if "stack_trace" in node.meta]


def test_recognition_leaves_the_decoder_out(made: list[export.Program], model: FERSNet) -> None:
    carried = [set(program.exported.state_dict) for program in made]
    assert not [name for name in carried[0] if "decoder" in name]
    assert [name for name in carried[1] if "decoder" in name]
    assert model.decoder is not None and next(model.decoder.parameters(), None) is not None


def test_pt2_files_compute_what_the_network_does(
    made: list[export.Program], model: FERSNet, tmp_path: Path
) -> None:
    for program in made:
        path = tmp_path / f"{program.part.name}.pt2"
        export.write_pt2(program, path, {"expressions": "a, b, c"})
        found = {"expressions.txt": ""}
        run = torch.export.load(path, extra_files=found).module()
        assert found == {"expressions.txt": "a, b, c"}
        with zipfile.ZipFile(path) as file:
            assert not [name for name in file.namelist() if str(Path.cwd()).encode() in file.read(name)]
        for batch in (1, 5):
            inputs = program.part.example(batch)
            with torch.no_grad():
                torch.testing.assert_close(run(*inputs), program.part(*inputs), rtol=1e-4, atol=1e-5)
    image, code = made[1].part.example(2)
    with torch.no_grad():
        torch.testing.assert_close(made[1].part(image, code), model(image, code)["image"])


def test_onnx_files_compute_what_the_network_does(made: list[export.Program], tmp_path: Path) -> None:
    needs_onnx()
    import onnx
    import onnxruntime

    for program in made:
        path = tmp_path / f"{program.part.name}.onnx"
        export.write_onnx(program, path, {"expressions": "a, b, c"})
        content = onnx.load(path)
        onnx.checker.check_model(content, full_check=True)
        assert {prop.key: prop.value for prop in content.metadata_props}["expressions"] == "a, b, c"
        assert str(Path.cwd()).encode() not in path.read_bytes()
        session = onnxruntime.InferenceSession(str(path))
        assert tuple(given.name for given in session.get_inputs()) == program.part.inputs
        inputs = program.part.example(4)
        named = {name: value.numpy() for name, value in zip(program.part.inputs, inputs, strict=True)}
        (found,) = session.run([program.part.output], named)
        with torch.no_grad():
            expected = program.part(*inputs)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_a_recogniser_is_one_program() -> None:
    recogniser = FERSNet(2, 32, 0.125, sharing="none", synthesis=False).eval()
    (program,) = export.programs(recogniser)
    assert program.part.name == "recognition"


def test_a_program_that_differs_is_refused(made: list[export.Program]) -> None:
    part = made[0].part
    export.check(part, part)
    with pytest.raises(
        RuntimeError, match=r"recognition: the exported program differs from the network by 1\.0e-03"
    ):
        export.check(part, lambda image: part(image) * 1.001)
    with pytest.raises(RuntimeError, match="differs"):
        export.check(part, lambda image: part(image) * float("nan"))
