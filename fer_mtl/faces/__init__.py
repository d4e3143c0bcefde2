"""From photographs to aligned faces: detection, alignment by eyes or five points, whole folders at once."""

from fer_mtl.faces.align import align
from fer_mtl.faces.detector import Detector, make_detector
from fer_mtl.faces.face import Face
from fer_mtl.faces.prepare import Job, Outcome, prepare

__all__ = ["Detector", "Face", "Job", "Outcome", "align", "make_detector", "prepare"]
