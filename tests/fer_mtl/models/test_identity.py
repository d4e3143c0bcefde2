import pytest
import torch
import torch.nn.functional as F

from fer_mtl.models.identity import FeatureNetwork, IdentityEncoder, LightCNN9, MaxFeatureMap, freeze, grey


def test_grey_is_luma():
    colour = torch.tensor([1.0, 0.5, 0.0]).reshape(1, 3, 1, 1)
    assert grey(colour).item() == pytest.approx(0.299 + 0.587 / 2)
    assert grey(colour[:, :1]).item() == 1.0
    with pytest.raises(ValueError, match="1 or 3"):
        grey(torch.rand(1, 2, 4, 4))


def test_encoder_learns_to_tell_subjects_apart():
    torch.manual_seed(0)
    encoder = IdentityEncoder(4, in_channels=1, width=0.25)
    subjects = torch.arange(4).repeat(4)
    images = torch.rand(4, 1, 32, 32)[subjects] + 0.05 * torch.randn(16, 1, 32, 32)
    optimiser = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    for _ in range(15):
        optimiser.zero_grad()
        F.cross_entropy(encoder(images), subjects).backward()
        optimiser.step()
    encoder.train()
    assert (encoder(images).argmax(1) == subjects).float().mean() == 1.0


def test_frozen_encoder_passes_gradients_to_images_only():
    encoder = IdentityEncoder(3, width=0.25)
    freeze(encoder)
    images = torch.rand(2, 3, 32, 48, requires_grad=True)
    features = encoder.features(images)
    assert features.shape == (2, 32, 2, 3)
    features.square().sum().backward()
    assert images.grad.abs().sum() > 0
    assert all(p.grad is None for p in encoder.parameters()) and not encoder.training


def test_both_are_feature_networks():
    assert isinstance(IdentityEncoder(2), FeatureNetwork)
    assert isinstance(LightCNN9(), FeatureNetwork)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: IdentityEncoder(1), "num_subjects: .* got 1"),
        (lambda: IdentityEncoder(2, in_channels=4), "in_channels: .* got 4"),
        (lambda: IdentityEncoder(2, width=-1), "width: .* got -1"),
        (lambda: IdentityEncoder(2).features(torch.rand(1, 3, 24, 24)), "images: .* 16, got 24 x 24"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def published_names(state):
    """The state dict as the published checkpoint names it, classifier included (as empty as allowed)."""
    named = {f"module.{key.replace('trunk.', 'features.')}": value for key, value in state.items()}
    return named | {"module.fc1.filter.weight": torch.zeros(2), "module.fc2.weight": torch.zeros(2)}


@pytest.fixture(scope="module")
def light_cnn():
    torch.manual_seed(0)
    return LightCNN9()


def test_max_feature_map_keeps_the_larger_of_two_answers():
    layer = MaxFeatureMap(1, 2, 1)
    with torch.no_grad():
        layer.filter.weight.copy_(torch.tensor([1.0, -1.0, 3.0, -3.0]).reshape(4, 1, 1, 1))
        layer.filter.bias.zero_()
    assert layer(torch.tensor([[[[1.0, -1.0]]]])).tolist() == [[[[3.0, -1.0]], [[-1.0, 3.0]]]]


def test_light_cnn_sizes(light_cnn):
    for shape in ((2, 3, 96, 96), (2, 1, 128, 128)):
        assert light_cnn.features(torch.rand(shape)).shape == (2, 128, 8, 8)
    assert {key: list(value.shape) for key, value in light_cnn.state_dict().items() if "weight" in key} == {
        "trunk.0.filter.weight": [96, 1, 5, 5],
        "trunk.2.conv_a.filter.weight": [96, 48, 1, 1],
        "trunk.2.conv.filter.weight": [192, 48, 3, 3],
        "trunk.4.conv_a.filter.weight": [192, 96, 1, 1],
        "trunk.4.conv.filter.weight": [384, 96, 3, 3],
        "trunk.6.conv_a.filter.weight": [384, 192, 1, 1],
        "trunk.6.conv.filter.weight": [256, 192, 3, 3],
        "trunk.7.conv_a.filter.weight": [256, 128, 1, 1],
        "trunk.7.conv.filter.weight": [256, 128, 3, 3],
    }


def test_light_cnn_resizes_as_torch_does(light_cnn):
    images = torch.rand(1, 1, 96, 64)
    resized = F.interpolate(images, (128, 128), mode="bilinear", align_corners=False)
    torch.testing.assert_close(light_cnn.features(images), light_cnn.features(resized), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("nested", [False, True])
def test_light_cnn_loads_a_published_checkpoint(light_cnn, tmp_path, nested):
    state = published_names(light_cnn.state_dict())
    torch.save({"state_dict": state, "epoch": 3} if nested else state, tmp_path / "weights.pth")
    loaded = LightCNN9.from_file(tmp_path / "weights.pth")
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded.features(images), light_cnn.features(images))
    assert not any(p.requires_grad for p in loaded.parameters())


class Payload:
    def __reduce__(self):
        return print, ("code inside a checkpoint ran",)


def test_light_cnn_refuses_bad_files(light_cnn, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    with pytest.raises(FileNotFoundError, match=r"weights\.pth"):
        LightCNN9.from_file(path)

    path.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read"):
        LightCNN9.from_file(path)

    torch.save(Payload(), path)
    with pytest.raises(ValueError, match=r"weights\.pth cannot be read"):
        LightCNN9.from_file(path)
    assert "ran" not in capsys.readouterr().out

    torch.save([1, 2], path)
    with pytest.raises(ValueError, match=r"weights\.pth holds no state dict"):
        LightCNN9.from_file(path)

    state = published_names(light_cnn.state_dict())
    del state["module.features.0.filter.bias"]
    state["module.extra"] = torch.zeros(1)
    state["module.features.2.conv.filter.weight"] = torch.zeros(3)
    torch.save(state, path)
    with pytest.raises(
        ValueError,
        match=r"missing: trunk.0.filter.bias; unknown: extra; of another shape: trunk.2.conv.*\[3\]",
    ):
        LightCNN9.from_file(path)
