"""FERSNet's training step and inference: fused modules, stock modules, stock modules under torch.compile."""

SUITE = "fersnet_step"


def test_fersnet_step(case, provider, replay) -> None:
    replay(case, provider)
