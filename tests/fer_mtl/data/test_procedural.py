from __future__ import annotations

import time

import pytest
import torch

from fer_mtl.data import EXPRESSIONS, FaceSet, load
from fer_mtl.data.augmentation import center


def draw(**options: object) -> FaceSet:
    return load("procedural", **({"image_size": 32, "num_subjects": 3, "images_per_expression": 1} | options))


def test_every_subject_shows_every_expression(faces: FaceSet) -> None:
    assert (len(faces), faces.classes, faces.images.shape[1:]) == (84, EXPRESSIONS, (3, 55, 55))
    shown = {(subject, label) for subject, label in zip(faces.subjects, faces.labels.tolist(), strict=True)}
    assert len(shown) == 6 * 7
    assert faces.sources[14 + 3] == "P0001/contempt/1"
    assert (faces.subjects[14 + 3], int(faces.labels[14 + 3])) == ("P0001", 1)
    assert len(set(faces.sources)) == 84
    assert len({image.numpy().tobytes() for image in faces.images}) == 84


def test_the_seed_decides(faces: FaceSet) -> None:
    assert draw().images.equal(draw().images)
    assert not draw(seed=1).images.equal(draw().images)
    assert not set(draw(seed=1).subjects) & {*draw().subjects, *draw(seed=2).subjects}


def test_threads_make_no_difference() -> None:
    torch.set_num_threads(1)
    alone = draw().images
    torch.set_num_threads(3)
    assert draw().images.equal(alone)


def test_more_subjects_images_or_other_classes_leave_the_rest_as_it_was() -> None:
    few = draw(num_subjects=2)
    more = draw(num_subjects=4, images_per_expression=2)
    fewer_classes = draw(num_subjects=2, classes=("surprise", "anger"))
    wide = [more.sources.index(source) for source in few.sources]
    assert (more.images[wide].int() - few.images.int()).abs().max() <= 1
    narrow = [few.sources.index(source) for source in fewer_classes.sources]
    assert (few.images[narrow].int() - fewer_classes.images.int()).abs().max() <= 1


def test_a_picture_is_the_same_at_every_size() -> None:
    small, large = draw(), draw(image_size=96)
    reduced = torch.nn.functional.interpolate(large.images.float(), size=(37, 37), mode="area")
    assert (reduced - small.images.float()).abs().mean() < 8  # of 255; the sensor's noise included


def test_grey_is_the_brightness_of_colour() -> None:
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    expected = (draw().images * weights).sum(1, keepdim=True)
    assert (draw(channels=1).images - expected).abs().max() < 2


def test_identities_and_expressions_differ() -> None:
    faces = draw(num_subjects=8, images_per_expression=2)
    images = faces.images.float().flatten(1) / 255
    distance = torch.cdist(images, images)
    subjects = torch.arange(8).repeat_interleave(14)
    same_subject = subjects[:, None] == subjects[None]
    other = distance[~same_subject].mean()
    own = distance[same_subject & ~torch.eye(112, dtype=torch.bool)].mean()
    assert other > 1.5 * own
    assert images.std() > 0.1


def test_neutral_can_be_asked_for() -> None:
    faces = draw(classes=("neutral", "happiness"))
    assert faces.class_counts() == {"neutral": 3, "happiness": 3}
    assert not faces.images[0].equal(faces.images[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_subjects": 0}, "num_subjects must be an int of at least 1, got 0"),
        ({"images_per_expression": 1.5}, "images_per_expression must be an int"),
        ({"variation": 1.5}, "variation must be a number between 0 and 1, got 1.5"),
        ({"posed": 1}, "posed must be True or False, got 1"),
        ({"seed": -1}, "seed must be an int of at least 0, got -1"),
        ({"classes": ("joy",)}, r"classes must be some of .*got \('joy',\)"),
        ({"classes": ()}, "classes must be some of"),
        ({"classes": 5}, "classes must be names, .* got 5"),
        ({"classes": ("fear", "fear")}, "classes must be distinct"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**options)


def test_variation_scales_pose_and_light() -> None:
    """How much the pictures of one person with one expression differ beside the face's middle."""

    def spread(variation: float) -> float:
        spec = f"procedural:num_subjects=4,images_per_expression=6,classes=neutral,variation={variation}"
        pictures = load(spec, image_size=32, channels=1).images.float().unflatten(0, (4, 6))
        return float(pictures.std(1).mean())

    assert spread(0) < 0.2 * spread(1)
    assert spread(0) < spread(0.3) < spread(1)


def test_posed_faces_show_an_expression_in_one_way() -> None:
    """What differs between the pictures of one person with one expression is then its strength, and noise."""

    def spread(posed: str) -> float:
        spec = f"procedural:num_subjects=4,images_per_expression=6,classes=anger+contempt,posed={posed}"
        pictures = load(f"{spec},variation=0", image_size=32, channels=1).images.float()
        return float((pictures.unflatten(0, (8, 6)).std(1) > 15).float().mean())

    assert 0 < spread("true") < 0.5 * spread("false")


def test_a_linear_model_on_pixels_stays_under_70_percent() -> None:
    from sklearn.linear_model import LogisticRegression

    faces = load("procedural", image_size=48, channels=1, num_subjects=80, images_per_expression=3, seed=5)
    pixels = center(faces.images, 48).flatten(1)
    n = 60 * 21  # subjects 60 to 79 are unseen
    pixels = (pixels - pixels[:n].mean(0)) / pixels[:n].std(0)
    model = LogisticRegression(C=0.01, max_iter=200, tol=0.01)
    model.fit(pixels[:n].numpy(), faces.labels[:n].numpy())
    accuracy = model.score(pixels[n:].numpy(), faces.labels[n:].numpy())
    assert 0.3 < accuracy < 0.7  # chance is 0.14: the labels do mean something


def test_drawing_is_quick() -> None:
    """2,000 faces at 96 pixels take under 30 s on two cores; four times that is allowed to a busy machine."""
    start = time.perf_counter()
    faces = load("procedural", image_size=96, num_subjects=10, images_per_expression=3)
    assert (time.perf_counter() - start) / len(faces) * 2000 < 120
