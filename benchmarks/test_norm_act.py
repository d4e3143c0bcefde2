"""norm_act in all its forms against eager, torch.compile and the copying of its fewest bytes."""

SUITE = "norm_act"


def test_norm_act(case, provider, replay) -> None:
    replay(case, provider)
