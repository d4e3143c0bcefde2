import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from fer_mtl.models.discriminator import Discriminator
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.identity import IdentityEncoder


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FERSNet(5, 32, 0.125, levels=(2, 3), in_channels=1)


@pytest.fixture
def folder(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder, **changes):
    description = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**description, **changes}))


@pytest.mark.parametrize(
    "build",
    [
        lambda: FERSNet(5, 32, 0.125, levels=(2, 3)).to(memory_format=torch.channels_last),
        lambda: Discriminator(5, width=0.125),
        lambda: IdentityEncoder(4, width=0.25),
    ],
    ids=["FERSNet", "Discriminator", "IdentityEncoder"],
)
def test_round_trip(build, tmp_path):
    model = build()
    model.save_pretrained(tmp_path, metadata={"classes": ["Ärger", "joy"], "accuracy": 0.9})
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.config == model.config
    assert loaded.metadata == {"classes": ["Ärger", "joy"], "accuracy": 0.9}
    assert not loaded.training
    torch.testing.assert_close(dict(loaded.state_dict()), dict(model.state_dict()), rtol=0, atol=0)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "model.safetensors"]


def test_whoever_may_read_one_file_may_read_all(folder):
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1


def test_model_card_says_what_it_is(model, tmp_path):
    model.save_pretrained(tmp_path, metadata={"data": "procedural"})
    card = (tmp_path / "README.md").read_text()
    parameters = sum(p.numel() for p in model.parameters())
    for text in (
        f"{parameters:,} parameters",
        "FERSNet.from_pretrained",
        "`[2, 3]`",
        '`"procedural"`',
        "## Limits",
    ):
        assert text in card


def test_saving_again_keeps_metadata_and_replaces_weights(model, folder):
    model.save_pretrained(folder, metadata={"run": 1})
    loaded = FERSNet.from_pretrained(folder)
    with torch.no_grad():
        loaded.stem.conv.weight.fill_(0.5)
    loaded.save_pretrained(folder)
    again = FERSNet.from_pretrained(folder)
    assert again.metadata == {"run": 1}
    assert (again.stem.conv.weight == 0.5).all()


def test_interrupted_saving_leaves_the_old_network(model, folder, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    before = (folder / "model.safetensors").read_bytes()
    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        FERSNet(5, 32, 0.25).save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(os.listdir(folder)) == ["README.md", "config.json", "model.safetensors"]


def test_metadata_must_be_json(model, tmp_path):
    with pytest.raises(TypeError, match=r"metadata: .* JSON"):
        model.save_pretrained(tmp_path / "new", metadata={"weights": torch.zeros(1)})
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        FERSNet.from_pretrained(folder)


def test_wrong_keys_are_named(folder):
    path = folder / "model.safetensors"
    state = load_file(path)
    del state["stem.conv.bias"]
    state["stem.extra"] = torch.zeros(1)
    state["classifier.linear.bias"] = torch.zeros(9)
    save_file(state, path)
    with pytest.raises(ValueError) as caught:
        FERSNet.from_pretrained(folder)
    assert "missing: stem.conv.bias; unknown: stem.extra; of another shape: classifier.linear.bias" in str(
        caught.value
    )
    assert "(has [9], needs [5])" in str(caught.value)


def test_many_wrong_keys_are_counted(folder):
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing: .* and \d+ more; unknown: a"):
        FERSNet.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format version 99, .* up to 1: upgrade fer_mtl"),
        ({"class": "Discriminator"}, "holds a Discriminator"),
        ({"config": {"depth": 3}}, "does not fit FERSNet, .*depth"),
        ({"config": [1]}, "config must be an object, got list"),
        ({"format_version": "new"}, "not a configuration written by save_pretrained"),
    ],
)
def test_foreign_configuration_is_explained(folder, changes, message):
    edit_config(folder, **changes)
    with pytest.raises(ValueError, match=rf"config\.json.*{message}"):
        FERSNet.from_pretrained(folder)


def test_broken_files_are_named(folder):
    (folder / "model.safetensors").write_bytes(b"\0" * 4)
    with pytest.raises(ValueError, match=r"model\.safetensors is not a readable"):
        FERSNet.from_pretrained(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not a configuration"):
        FERSNet.from_pretrained(folder)
