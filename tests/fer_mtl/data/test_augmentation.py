from __future__ import annotations

from itertools import product

import pytest
import torch

from fer_mtl.data.augmentation import LEVELS, Augment, Level, center


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def numbered(n: int = 3, channels: int = 3, side: int = 37) -> torch.Tensor:
    """Random bytes: no two windows are alike."""
    return torch.randint(0, 256, (n, channels, side, side), generator=generator(7), dtype=torch.uint8)


def test_paper_views_are_windows_of_the_image_or_their_mirror() -> None:
    images = numbered()
    views = Augment(32)(images, generator=generator())
    assert views.shape == (3, 3, 32, 32) and views.dtype == torch.float32
    for image, view in zip(images, views, strict=True):
        found = [
            (top, left, mirrored)
            for top, left, mirrored in product(range(6), range(6), (False, True))
            if (image[:, top : top + 32, left : left + 32].float() / 255).equal(
                view.flip(2) if mirrored else view
            )
        ]
        assert len(found) == 1


def test_all_offsets_and_both_sides_occur() -> None:
    side, size = 10, 8
    images = torch.arange(side * side, dtype=torch.uint8).view(1, 1, side, side).expand(400, 1, side, side)
    views = Augment(size)(images, generator=generator()) * 255
    mirrored = views[:, 0, 0, 0] > views[:, 0, 0, 1]
    assert 120 < int(mirrored.sum()) < 280
    corners = torch.where(mirrored, views[:, 0, 0, -1], views[:, 0, 0, 0]).round().int()
    assert set(corners.tolist()) == {10 * top + left for top in range(3) for left in range(3)}
    unmirrored = Augment(size, flip=False)(images, generator=generator())
    assert (unmirrored[:, 0, 0, 0] < unmirrored[:, 0, 0, 1]).all()


@pytest.mark.parametrize("level", [*LEVELS, Level(rotation=20, brightness=0.2)])
@pytest.mark.parametrize("channels", [1, 3])
def test_source_and_target_are_seen_alike(level: str | Level, channels: int) -> None:
    # Noise and erasing are for the source alone; without them both views of one image are the same.
    if isinstance(level, str):
        level = Level(**(vars(LEVELS[level]) | {"noise": 0.0, "erase": 0.0}))
    images = numbered(8, channels)
    source, target = Augment(32, level=level)(images, images.clone(), generator=generator())
    assert source.equal(target)
    assert source.shape == (8, channels, 32, 32)
    assert float(source.min()) >= 0 and float(source.max()) <= 1


@pytest.mark.parametrize("level", list(LEVELS))
def test_the_generators_state_is_all_that_is_random(level: str) -> None:
    augment, images = Augment(32, level=level), numbered(16)
    random = generator(3)
    augment(images, generator=random)
    state = random.get_state()
    expected = augment(images, generator=random)
    again = generator(0)
    again.set_state(state)
    torch.rand(5)  # the global generator plays no part
    before = torch.get_rng_state()
    assert augment(images, generator=again).equal(expected)
    assert torch.get_rng_state().equal(before)
    assert not augment(images, generator=again).equal(expected)


def test_a_target_does_not_change_what_the_source_gets() -> None:
    images = numbered(8)
    for level in LEVELS:
        alone = Augment(32, level=level)(images, generator=generator())
        source, _ = Augment(32, level=level)(images, images.flip(0), generator=generator())
        assert alone.equal(source)


def test_views_are_seen_again_as_stored_faces_are() -> None:
    images = torch.randint(0, 256, (6, 1, 32, 32), generator=generator(7), dtype=torch.uint8)
    augment, floats = Augment(32, level="strong"), (images.float() / 255).requires_grad_()
    again = augment.again(floats, generator=generator())
    assert again.equal(augment(images, generator=generator()))
    again.square().sum().backward()
    assert (floats.grad != 0).flatten(1).any(1).all()
    assert floats.equal(images.float() / 255)
    assert Augment(32).again(floats, generator=generator()) is floats


def test_noise_and_holes_leave_the_target_clean() -> None:
    images = torch.full((64, 1, 37, 37), 128, dtype=torch.uint8)
    level = Level(noise=0.1, erase=1.0)
    source, target = Augment(32, level=level)(images, images, generator=generator())
    assert (target == 128 / 255).all()
    assert (source[0, 0] == 0.5).float().mean() > 0.02
    assert source[0].std() > 0.001
    untouched = Augment(32, level=Level(erase=0.25))(images, generator=generator())
    holes = (untouched == 0.5).flatten(1).any(1).float().mean()
    assert 0.1 < holes < 0.45


def test_a_warp_of_nothing_is_the_centre_crop() -> None:
    images = numbered(4, side=36)
    warped = Augment(32, flip=False, level=Level(rotation=1e-6))(images, generator=generator())
    assert torch.allclose(warped, center(images, 32), atol=1e-3)


def test_a_warp_mirrors_half_of_the_images_as_they_are() -> None:
    images = numbered(100, side=36)
    warped = Augment(32, level=Level(rotation=1e-6))(images, generator=generator())
    plain = center(images, 32)
    kept, mirrored = ((warped - view).abs().amax((1, 2, 3)) < 1e-3 for view in (plain, plain.flip(3)))
    assert (kept ^ mirrored).all() and 30 < int(mirrored.sum()) < 70


def test_a_warp_turns_shifts_and_scales() -> None:
    # A bright square off the centre: where it lands tells what was done.
    images = torch.zeros(300, 1, 73, 73, dtype=torch.uint8)
    images[:, :, 10:20, 32:41] = 255
    line = torch.arange(64) - 31.5

    def centroid(level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        views = Augment(64, flip=False, level=level)(images, generator=generator())[:, 0]
        mass = views.sum((1, 2))
        return (views.sum(1) * line).sum(1) / mass, (views.sum(2) * line).sum(1) / mass

    x, y = centroid(Level(rotation=20))
    angle = torch.rad2deg(torch.atan2(x, -y))
    assert angle.abs().max() < 20.5 and angle.std() > 8
    assert torch.allclose((x**2 + y**2).sqrt(), torch.tensor(21.5), atol=0.6)
    _, y = centroid(Level(scale=0.2))
    assert -21.5 * 1.25 - 0.5 < y.min() < -24 and -20 < y.max() < -16
    x, y = centroid(Level(shift=0.1))
    assert 5.5 < x.max() <= 6.6 and -6.6 <= x.min() < -5.5 and y.std() > 2


def test_light_changes_the_mean_and_the_spread() -> None:
    images = numbered(200)
    plain = center(images, 32)
    bright = Augment(32, level=Level(brightness=0.2))(images, generator=generator())
    shift = bright.mean((1, 2, 3)) - plain.mean((1, 2, 3))
    assert shift.abs().max() < 0.2 and shift.std() > 0.05
    sharp = Augment(32, level=Level(contrast=0.5))(images, generator=generator())
    ratio = sharp.std((1, 2, 3)) / plain.std((1, 2, 3))
    assert ratio.min() < 0.7 and ratio.max() > 1.1


def test_an_image_of_the_views_size_needs_no_margin() -> None:
    images = numbered(4, side=32)
    assert Augment(32, flip=False)(images, generator=generator()).equal(images.float() / 255)


def test_an_empty_batch_stays_empty() -> None:
    for level in LEVELS:
        views = Augment(32, level=level)(numbered(0), generator=generator())
        assert views.shape == (0, 3, 32, 32)
    assert center(numbered(0), 32).shape == (0, 3, 32, 32)


def test_center_takes_the_middle() -> None:
    images = numbered(2, side=36)
    assert center(images, 32).equal(images[:, :, 2:34, 2:34].float() / 255)


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(2, 3, 37, 37), TypeError, "source must be uint8, got torch.float32"),
        (torch.zeros(3, 37, 37, dtype=torch.uint8), ValueError, r"source must be \[N, C, S, S\]"),
        (
            torch.zeros(2, 3, 30, 30, dtype=torch.uint8),
            ValueError,
            "side 30 cannot be cropped to image_size 32",
        ),
        (torch.zeros(2, 2, 37, 37, dtype=torch.uint8), ValueError, "channels must be 1"),
    ],
)
def test_bad_batches_are_refused(images: torch.Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Augment(32)(images, generator=generator())


def test_bad_levels_and_targets_are_refused() -> None:
    with pytest.raises(ValueError, match=r"level must be one of .*'paper', 'strong'.* got 'wild'"):
        Augment(32, level="wild")
    with pytest.raises(ValueError, match="target must have the source's shape"):
        Augment(32)(numbered(2), numbered(3), generator=generator())
