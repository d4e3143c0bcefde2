"""fer-mtl export: a trained model for use elsewhere."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fer_mtl.commands.options import make_parser, normalise, out_folder, parse
from fer_mtl.console import Console
from fer_mtl.data.faceset import stored_side
from fer_mtl.files import naming, write_text
from fer_mtl.models.export import Program, programs, write_onnx, write_pt2
from fer_mtl.training.checkpoints import TrainedModel, load_model
from fer_mtl.training.config import TrainConfig, from_dict
from fer_mtl.training.methods import method_of
from fer_mtl.training.settings import check_choice
from fer_mtl.training.starting import data_name

DESCRIPTION = """Write a trained model for use elsewhere. --format folder: weights (safetensors),
configuration and a model card, for FERSNet.from_pretrained and for every command that takes a CHECKPOINT;
without the optimisers, the people it was trained on, or any path. pt2 and onnx: recognition and, if the model
draws, synthesis as programs that need nothing of this package, each checked against the model, and model.json
with the names of the expressions and the images they take: a face as `fer-mtl prepare` cuts it, scaled to
FACE_SIDE x FACE_SIDE pixels, of which the middle SIDE x SIDE are given. Example: fer-mtl export runs/ck48
--format onnx --out exported"""

WRITERS: dict[str, Callable[[Program, Path, Mapping[str, str]], None]] = {
    "pt2": write_pt2,
    "onnx": write_onnx,
}
FOLDER = "folder"
FORMATS = (FOLDER, *WRITERS)


def facts(trained: TrainedModel) -> dict[str, Any]:
    """What goes with a model: the names of its expressions and, as far as is known, where it comes from. No
    path and nobody's name."""
    known: dict[str, Any] = dict(trained.model.metadata)
    if "config" in trained.origin:
        config = from_dict(TrainConfig, trained.origin["config"])
        known = {"method": method_of(config), "data": data_name(config.data), "views": config.views}
    return {**known, "expressions": list(trained.classes)}


def write_programs(trained: TrainedModel, kind: str, folder: Path) -> None:
    """The programs of ``kind`` and model.json into ``folder``."""
    config, known = trained.model.config, facts(trained)
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in known.items()}
    files = {}
    for program in programs(trained.model):
        name = f"{program.part.name}.{kind}"
        WRITERS[kind](program, folder / name, told)
        files[name] = {"inputs": list(program.part.inputs), "output": program.part.output}
    side = config["image_size"]
    image = {"channels": config["in_channels"], "face_side": stored_side(side), "side": side, "range": [0, 1]}
    text = json.dumps({**known, "image": image, "files": files}, indent=2, ensure_ascii=False)
    write_text(folder / "model.json", text + "\n")


def check_new(out: Path) -> None:
    if out.exists():
        raise FileExistsError(f"--out must be a folder that does not exist yet, got {out}")


def main(arguments: Sequence[str]) -> int:
    parser = make_parser("export", DESCRIPTION)
    parser.add_argument(
        "model", type=str, metavar="CHECKPOINT", help="a run folder, checkpoint or model folder"
    )
    parser.add_argument("--format", type=str, default=FOLDER, help=" or ".join(FORMATS))
    parser.add_argument("--out", type=str, required=True, metavar="FOLDER", help="a new folder")
    options = parse(parser, normalise(arguments))
    check_choice("--format", options.format, FORMATS)
    out = Path(options.out).expanduser()
    check_new(out)
    out_folder(options.out)
    trained = load_model(options.model)
    out.parent.mkdir(parents=True, exist_ok=True)
    # A folder of this export alone: what lies beside OUT is another's, or the user's.
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.", suffix=".partial", dir=out.parent) as room:
        partial = Path(room) / "made"  # which others may read
        partial.mkdir()
        with naming(out):
            if options.format == FOLDER:
                trained.model.save_pretrained(partial, facts(trained))
            else:
                write_programs(trained, options.format, partial)
        check_new(out)  # now, too: another export may have ended there since the command began
        partial.rename(out)
    Console().line(f"{', '.join(sorted(path.name for path in out.iterdir()))} in {out}")
    return 0
