from __future__ import annotations

import csv
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs gradio (the extra `app`)")

from fer_mtl.app.page import NO_FACE, build, check_address, serve
from fer_mtl.app.studio import Studio, stored_picture
from fer_mtl.data import FaceSet
from fer_mtl.faces import Face
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.training.checkpoints import TrainedModel, load_model


class TwoFaces:
    """Finds two in any picture wider than high, none in others."""

    def detect(self, image: np.ndarray) -> list[Face]:
        height, width = image.shape[:2]
        side = float(height)
        return [Face((0, 0, side / 2, side / 2)), Face((side, 0, side, side))] if width > height else []


@pytest.fixture(scope="module", autouse=True)
def own_temporary_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """gradio's client leaves an empty folder behind for every file that it downloads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("temporary")))
        yield


@pytest.fixture(scope="module")
def client(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from gradio_client import Client

    studio = Studio(load_model(trained_run), TwoFaces())
    with serve(studio, "127.0.0.1", None, open_browser=False) as address:
        yield Client(address, download_files=tmp_path_factory.mktemp("downloads"), verbose=False)


@pytest.fixture
def pair(tmp_path: Path, faces: FaceSet) -> Path:
    """Two drawn faces side by side."""
    one = stored_picture(faces.images[3]).convert("RGB")
    both = Image.new("RGB", (2 * one.width, one.height))
    both.paste(one)
    both.paste(stored_picture(faces.images[9]), (one.width, 0))
    both.save(tmp_path / "pair ü.png")
    return tmp_path / "pair ü.png"


def look(client: Any, path: Path, cropped: bool) -> Any:
    from gradio_client import handle_file

    return client.predict(handle_file(str(path)), cropped, "fear", 1.0, api_name="/picture")


def said(label: dict[str, Any]) -> dict[str, float]:
    return {each["label"]: each["confidence"] for each in label["confidences"]}


def test_a_picture_its_faces_and_what_is_drawn_of_them(client: Any, pair: Path, trained_run: Path) -> None:
    status, marked, which, label, grid, blended, gates = look(client, pair, cropped=False)
    assert status == "" and which["choices"] == [["1", "1"], ["2", "2"]] and which["value"] == "1"
    assert set(said(label)) == set(load_model(trained_run).classes)
    assert sum(said(label).values()) == pytest.approx(1, abs=1e-3)
    for file in (marked, grid, blended, gates):
        assert Image.open(file).format == "PNG"

    other, _, other_blended, _ = client.predict("2", "fear", 1.0, api_name="/face")
    assert said(other) != said(label)
    assert Path(other_blended).read_bytes() != Path(blended).read_bytes()
    half = client.predict("2", "fear", 0.5, api_name="/blend")
    assert Path(half).read_bytes() != Path(other_blended).read_bytes()


def test_no_face_and_the_way_out(client: Any, tmp_path: Path, faces: FaceSet) -> None:
    path = tmp_path / "square.png"
    stored_picture(faces.images[3]).save(path)
    status, marked, which, label, *drawn = look(client, path, cropped=False)
    assert status == NO_FACE and Path(marked).is_file() and not which["visible"]
    assert not label and drawn == [None] * 3
    status, _, which, label, *drawn = look(client, path, cropped=True)
    assert status == "" and not which["visible"] and label["label"] in said(label) and all(drawn)


def test_a_drawn_person_and_then_a_bad_file(client: Any, tmp_path: Path) -> None:
    # A click on an example gives the visitor's session a copy of the component.
    example = client.predict(2, fn_index=0)["value"]
    path = Path(example["path"] if isinstance(example, dict) else example)
    status, _, _, label, *drawn = look(client, path, cropped=True)
    assert status == "" and said(label) and all(drawn)

    from gradio_client.exceptions import AppError

    bad = tmp_path / "face ü.png"
    bad.write_text("nothing of a picture")
    with pytest.raises(AppError, match=r"^face ü\.png: not a readable image"):
        look(client, bad, cropped=True)


def test_a_removed_picture_empties_the_page(client: Any) -> None:
    found = client.predict(None, True, "fear", 1.0, api_name="/picture")
    assert found[0] == "" and found[1] is None and not any(found[3:])


def test_bad_videos_are_named_without_their_folders(client: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    empty = tmp_path / "clip.mp4"
    empty.write_bytes(b"nothing of a video")
    pytest.importorskip("cv2", reason="needs OpenCV (the extra `faces`)")
    with pytest.raises(AppError, match=r"^clip\.mp4: not a readable video"):
        client.predict(handle_file(str(empty)), 5, True, api_name="/video")
    with pytest.raises(AppError, match="Choose or record a video first"):
        client.predict(None, 5, True, api_name="/video")


def test_a_video(client: Any, tmp_path: Path, faces: FaceSet) -> None:
    cv2 = pytest.importorskip("cv2", reason="needs OpenCV (the extra `faces`)")
    from gradio_client import handle_file

    side = faces.images.shape[3]
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (side, side))
    for index in range(7):
        writer.write(faces.images[index].permute(1, 2, 0).numpy()[..., ::-1].copy())
    writer.release()
    status, timeline, table, surest = client.predict(handle_file(str(clip)), 3, True, api_name="/video")
    assert status.startswith("3 frames read, 3 with a face; the largest shows ")
    assert Image.open(timeline).format == "PNG" and 1 <= len(surest) <= 3
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"], row["frame"]) for row in rows] == [("clip.avi", f"{n}") for n in (0, 3, 6)]
    status, *rest = client.predict(handle_file(str(clip)), 3, False, api_name="/video")
    assert status == NO_FACE and rest == [None, None, []]


def test_a_recogniser_has_no_part_for_drawing(tmp_path: Path, faces: FaceSet) -> None:
    from gradio_client import Client, handle_file

    model = FERSNet(2, 32, 0.125, sharing="none", synthesis=False).eval()
    studio, before = Studio(TrainedModel(model, ("no", "yes")), TwoFaces()), os.environ.get("GRADIO_TEMP_DIR")
    path = tmp_path / "face.png"
    stored_picture(faces.images[0]).save(path)
    with socket.create_server(("127.0.0.1", 0)) as free:  # one that no other test's page takes
        port = free.getsockname()[1]
    with serve(studio, "127.0.0.1", port, open_browser=False) as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        client = Client(address, download_files=tmp_path, verbose=False)
        found = client.predict(handle_file(str(path)), True, api_name="/picture")
        assert list(folder.rglob("face.png")) and folder.stat().st_mode & 0o077 == 0
    assert len(found) == 4 and set(said(found[3])) == {"no", "yes"}
    assert not folder.exists()  # nobody's picture outlives the page
    assert os.environ.get("GRADIO_TEMP_DIR") == before
    with pytest.raises(URLError, match="refused"):
        urlopen(address)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_addresses_of_ipv6(host: str) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    model = FERSNet(2, 32, 0.125, sharing="none", synthesis=False).eval()
    studio = Studio(TrainedModel(model, ("no", "yes")), TwoFaces())
    with serve(studio, host, None, open_browser=False) as address, urlopen(address) as page:
        assert address.startswith("http://[::1]:") and page.status == 200


def test_a_port_that_was_just_served_at_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        with socket.create_connection(address) as visitor:
            server.accept()[0].close()  # who closes first keeps the port busy for a minute
            assert visitor.recv(1) == b""
    check_address(*address)


def test_drawn_people_are_there_when_they_are_chosen(trained_run: Path, tmp_path: Path) -> None:
    """Not all releases of gradio made copies that they then found."""
    page = build(Studio(load_model(trained_run), TwoFaces()), tmp_path)
    (people,) = [block for block in page.blocks.values() if block.get_block_name() == "dataset"]
    assert people.raw_samples and all(Path(file).parent == tmp_path for (file,) in people.raw_samples)
    assert all(Path(file).is_file() for (file,) in people.raw_samples)


def test_what_cannot_be_read_empties_the_page(trained_run: Path, tmp_path: Path) -> None:
    """The next face is not drawn from the picture before, nor its reading left beside the error."""
    page = build(Studio(load_model(trained_run), TwoFaces()), tmp_path)
    events = page.config["dependencies"]
    for name in ("picture", "video"):
        (event,) = [each for each in events if each["api_name"] == name]
        (after,) = [each for each in events if each["trigger_after"] == event["id"]]
        assert after["trigger_only_on_failure"] and after["outputs"] == event["outputs"]
        values = page.fns[after["id"]].fn()
        assert len(values) == len(event["outputs"]) and values[0] in (None, "")
