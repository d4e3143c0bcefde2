from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fer_mtl.app.studio import SHOWN_SIDE, Studio, shown, stored_picture
from fer_mtl.commands.export import facts
from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.data.images import ImageError
from fer_mtl.evaluation.predict import predict
from fer_mtl.evaluation.reading import Frame
from fer_mtl.evaluation.synthesis import synthesise
from fer_mtl.faces import Face
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.training.checkpoints import TrainedModel, load_model


class Finds:
    """A detector that finds faces in these boxes."""

    def __init__(self, *boxes: tuple[float, float, float, float]) -> None:
        self.boxes = boxes

    def detect(self, image: np.ndarray) -> list[Face]:
        return [Face(box) for box in self.boxes]


@pytest.fixture(scope="module")
def trained(trained_run: Path) -> TrainedModel:
    return load_model(trained_run)


@pytest.fixture
def photo(tmp_path: Path, faces: FaceSet) -> Path:
    path = tmp_path / "photo.png"
    stored_picture(faces.images[3]).save(path)
    return path


def pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32))


def test_a_cropped_face_is_read_and_redrawn_as_the_model_does_it(
    trained: TrainedModel, photo: Path, faces: FaceSet
) -> None:
    studio = Studio(trained, Finds())
    (reading,) = studio.look(photo, cropped=True).readings
    expected = predict(trained.model, faces.images[3:4]).double().softmax(1)[0]
    assert list(studio.probabilities(reading)) == list(trained.classes)
    found = torch.tensor(list(studio.probabilities(reading).values()), dtype=torch.float64)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)

    source = center(faces.images[3:4], trained.model.config["image_size"])
    for expression in ("fear", "surprise"):
        label = torch.tensor([trained.classes.index(expression)])
        made = shown(synthesise(trained.model, source, label)[0])
        assert pixels(studio.blended(reading, expression, 1)).equal(pixels(made))
    # Not at all on its way is the same for all, namely what was read, drawn again.
    assert pixels(studio.blended(reading, "fear", 0)).equal(pixels(studio.blended(reading, "surprise", 0)))
    assert not pixels(studio.blended(reading, "fear", 0.5)).equal(pixels(studio.blended(reading, "fear", 1)))
    assert studio.redrawn(reading).width > studio.redrawn(reading).height
    assert studio.gates(reading) is not None


def test_faces_are_found_the_largest_first_and_marked(trained: TrainedModel, photo: Path) -> None:
    studio = Studio(trained, Finds((1, 2, 10, 10), (12, 2, 20, 20)))
    seen = studio.look(photo, cropped=False)
    assert [reading.face.box[2] for reading in seen.readings] == [20, 10]
    drawn = studio.marked(seen)
    assert min(drawn.size) >= SHOWN_SIDE and drawn.width % seen.image.width == 0
    times = drawn.width // seen.image.width
    for reading in seen.readings:
        left, top, width, height = (round(times * value) for value in reading.face.box)
        assert drawn.getpixel((left + width // 2, top + height)) == (37, 99, 235), "the box's lower edge"

    nothing = Studio(trained, Finds()).look(photo, cropped=False)
    assert nothing.readings == [] and Studio(trained, Finds()).marked(nothing).mode == "RGB"


def test_what_is_no_picture_is_named(trained: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / "none.png").write_text("nothing of a picture")
    with pytest.raises(ImageError, match=r"none\.png"):
        Studio(trained, Finds()).look(tmp_path / "none.png", cropped=True)


def test_a_network_without_gates_or_synthesis(photo: Path) -> None:
    expressions = ("no", "yes")
    recogniser = FERSNet(2, 32, 0.125, sharing="none", synthesis=False).eval()
    studio = Studio(TrainedModel(recogniser, expressions), Finds())
    (reading,) = studio.look(photo, cropped=True).readings
    assert not studio.draws and not studio.drawn_faces and studio.config is None
    assert studio.description() == "FERSNet; no, yes; colour faces of 32 x 32 pixels"
    with pytest.raises(ValueError, match="synthesis branch"):
        studio.redrawn(reading)
    with pytest.raises(ValueError, match="drawn faces"):
        studio.strangers()
    hard = Studio(TrainedModel(FERSNet(2, 32, 0.125, sharing="hard").eval(), expressions), Finds())
    assert hard.draws and hard.gates(hard.look(photo, cropped=True).readings[0]) is None


def test_strangers_are_drawn_as_in_training_and_new(trained: TrainedModel, faces: FaceSet) -> None:
    studio = Studio(trained, Finds())
    assert studio.drawn_faces and "trained on procedural" in studio.description()
    strangers = studio.strangers()
    assert [name for _, name in strangers] == list(trained.classes)
    known = [pixels(stored_picture(face)) for face in faces.images]
    for image, _ in strangers:
        assert image.size == (faces.images.shape[3],) * 2
        assert min(float((pixels(image) - other).abs().mean()) for other in known) > 2


def test_a_model_folder_tells_what_its_run_told(trained: TrainedModel, tmp_path: Path) -> None:
    trained.model.save_pretrained(tmp_path / "given", facts(trained))
    run, folder = Studio(trained, Finds()), Studio(load_model(tmp_path / "given"), Finds())
    assert folder.config is None and folder.description() == run.description()
    assert [image.size for image, _ in folder.strangers()] == [image.size for image, _ in run.strangers()]

    with_neutral = FERSNet(2, 32, 0.125).eval()
    with_neutral.metadata = {"data": "procedural"}
    strangers = Studio(TrainedModel(with_neutral, ("neutral", "fear")), Finds()).strangers()
    assert [name for _, name in strangers] == ["neutral", "fear"]


@pytest.mark.parametrize(
    ("size", "shown_size"),
    [
        ((48, 48), (288, 288)),
        ((1500, 1), (1500, 1)),
        ((100, 1), (2000, 20)),
        ((4096, 1), (2048, 1)),
        ((300, 300), (300, 300)),
        ((4096, 3072), (2048, 1536)),
    ],
)
def test_pictures_are_shown_neither_small_nor_large(
    trained: TrainedModel, tmp_path: Path, size: tuple[int, int], shown_size: tuple[int, int]
) -> None:
    Image.new("L", size).save(tmp_path / "photo.png")
    studio = Studio(trained, Finds((size[0] / 2, 0, size[0] / 4, size[1])))
    marked = studio.marked(studio.look(tmp_path / "photo.png", cropped=False))
    assert marked.size == shown_size
    middle = pixels(marked)[shown_size[1] // 2]
    assert middle[shown_size[0] // 2].any() and not middle[shown_size[0] // 3].any()  # the box on black


def test_the_surest_frame_of_each_expression_in_order(trained: TrainedModel, photo: Path) -> None:
    studio = Studio(trained, Finds())
    image = Image.open(photo)
    (reading,) = studio.look(photo, cropped=True).readings
    face, stored = reading.face, reading.stored

    def frame(number: int, *probability: float) -> Frame:
        rest = (0.0,) * (len(trained.classes) - len(probability))
        readings = [type(reading)(face, (*probability, *rest), stored)] if probability else []
        return Frame(number, None if number == 9 else number / 10, image, readings)

    seen = studio.start()
    for each in (frame(0, 0.3, 0.7), frame(1, 0.8, 0.2), frame(2), frame(3, 0.2, 0.8), frame(9, 0.7, 0.3)):
        seen.add("talk.mp4", each)
    assert [caption for _, caption in seen.gallery()] == ["0.1 s", "0.3 s"]
    assert seen.track.summary().startswith("5 frames read, 4 with a face; the largest shows ")
    lines = seen.table.text().splitlines()
    assert len(lines) == 6 and lines[3].startswith("talk.mp4,,2,0.200,0,")
