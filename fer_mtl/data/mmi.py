"""`mmi:FOLDER`: the MMI facial expression database, videos that rise from neutral to the apex and fall back.

Source: M. Pantic et al., "Web-based database for facial expression analysis", ICME 2005; M. Valstar and
M. Pantic, "Induced disgust, happiness and surprise: an addition to the MMI database", LREC Workshops 2010.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from fer_mtl.data.files import (
    Found,
    Record,
    check_classes,
    files_in,
    part_of,
    pictures_in,
    register_files,
    subfolders,
)  # fmt: skip
from fer_mtl.data.sequences import BASIC, Incomplete, IncompleteSequence, middle
from fer_mtl.data.tables import code
from fer_mtl.data.video import VIDEO_SUFFIXES, VideoFrame, count_frames
from fer_mtl.words import counted

CODES = dict(enumerate(BASIC, start=1))
VIEWS = {0: "frontal", 1: "profile", 2: "dual"}
_NAME = re.compile(r"(?P<subject>S\d{3})-\d+\.xml")


@register_files(
    "mmi",
    summary="MMI: videos; the paper takes 208 sequences of 31 subjects, 6 expressions",
    layout="Sessions/1871/{session.xml, S001-001.xml, S001-001.avi}; instead of the video also its frames as "
    "S001-001/00045.png, which `fer-mtl prepare mmi:FOLDER OUT` makes",
    obtain="by licence agreement from mmifacedb.eu, for research; no redistribution. Videos need the extra "
    "`faces`; they are not cropped: run `fer-mtl prepare` on them first",
    labels="`Emotion` in S001-001.xml: 1 anger, 2 disgust, 3 fear, 4 happiness, 5 sadness, 6 surprise; "
    "sessions without it or with others are left out",
    subjects="the first part of the file name",
    frames="the three in the middle, around the apex; views: frontal and dual, profile on request",
)
def find_mmi(
    root: Path,
    *,
    classes: Sequence[str] = BASIC,
    frames: int = 3,
    views: Sequence[str] = ("frontal", "dual"),
    incomplete: str = "refuse",
) -> Found:
    """The middle frames of the sessions of the wanted classes and views (`view` in session.xml: 0 frontal,
    1 profile, 2 both at once).

    incomplete: what becomes of a sequence that lacks frames: "refuse" or "leave_out", with a note

    Raises ValueError, naming file or folder, for a session without its files or with two videos, XML that
    cannot be read, and a video or folder of frames that is too short; ImageError for a broken video.
    """
    wanted = check_classes(classes, BASIC)
    unknown = [view for view in views if view not in VIEWS.values()]
    if unknown or not views:
        raise ValueError(f"views must be some of {tuple(VIEWS.values())}, got {tuple(views)}")
    records, left_out, short = [], Counter[str](), Incomplete(incomplete)
    for session in subfolders(part_of(root, ["Sessions"], "sessions")):
        label = _only(
            [p for p in files_in(session) if _NAME.fullmatch(p.name)], session, "label S001-001.xml"
        )
        value = _attribute(label, "Emotion", named=True)
        view = _attribute(session / "session.xml", "view")
        if value is None or not value.isdigit() or int(value) not in CODES:
            left_out["without one of the six expressions"] += 1
        elif view is None:
            raise ValueError(f"{session / 'session.xml'} has no attribute 'view'")
        elif VIEWS[code(view, str(session / "session.xml"), "view", VIEWS)] not in views:
            left_out["of other views"] += 1
        elif CODES[int(value)] in wanted:
            subject = label.name.partition("-")[0]
            with short.sequence():
                records += [
                    Record(path, CODES[int(value)], subject, None, picture, _name(root, path, picture))
                    for path, picture in _frames(session, label.stem, frames)
                ]
    notes = [f"{counted(number, 'session')} {why} left out" for why, number in left_out.items()]
    return Found(root, records, wanted, [*notes, *short.notes()])


def _frames(session: Path, stem: str, frames: int) -> list[tuple[Path, VideoFrame | None]]:
    """The middle frames: picture files where they have been extracted, else frames of the video."""
    extracted = session / stem
    if extracted.is_dir():
        return [(path, None) for path in middle(pictures_in(extracted), extracted, frames)]
    videos = [p for p in files_in(session) if p.suffix.lower() in VIDEO_SUFFIXES]
    if not videos:
        raise IncompleteSequence(f"{session} has neither a video nor the folder {stem} of its frames")
    video = _only(videos, session, "video")
    return [(video, VideoFrame(video, i)) for i in middle(range(count_frames(video)), video, frames)]


def _name(root: Path, path: Path, picture: VideoFrame | None) -> str | None:
    return None if picture is None else f"{path.relative_to(root).as_posix()}, frame {picture.number}"


def _only(paths: list[Path], session: Path, what: str) -> Path:
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise ValueError(f"{session} must have one {what}, got {names}")
    return paths[0]


def _attribute(path: Path, name: str, named: bool = False) -> str | None:
    """The first value of an attribute in an XML file; of `Value` beside `Name="..."` if it is `named`."""
    try:
        tree = ElementTree.parse(path)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is not XML: {error}") from error
    for element in tree.iter():
        if named and element.get("Name") == name:
            return element.get("Value")
        if not named and name in element.attrib:
            return element.get(name)
    return None
