"""Faces in memory: data sets by name, subject-independent folds, pairs of one subject, augmentation."""

from fer_mtl.data import procedural as _procedural  # noqa: F401  (fills the table of data sets)
from fer_mtl.data.faceset import EXPRESSIONS, FaceSet
from fer_mtl.data.registry import DATASETS, DataSetInfo, load

__all__ = ["DATASETS", "EXPRESSIONS", "DataSetInfo", "FaceSet", "load"]
