"""Faces in memory: data sets by name, subject-independent folds, pairs of one subject, augmentation."""

from fer_mtl.data import (  # noqa: F401  (each enters itself into DATASETS)
    affectnet,
    bu4dfe,
    ck48,
    ckplus,
    ckplus48n,
    fer2013,
    ferplus,
    folder,
    jaffe,
    mmi,
    oulu_casia,
    procedural,
    rafdb,
)  # fmt: skip  # isort: skip
from fer_mtl.data.augmentation import Augment, center
from fer_mtl.data.check import Findings, check
from fer_mtl.data.expressions import EXPRESSIONS
from fer_mtl.data.faceset import FaceSet
from fer_mtl.data.folds import Fold, make_folds, split_validation
from fer_mtl.data.images import ImageError
from fer_mtl.data.overview import card, contact_sheet, datasets_table, describe, describe_findings
from fer_mtl.data.pairs import Pairs, PairSampler
from fer_mtl.data.registry import DATASETS, DataSetInfo, load

__all__ = [
    "DATASETS",
    "EXPRESSIONS",
    "Augment",
    "DataSetInfo",
    "FaceSet",
    "Findings",
    "Fold",
    "ImageError",
    "PairSampler",
    "Pairs",
    "card",
    "center",
    "check",
    "contact_sheet",
    "datasets_table",
    "describe",
    "describe_findings",
    "load",
    "make_folds",
    "split_validation",
]
