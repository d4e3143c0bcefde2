import pytest

from fer_mtl.models.discriminator import Discriminator
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.models.presets import PRESETS


@pytest.mark.parametrize(("name", "generator"), [("paper", 53_983_438), ("small", 3_381_455)])
def test_presets_build_networks_of_known_size(name, generator):
    model = FERSNet(6, **PRESETS[name])
    assert model.parameter_counts()["total"] == generator
    assert Discriminator(6, width=PRESETS[name]["width"]).config["width"] == model.config["width"]
