import subprocess
import sys

import pytest

import fer_mtl


def test_public_names_are_there():
    from fer_mtl.models.fersnet import FERSNet

    assert fer_mtl.FERSNet is FERSNet
    for name in fer_mtl.__all__:
        assert getattr(fer_mtl, name) is not None
    assert set(fer_mtl.__all__) <= set(dir(fer_mtl))


def test_import_is_lazy():
    code = "import sys, fer_mtl; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="FERNet"):
        fer_mtl.FERNet  # noqa: B018
