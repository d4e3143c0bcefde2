"""fer-mtl app: a page in the browser that reads expressions and redraws faces."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from fer_mtl.app.folder import own_folder
from fer_mtl.app.studio import Studio
from fer_mtl.commands.options import make_parser, normalise, parse
from fer_mtl.console import Console
from fer_mtl.faces.detector import DETECTOR_HELP, make_detector
from fer_mtl.training.checkpoints import load_model

DESCRIPTION = """Serve a page that reads the expressions in pictures (of files, the camera or the clipboard)
and in videos, redraws the faces with every expression, and shows what each task lets in of the other. This
machine alone can open it unless --host says otherwise, and nothing is sent elsewhere. Ctrl-C ends it.
Example: fer-mtl app runs/demo/convflu"""


def main(arguments: Sequence[str]) -> int:
    parser = make_parser("app", DESCRIPTION)
    parser.add_argument(
        "model", type=str, metavar="CHECKPOINT", help="a run folder, checkpoint or model folder"
    )
    parser.add_argument("--detector", type=str, default="haar", help=DETECTOR_HELP)
    parser.add_argument("--host", type=str, default="127.0.0.1", help="0.0.0.0: for every machine around")
    parser.add_argument("--port", type=int, help="of the address; by default the first free one from 7860 on")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    options = parse(parser, normalise(arguments))
    if options.port is not None and not 0 < options.port < 65536:
        raise ValueError(f"--port must be from 1 to 65535, got {options.port}")
    with own_folder():  # on import gradio notes its place, where another user's of this machine may lie
        from fer_mtl.app.page import serve  # here, since --help and bad options do not need gradio

        studio = Studio(load_model(options.model), make_detector(options.detector))
        console = Console()
        with serve(studio, options.host, options.port, options.open) as address:
            try:
                console.line(f"{studio.description()}\nserved at {address} (Ctrl-C ends it)")
                Event().wait()
            except KeyboardInterrupt:
                console.line("stopped")
    return 0
