"""The page itself, in gradio: what is where, and which function of :class:`Studio` fills it."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from fer_mtl.app.folder import own_folder
from fer_mtl.app.studio import Seen, Studio, plotted
from fer_mtl.evaluation.reading import Reading
from fer_mtl.files import write_text
from fer_mtl.models.pretrained import LIMITS

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported, which would report home
import gradio as gr

TITLE = "Facial expressions, read and redrawn"
HOUR = 3600
MOST_UPLOADED = "500mb"
HEIGHT = 320
CSS = """
#surest .grid-container { grid-template-columns: repeat(auto-fill, minmax(min(240px, 45%), 1fr)); }
#surest .grid-wrap { max-height: none; }
"""
"""gradio shows few pictures over the whole width, higher than their room, and cuts off a third row."""
DRAWN = """**This model has learnt from drawn faces and knows nothing of photographs.** Try the drawn people
below the picture; none of them was in its training."""
NO_FACE = """No face was found. If the picture shows one face and little else, tick “one cropped face”;
otherwise try one where the face is upright, larger or better lit."""
KEPT = "Pictures and videos stay on the machine that serves this page, at most two hours."
THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])  # none from elsewhere


@contextmanager
def serve(studio: Studio, host: str, port: int | None, open_browser: bool) -> Iterator[str]:
    """Serve the page in threads of its own while the block runs, by default on the first free port from 7860
    on; gives its address.

    Raises OSError where the port is taken or nothing can be served at the host.
    """
    bare = host.strip("[]")
    check_address(bare, port)
    with own_folder() as folder:
        page = build(studio, folder)
        _, address, _ = page.launch(
            server_name=f"[{bare}]" if ":" in bare else bare,  # IPv6 as it stands in addresses of pages
            server_port=port,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            share=False,
            ssr_mode=False,
            max_file_size=MOST_UPLOADED,
            footer_links=[],
            theme=THEME,
            css=CSS,
        )
        try:
            yield address
        finally:
            page.close(verbose=False)


def check_address(host: str, port: int | None) -> None:
    """OSError where nothing can be served there; gradio would try a hundred ports at a host that is none."""
    try:
        family, *_, place = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(f"port must be free, but {port} is taken") from error
        where = host if port is None else f"{host} and port {port}"
        raise OSError(f"host must be an address to serve at, got {where}: {error.strerror}") from error


def build(studio: Studio, folder: Path) -> gr.Blocks:
    """The page. What visitors upload and what is made of it is deleted after an hour; the drawn people stand
    in a folder that must stay as long as the page, as gradio before 6.29 reads them when they are chosen."""
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(f"# {TITLE}\n\n{studio.description()}.")
        if studio.drawn_faces:
            gr.Markdown(DRAWN)
        with gr.Tab("Picture"):
            picture_tab(studio, folder)
        with gr.Tab("Video"):
            video_tab(studio)
        gr.Markdown(LIMITS + KEPT)
    page.queue(default_concurrency_limit=1)
    return page


def picture_tab(studio: Studio, folder: Path) -> None:
    classes, state = list(studio.classes), gr.State(None)
    with gr.Row():
        with gr.Column():
            picture = gr.Image(label="Picture", sources=["upload", "webcam", "clipboard"], height=HEIGHT)
            cropped = cropped_switch(studio)
            if studio.drawn_faces:
                gr.Examples(written(studio.strangers(), folder), [picture], label="Drawn people")
        with gr.Column():
            marked = result("Faces found", height=HEIGHT, show_label=False)
            status = gr.Markdown()
            which = gr.Radio(label="Face", choices=[], visible=False)
            label = gr.Label(label="Expression", show_heading=False)
    parts: list[Any] = [label]
    if studio.draws:
        gr.Markdown("### Redrawn with every expression")
        grid = result()
        with gr.Row():
            with gr.Column():
                expression = gr.Dropdown(label="From what was read to", choices=classes, value=classes[0])
                strength = gr.Slider(label="How far", minimum=0, maximum=1, value=1, step=0.05)
            blended = result("On its way", height=HEIGHT)
        gr.Markdown("### What each task lets in of the other")
        gates = result()
        parts += [grid, blended, gates]

    def chosen(seen: Seen | None, face: str | None) -> Reading | None:
        return seen.readings[int(face) - 1] if seen is not None and seen.readings and face else None

    def show(seen: Seen | None, face: str | None, *blend: Any) -> list[Any]:
        reading = chosen(seen, face)
        if reading is None:
            return [None] * len(parts)
        found: list[Any] = [studio.probabilities(reading)]
        if studio.draws:
            found += [studio.redrawn(reading), studio.blended(reading, *blend), studio.gates(reading)]
        return found

    def look(uploaded: dict[str, Any] | None, whole: bool, *blend: Any) -> list[Any]:
        if uploaded is None:
            return [None, "", None, gr.Radio(choices=[], value=None, visible=False), *show(None, None)]
        path = Path(uploaded["path"])
        with explained(path):
            seen = studio.look(path, whole)
        faces = [str(number) for number in range(1, len(seen.readings) + 1)]
        first = faces[0] if faces else None
        said = "" if faces else NO_FACE
        choice = gr.Radio(choices=faces, value=first, visible=len(faces) > 1)
        return [seen, said, studio.marked(seen), choice, *show(seen, first, *blend)]

    controls = [expression, strength] if studio.draws else []
    events: list[Callable[..., Any]] = [picture.change, cropped.input]
    shown = [state, status, marked, which, *parts]
    # The file as it was uploaded: `open_image` reads more kinds than gradio, and says what ails the rest.
    read = gr.on(events, look, [picture, cropped, *controls], shown, preprocess=False, api_name="picture")
    emptied_after(read, lambda: look(None, False), shown)
    which.input(show, [state, which, *controls], parts, api_name="face")
    if studio.draws:

        def blend(seen: Seen | None, face: str | None, name: str, share: float) -> Any:
            reading = chosen(seen, face)
            return None if reading is None else studio.blended(reading, name, share)

        changes: list[Callable[..., Any]] = [expression.input, strength.release]
        gr.on(changes, blend, [state, which, *controls], [blended], api_name="blend")


def video_tab(studio: Studio) -> None:
    with gr.Row():
        with gr.Column():
            video = gr.Video(label="Video", sources=["upload", "webcam"], height=HEIGHT)
            step = gr.Slider(label="Read every so many-th frame", minimum=1, maximum=30, value=5, step=1)
            cropped = cropped_switch(studio)
            read = gr.Button("Read", variant="primary")
        with gr.Column():
            status = gr.Markdown()
            timeline = result("The largest face over time", show_label=False)
            table = gr.File(label="Every face of every frame read")
    gr.Markdown("### The surest frame of each expression")
    surest = gr.Gallery(
        elem_id="surest", show_label=False, columns=4, format="png", object_fit="contain", interactive=False
    )

    # B008: gradio shows progress for a function whose default says so, and for no other.
    def look(path: str | None, every: int, whole: bool, progress: gr.Progress = gr.Progress()) -> list[Any]:  # noqa: B008
        if path is None:
            raise gr.Error("Choose or record a video first.", print_exception=False)
        seen = studio.start()
        with explained(Path(path)):
            for number, frame in enumerate(studio.frames(Path(path), int(every), whole), 1):
                seen.add(Path(path).name, frame)
                progress((number, None), desc="frames read")
        if not seen.track.said:
            return [NO_FACE, None, None, None]
        with tempfile.TemporaryDirectory() as folder:  # gradio keeps a copy, and deletes it in time
            file = Path(folder) / "readings.csv"
            write_text(file, seen.table.text())
            copy = table.move_resource_to_block_cache(file)
        return [f"{seen.track.summary()}.", plotted(seen.track.figure()), copy, seen.gallery()]

    shown = [status, timeline, table, surest]
    read_video = read.click(look, [video, step, cropped], shown, api_name="video")
    emptied_after(read_video, lambda: ["", None, None, None], shown)


def emptied_after(event: Any, nothing: Callable[[], list[Any]], shown: Sequence[Any]) -> None:
    """Where an event fails, what was read before must not stand beside what could not be read."""
    event.failure(nothing, None, shown, show_progress="hidden", api_visibility="private")


def cropped_switch(studio: Studio) -> gr.Checkbox:
    return gr.Checkbox(
        label="one cropped face",
        info="Do not look for faces: the picture is one, cut to it.",
        value=studio.drawn_faces,
    )


def result(label: str | None = None, **options: Any) -> gr.Image:
    """A picture that the page makes."""
    shown = {"show_label": label is not None, "buttons": ["download", "fullscreen"], **options}
    return gr.Image(label=label, interactive=False, format="png", **shown)


def written(pictures: Sequence[tuple[Image.Image, str]], folder: Path) -> list[str]:
    """PNG files of pictures, named by their captions."""
    files = [folder / f"{caption}.png" for _, caption in pictures]
    for (image, _), file in zip(pictures, files, strict=True):
        image.save(file)
    return list(map(str, files))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Bad input is shown on the page, by the name of the file and not by where it lies here."""
    try:
        yield
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise gr.Error(str(error).replace(str(path), path.name), print_exception=False) from error
