"""report.json, report.html and pictures/ of one run: what was trained, on whom, and what it can do.

A report is a list of sections; each is a small function from the evaluated run to HTML and, often, a picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from fer_mtl.data import FaceSet
from fer_mtl.data.augmentation import center
from fer_mtl.evaluation import html, plots
from fer_mtl.evaluation.metrics import recognition_figures
from fer_mtl.evaluation.predict import device_of, evaluate_recognition
from fer_mtl.evaluation.synthesis import Judge, gallery_sources, make_gallery, measure_synthesis
from fer_mtl.models.fersnet import FERSNet
from fer_mtl.training.files import to_yaml, write_bytes, write_json, write_text

GATE_FACES = 4


@dataclass(frozen=True)
class Evaluated:
    """What the sections of a report draw from."""

    report: dict[str, Any]
    """The content of report.json."""
    model: FERSNet
    faces: FaceSet
    """The faces that were tested; people the model has not seen."""
    stats: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]


def evaluate(model: FERSNet, faces: FaceSet, judge: Judge | None = None) -> dict[str, Any]:
    """Recognition and, where the model can, synthesis on ``faces``, as report.json holds them.

    ``judge`` reads the expressions of the synthesised faces in place of the model itself.
    """
    if not len(faces):
        raise ValueError("faces must hold at least one image to evaluate on, got none")
    _, confusion = evaluate_recognition(model, faces)
    figures = recognition_figures(confusion, faces.classes)
    figures["synthesis"] = measure_synthesis(model, faces, judge=judge) if model.config["synthesis"] else None
    return figures


class Pictures:
    """Keeps every figure as a PNG beside the page and hands it over for embedding."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, figure: Figure, text: str) -> str:
        png = plots.to_png(figure)
        write_bytes(self.folder / f"{name}.png", png)
        return html.picture(png, text)


def percent(value: float | None) -> str:
    return "none" if value is None else f"{100 * value:.1f} %"


def headline(run: Evaluated, pictures: Pictures) -> str:
    report = run.report
    figures = {
        "accuracy on unseen people": percent(report["accuracy"]),
        "macro F1": percent(report["macro_f1"]),
        "macro recall": percent(report["macro_recall"]),
        "chance": percent(1 / len(run.faces.classes)),
    }
    if report["synthesis"]:
        figures["synthesised expressions recognised"] = percent(report["synthesis"]["expression_accuracy"])
    if report.get("seconds"):
        figures["training time"] = f"{report['seconds'] / 60:.1f} min"
    return html.tiles(figures)


def data_section(run: Evaluated, pictures: Pictures) -> str:
    report = run.report
    counts = run.faces.class_counts()
    rows = [
        [name, percent(entry["recall"]), str(counts[name])] for name, entry in report["per_class"].items()
    ]
    matrix = pictures.add(
        "confusion", plots.confusion_plot(report["confusion"], run.faces.classes), "confusion matrix"
    )
    return html.section(
        "Recognition",
        "Rows are the true expressions. No image of a tested person was trained on, and "
        "the epoch was not chosen by them.",
        matrix,
        html.table(rows, ("expression", "recall", "images"), numbers=(1, 2)),
    )


def curves_section(run: Evaluated, pictures: Pictures) -> str:
    if not run.stats:
        return ""
    figure = plots.loss_curves([dict(line) for line in run.stats])
    return html.section(
        "Training",
        "Mean of each unweighted loss term over an epoch.",
        pictures.add("curves", figure, "loss curves"),
    )


def synthesis_section(run: Evaluated, pictures: Pictures) -> str:
    synthesis = run.report["synthesis"]
    if not synthesis:
        return html.section("Synthesis", "This network was trained for recognition alone.")
    gallery = make_gallery(run.model, run.faces, gallery_sources(run.faces))
    grid = pictures.add("synthesis", plots.synthesis_grid(gallery, run.faces.classes), "synthesised faces")
    rows = [
        [
            "expression read in synthesised faces by " + synthesis["judge"],
            percent(synthesis["expression_accuracy"]),
        ],
        ["expression read in the real sources by the same", percent(synthesis["judge_on_real_faces"])],
    ]
    content = [grid, html.table(rows, numbers=(1,))]
    if synthesis["to_target"]:
        content.append(
            html.table(
                [
                    [name, f"{values['l1']:.4f}", f"{values['psnr']:.2f} dB", f"{values['ssim']:.3f}"]
                    for name, values in (
                        ("synthesised face", synthesis["to_target"]),
                        ("unchanged source", synthesis["unchanged_source"]),
                    )
                ],
                ("distance to the true target", "L1", "PSNR", "SSIM"),
                numbers=(1, 2, 3),
            )
        )
    return html.section(
        "Synthesis",
        "One source image of each person, redrawn with every expression (the source's own is "
        "framed); beneath, where they exist, true images of that person. None of them was "
        "trained on.",
        *content,
    )


@torch.no_grad()
def gates_section(run: Evaluated, pictures: Pictures) -> str:
    model, size = run.model, run.model.config["image_size"]
    images = center(run.faces.images[torch.tensor(gallery_sources(run.faces, GATE_FACES))], size)
    model.eval()
    gates = model(images.to(device_of(model)), return_gates=True)["gates"]
    if not gates:
        return html.section("Gates", f"Sharing {model.config['sharing']!r} has no gates.")
    by_level = dict(zip(model.shared_levels, gates, strict=True))
    figure = plots.gate_maps(images, by_level, model.config["convention"])
    return html.section(
        "Gates",
        "Mean over the channels. r: which features of the other task may pass; z: how much of "
        "the candidate made from them is accepted (0 keeps the task's own). The number is the mean "
        "over the map and the faces.",
        pictures.add("gates", figure, "gate maps"),
    )


def details_section(run: Evaluated, pictures: Pictures) -> str:
    report = run.report
    split = report.get("split", {})
    rows = [[key, str(report[key])] for key in ("data", "selection", "epoch", "parameters") if key in report]
    rows += [
        [f"{role} subjects", f"{len(names)}: {', '.join(names)}"] for role, names in split.items() if names
    ]
    environment = [
        [key, ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)]
        for key, value in run.environment.items()
    ]
    return (
        html.section("Protocol", "", html.table(rows))
        + html.section("Configuration", "", html.verbatim(to_yaml(dict(run.config))))
        + html.section("Environment", "", html.table(environment))
    )


SECTIONS = (headline, synthesis_section, data_section, gates_section, curves_section, details_section)


def write_report(run: Evaluated, folder: Path, title: str, lead: str) -> None:
    """Write pictures/, report.html and report.json into ``folder``."""
    pictures = Pictures(folder / "pictures")
    write_text(
        folder / "report.html", html.page(title, lead, *(section(run, pictures) for section in SECTIONS))
    )
    write_json(folder / "report.json", run.report)
