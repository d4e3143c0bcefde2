from __future__ import annotations

import json

import torch

from fer_mtl.training.environment import environment


def test_it_says_what_ran_where_without_naming_the_machine() -> None:
    import platform

    found = environment()
    assert found["versions"]["torch"] == torch.__version__
    assert found["processor"] and found["threads"] == torch.get_num_threads()
    assert platform.node() not in json.dumps(found)
