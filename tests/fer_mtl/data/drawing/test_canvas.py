from __future__ import annotations

import pytest
import torch

from fer_mtl.data.drawing.canvas import Canvas, bend, ellipse, rounded_box, shade, stroke


def canvas(size: int = 64, batch: int = 1) -> Canvas:
    """Black, -1..1 both ways."""
    line = (torch.arange(size) + 0.5) * (2 / size) - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    grid = (batch, size, size)
    return Canvas(
        torch.zeros(batch, 3, size, size), x.expand(grid), y.expand(grid), torch.full((batch, 1, 1), 2 / size)
    )


def area(picture: Canvas) -> float:
    """Painted part of the 2 x 2 square."""
    return float(picture.pixels[0, 0].mean()) * 4


def test_shapes_cover_their_area_with_antialiased_edges() -> None:
    disc = canvas()
    disc.paint(ellipse(disc.x, disc.y, 0.5, 0.5), (1.0, 1.0, 1.0))
    assert area(disc) == pytest.approx(torch.pi * 0.25, rel=0.01)
    assert ((disc.pixels > 0.05) & (disc.pixels < 0.95)).any()
    oval = canvas()
    oval.paint(ellipse(oval.x, oval.y, 0.7, 0.3), (1.0, 1.0, 1.0))
    assert area(oval) == pytest.approx(torch.pi * 0.21, rel=0.02)
    box = canvas()
    box.paint(rounded_box(box.x, box.y, 0.5, 0.25, 0.1), (1.0, 1.0, 1.0))
    assert area(box) == pytest.approx(0.5 - (4 - torch.pi) * 0.01, rel=0.02)


def test_a_stroke_follows_its_curve_with_round_ends() -> None:
    t = torch.linspace(0, 1, 9)
    curve = bend(t, 0.0, 0.4, 0.2)
    distance = stroke(-0.5 + t, curve, (-0.5, 0.0), 0.4, (0.5, 0.2), 0.05)
    assert torch.allclose(distance, torch.full_like(t, -0.05), atol=1e-5)
    end = stroke(torch.tensor(0.6), torch.tensor(0.2), (-0.5, 0.0), 0.4, (0.5, 0.2), 0.05)
    assert float(end) == pytest.approx(0.05)


def test_a_taper_thins_one_end() -> None:
    at_end = stroke(torch.tensor([0.0, 1.0]), torch.zeros(2), (0.0, 0.0), 0.0, (1.0, 0.0), 0.1, taper=0.6)
    assert at_end.tolist() == pytest.approx([-0.1, -0.04])


def test_opacity_colour_and_softness() -> None:
    picture = canvas()
    picture.paint(ellipse(picture.x, picture.y, 0.5, 0.5), (0.8, 0.4, 0.2), opacity=0.5)
    assert picture.pixels[0, :, 32, 32].tolist() == pytest.approx([0.4, 0.2, 0.1])
    sharp, soft = canvas(), canvas()
    for one, width in ((sharp, 0.0), (soft, 0.3)):
        one.paint(one.x, (1.0, 1.0, 1.0), soft=width)
    assert len(soft.pixels[0, 0, 0].unique()) > len(sharp.pixels[0, 0, 0].unique()) + 5


def test_opacity_per_picture() -> None:
    picture = canvas(batch=2)
    picture.paint(
        ellipse(picture.x, picture.y, 0.5, 0.5), (1.0, 1.0, 1.0), torch.tensor([0.0, 1.0]).view(2, 1, 1)
    )
    assert not picture.pixels[0].any()
    assert picture.pixels[1].any()


def test_a_window_shares_the_pixels_and_holds_what_it_should() -> None:
    picture = canvas()
    window = picture.window(0.2, 0.6, -0.5, -0.1)
    assert window.x.shape[-1] < 32
    assert float(window.x.min()) <= 0.22 and float(window.x.max()) >= 0.58
    assert float(window.y.min()) <= -0.48 and float(window.y.max()) >= -0.12
    window.paint(ellipse(window.x - 0.4, window.y + 0.3, 0.1, 0.1), (1.0, 1.0, 1.0))
    assert area(picture) == pytest.approx(torch.pi * 0.01, rel=0.05)


def test_windows_of_a_half_mirror_each_other() -> None:
    left, right = (canvas().half(side, 0.2, 0.6, 0.0, 0.4) for side in (-1, 1))
    assert float(left.x.max()) < 0 < float(right.x.min())


def test_a_window_beyond_the_picture_is_harmless() -> None:
    picture = canvas()
    window = picture.window(3.0, 4.0, 3.0, 4.0)
    window.paint(ellipse(window.x - 3.5, window.y - 3.5, 0.1, 0.1), (1.0, 1.0, 1.0))
    assert not picture.pixels.any()


def test_shade_stops_at_white() -> None:
    assert shade((0.5, 0.9), 1.5) == pytest.approx([0.75, 1.0])
