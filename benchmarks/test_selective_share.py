"""selective_share, with gates kept or recomputed, against eager, torch.compile and its products alone."""

SUITE = "selective_share"


def test_selective_share(case, provider, replay) -> None:
    replay(case, provider)
