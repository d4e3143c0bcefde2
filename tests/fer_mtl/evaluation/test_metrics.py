from __future__ import annotations

import pytest
import torch
from sklearn import metrics as sklearn_metrics

from fer_mtl.evaluation.metrics import confusion_matrix, recognition_figures

CLASSES = ("anger", "fear", "happiness", "surprise")


def random_answers(seed: int, present: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers over all classes to labels of the first ``present`` ones."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(present, (60,), generator=generator)
    guesses = torch.randint(len(CLASSES), (60,), generator=generator)
    return torch.where(torch.rand(60, generator=generator) < 0.6, labels, guesses), labels


def test_figures_agree_with_scikit_learn_when_every_class_occurs() -> None:
    predicted, labels = random_answers(0, present=4)
    figures = recognition_figures(confusion_matrix(predicted, labels, 4), CLASSES)
    assert figures["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted))
    assert figures["macro_f1"] == pytest.approx(sklearn_metrics.f1_score(labels, predicted, average="macro"))
    assert figures["macro_recall"] == pytest.approx(
        sklearn_metrics.recall_score(labels, predicted, average="macro")
    )
    assert figures["confusion"] == sklearn_metrics.confusion_matrix(labels, predicted).tolist()
    assert figures["images"] == 60


def test_macro_figures_average_over_the_classes_that_occur() -> None:
    predicted, labels = random_answers(1, present=3)
    figures = recognition_figures(confusion_matrix(predicted, labels, 4), CLASSES)
    wanted = sklearn_metrics.recall_score(labels, predicted, average="macro", labels=[0, 1, 2])
    assert figures["macro_recall"] == pytest.approx(wanted)
    assert figures["per_class"]["surprise"] == {"recall": None, "images": 0}


def test_rows_of_the_confusion_are_the_true_classes() -> None:
    confusion = confusion_matrix(torch.tensor([1]), torch.tensor([0]), 2)
    assert confusion.tolist() == [[0, 1], [0, 0]]


def test_pooled_folds_give_the_figures_of_all_their_images() -> None:
    (p1, l1), (p2, l2) = random_answers(2, 4), random_answers(3, 4)
    pooled = confusion_matrix(p1, l1, 4) + confusion_matrix(p2, l2, 4)
    together = confusion_matrix(torch.cat([p1, p2]), torch.cat([l1, l2]), 4)
    assert recognition_figures(pooled, CLASSES) == recognition_figures(together, CLASSES)


def test_no_image_has_no_accuracy() -> None:
    none = torch.empty(0, dtype=torch.int64)
    matrix = confusion_matrix(none, none, 4)
    figures = recognition_figures(matrix, CLASSES)
    assert (figures["accuracy"], figures["macro_f1"], figures["images"]) == (None, None, 0)
    assert matrix.dtype == torch.int64  # as of any images: counts that are pooled stay counts


def test_one_image_has_figures() -> None:
    one = torch.tensor([2])
    figures = recognition_figures(confusion_matrix(one, one, 4), CLASSES)
    assert (figures["accuracy"], figures["macro_f1"], figures["macro_recall"]) == (1, 1, 1)


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="predicted must have the shape of labels"):
        confusion_matrix(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 4)
    with pytest.raises(ValueError, match="confusion must be 4 x 4 for 4 classes, got"):
        recognition_figures(torch.zeros(3, 3), CLASSES)
