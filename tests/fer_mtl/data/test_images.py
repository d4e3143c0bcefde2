from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from fer_mtl.data.images import Cropped, ImageError, open_image, read_images

SIDE = 55  # stored for image_size 48


def ramp(width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """Grey levels that grow to the right and, faster, downwards."""
    x, y = np.meshgrid(np.linspace(0, 80, width), np.linspace(0, 160, height))
    return np.round(x + y).astype(np.uint8)


def read(path: Path, channels: int = 1, size: int = 48) -> torch.Tensor:
    return read_images([path], image_size=size, channels=channels).pixels[0]


def test_grey_levels_are_kept_exactly(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(ramp()).save(path)
    assert read(path)[0].numpy().tolist() == ramp().tolist()
    colour = read(path, channels=3)
    assert colour.shape == (3, SIDE, SIDE)
    assert all(plane.equal(colour[0]) for plane in colour)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    Image.fromarray(ramp().astype(np.uint16) * 257).save(path)
    assert open_image(path).mode == "L"
    assert read(path)[0].numpy().tolist() == ramp().tolist()


@pytest.mark.parametrize(("kind", "name"), [(np.uint16, "a.png"), (np.int32, "a.tif")])
def test_eight_bits_in_a_file_of_more_are_refused(kind: type, name: str, tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=kind).reshape(16, 16)).save(tmp_path / name)
    with pytest.raises(
        ImageError, match=r"grey levels 0\.\.255 of a picture of 16 bits or more would be black"
    ):
        open_image(tmp_path / name)


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side; to be turned clockwise by a quarter
    Image.fromarray(np.rot90(ramp()).copy()).save(path, exif=exif)
    assert read(path)[0].numpy().tolist() == ramp().tolist()


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    path = tmp_path / "alpha.png"
    pixels = np.dstack([ramp()] * 3 + [np.full_like(ramp(), 255)])
    pixels[:10, :, 3] = 0
    Image.fromarray(pixels).save(path)
    result = read(path)[0].numpy()
    assert (result[:10] == 255).all()
    assert (result[10:] == ramp()[10:]).all()


def test_a_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    path = tmp_path / "palette.gif"
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([200, 0, 0, 0, 0, 200] + [0] * 762)
    image.paste(1, (0, 0, SIDE, 20))
    image.save(path, transparency=0)
    result = read(path, channels=3)
    assert result[:, 40, 40].tolist() == [255, 255, 255]
    assert result[:, 5, 5].tolist() == [0, 0, 200]


@pytest.mark.parametrize("mode", ["CMYK", "1", "P", "YCbCr", "LA", "RGB"])
def test_every_mode_becomes_a_picture(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode in ("CMYK", "YCbCr") else "image.png")
    Image.fromarray(ramp()).convert("RGB").convert(mode).save(path)
    result = read(path)[0].float()
    tolerance = {"1": 130, "P": 25}.get(mode, 3)  # few levels are dithered
    assert (result - torch.from_numpy(ramp()).float()).abs().mean() < tolerance
    assert result[45:].mean() > result[:10].mean() + 50


def test_names_with_spaces_and_letters_of_all_alphabets(tmp_path: Path) -> None:
    path = tmp_path / "Überraschung 笑顔 é .png"
    Image.fromarray(ramp()).save(path)
    assert read(path).shape == (1, SIDE, SIDE)


def test_other_sizes_are_resized_and_it_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = [(48, 48), (48, 48), (SIDE, SIDE), (200, 100)]
    paths = []
    for i, (width, height) in enumerate(sizes):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(ramp(width, height)).save(paths[-1])
    with caplog.at_level(logging.WARNING):
        images = read_images(paths, image_size=48, channels=1)
    assert images.notes == [record.message for record in caplog.records]
    assert len(images.notes) == 1
    assert "3 of 4 images resized to 55 x 55 (most are 48 x 48)" in images.notes[0]
    assert "1 that are not square" in images.notes[0]
    exact = torch.from_numpy(ramp()).float()
    assert (images.pixels[0, 0].float() - exact).abs().mean() < 2
    # The centre square of a picture twice as wide as high loses a quarter of the width on both sides.
    assert images.pixels[3, 0, :, 0].float().mean() > exact[:, 0].mean() + 10


def test_the_right_size_is_passed_over_in_silence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    assert read_images([tmp_path / "a.png"], image_size=48).notes == []
    assert not caplog.records


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    """A good, an empty, a truncated, a good and a nonsense file."""
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in (paths[0], paths[2], paths[3]):
        Image.fromarray(ramp()).save(path)
    paths[1].touch()
    paths[2].write_bytes(paths[2].read_bytes()[:80])
    paths[4].write_text("not a picture")
    return paths


def test_the_first_bad_file_is_named(mixed: list[Path]) -> None:
    with pytest.raises(ImageError, match=r"1\.png: the file is empty \(and 2 more\); skip_bad_images"):
        read_images(mixed, image_size=48)


@pytest.mark.parametrize("index", [2, 4])
def test_broken_files_are_named_one_by_one(mixed: list[Path], index: int) -> None:
    with pytest.raises(ImageError, match=rf"{index}\.png: not a readable image"):
        read_images([mixed[index]], image_size=48)


def test_bad_files_are_skipped_and_listed_on_request(mixed: list[Path]) -> None:
    images = read_images(mixed, image_size=48, channels=1, skip_bad_images=True)
    assert images.kept == [0, 3]
    assert [line.split(":")[0].rsplit("/")[-1] for line in images.skipped] == ["1.png", "2.png", "4.png"]
    assert len(images.pixels) == 2
    assert (images.pixels[1, 0].numpy() == ramp()).all()


def test_nothing_left_is_an_error(mixed: list[Path]) -> None:
    with pytest.raises(ImageError, match="no readable image among 2 files"):
        read_images([mixed[1], mixed[4]], image_size=48, skip_bad_images=True)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.png"):
        read_images([tmp_path / "gone.png"], image_size=48)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tiff"
    Image.fromarray(ramp().astype(np.float32)).save(path)
    with pytest.raises(ImageError, match=r"float\.tiff: floating point"):
        open_image(path)


def test_no_file_is_run_as_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow has Ghostscript run whatever begins as PostScript does."""
    path = tmp_path / "photo.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n")

    def run(*_: object) -> None:
        pytest.fail("Ghostscript was run")

    monkeypatch.setattr(EpsImagePlugin.EpsImageFile, "load", run)
    with pytest.raises(ImageError, match=r"photo\.jpg: PostScript is a program; store it as a picture"):
        open_image(path)


def test_more_files_than_one_task_takes(tmp_path: Path) -> None:
    paths = []
    for i in range(70):
        paths.append(tmp_path / f"{i}.png")
        Image.new("L", (SIDE, SIDE), i).save(paths[-1])
    pixels = read_images(paths, image_size=48, channels=1).pixels
    assert pixels[:, 0, 7, 7].tolist() == list(range(70))


def test_a_box_is_cut_out(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    scene = np.pad(ramp(), ((7, 20), (11, 3)))
    Image.fromarray(scene).save(path)
    images = read_images([Cropped(path, 11, 7, SIDE, SIDE)], image_size=48, channels=1)
    assert images.pixels[0, 0].numpy().tolist() == ramp().tolist()
    assert images.notes == []


def test_boxes_beyond_the_picture_are_cut_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "scene.png"
    Image.fromarray(ramp()).save(path)
    assert Cropped(path, -5, 50, 20, 20).open().size == (15, 5)
    with pytest.raises(ImageError, match=r"scene\.png: the box \[60, 0, 70, 10\] .* lies outside .* 55 x 55"):
        Cropped(path, 60, 0, 10, 10).open()
