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
from fer_mtl.evaluation import face_plots, html, plots
from fer_mtl.evaluation.gates import gates_by_level
from fer_mtl.evaluation.synthesis import gallery_sources, interpolate, make_gallery
from fer_mtl.files import to_yaml, write_bytes, write_json, write_text
from fer_mtl.models.fersnet import FERSNet

GATE_FACES = 4
INTERPOLATED = 3


@dataclass(frozen=True)
class Evaluated:
    """What the sections of a report draw from."""

    report: dict[str, Any]
    """The content of report.json."""
    model: FERSNet
    faces: FaceSet
    """The faces that were tested; people the model has not seen, where the set tells who is who."""
    stats: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    told: bool = True
    """Whether the model says whom it was trained on; where not, nothing is claimed of the tested people."""


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


def number(value: float | None, digits: int = 3) -> str:
    return "none" if value is None else f"{value:.{digits}f}"


def headline(run: Evaluated, pictures: Pictures) -> str:
    report = run.report
    unseen = f" on unseen {'people' if run.faces.known_subjects else 'images'}" if run.told else ""
    figures = {
        f"accuracy{unseen}": percent(report["accuracy"]),
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
        f"Rows are the true expressions. {who_was_seen(run)}",
        matrix,
        html.table(rows, ("expression", "recall", "images"), numbers=(1, 2)),
    )


def who_was_seen(run: Evaluated) -> str:
    """What can be said of the tested images and the training, as a sentence."""
    if not run.told:
        return "The model does not say whom it was trained on: the tested people may be among them."
    unseen = (
        "No image of a tested person was trained on"
        if run.faces.known_subjects
        else "No tested image was trained on (the set does not tell whether other images of the same people "
        "were)"
    )
    return f"{unseen}, and the epoch was not chosen by them."


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
    grid = pictures.add(
        "synthesis", face_plots.synthesis_grid(gallery, run.faces.classes), "synthesised faces"
    )
    between = interpolate(run.model, run.faces, gallery_sources(run.faces, INTERPOLATED))
    steps = pictures.add(
        "interpolation", face_plots.interpolation_grid(between, run.faces.classes), "between two expressions"
    )
    rows, header = redrawn_table(synthesis["by_source"])
    content = [
        grid,
        html.table(synthesis_rows(synthesis), numbers=(1,)),
        html.table(rows, header, numbers=range(1, len(header))),
    ]
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
        f"{'One source image of each person' if run.faces.known_subjects else 'Source images'}, redrawn with "
        "every expression (the source's own is framed); beneath, where they exist, true images of that "
        f"person.{' None of them was trained on.' if run.told else ''}",
        *content,
    ) + html.section("Between expressions", "The target code moves evenly from one to the other.", steps)


def synthesis_rows(synthesis: Mapping[str, Any]) -> list[list[str]]:
    """What was measured on synthesised faces, name and value."""
    rows = [
        [
            "expression read in synthesised faces by " + synthesis["judge"],
            percent(synthesis["expression_accuracy"]),
        ],
        ["expression read in the real sources by the same", percent(synthesis["judge_on_real_faces"])],
        ["read in those of which there is a true image", percent(synthesis["pairs_read"])],
        ["read in these true images", percent(synthesis["targets_read"])],
    ]
    if identity := synthesis["identity"]:
        rows += [
            [f"identity cosine of face and source ({identity['network']})", number(identity["cosine"])],
            ["the same of two real images of one person", number(identity["same_person"])],
            ["the same of images of different people", number(identity["other_people"])],
        ]
    if sets := synthesis["sets"]:
        rows += [
            [f"Frechet distance to real faces on {sets['features']}", number(sets["frechet"])],
            ["the same between two halves of the real faces", number(sets["frechet_real_halves"])],
            ["kernel distance to real faces on the same features", number(sets["kernel"], 4)],
            ["the same between two halves of the real faces", number(sets["kernel_real_halves"], 4)],
        ]
    return rows


def redrawn_table(by_source: Mapping[str, Mapping[str, Any]]) -> tuple[list[list[str]], list[str]]:
    """Rows and header of what was read in the faces redrawn from each expression (rows) to each other."""
    rows = [
        [
            name,
            str(found["sources"]),
            *(percent(found["per_expression"][wanted]) if wanted != name else "" for wanted in by_source),
            percent(found["expression_accuracy"]),
            str(found["pairs"]),
            percent(found["pairs_read"]),
            percent(found["targets_read"]),
        ]
        for name, found in by_source.items()
        if found["sources"]
    ]
    return rows, [
        "redrawn from",
        "faces",
        *by_source,
        "all",
        "true pairs",
        "read in them",
        "in the true image",
    ]


def calibration_section(run: Evaluated, pictures: Pictures) -> str:
    found = run.report["calibration"]
    rows = [
        ["expected calibration error", number(found["ece"])],
        ["largest error of a bin", number(found["mce"])],
        ["Brier score", number(found["brier"])],
        ["log loss", number(found["log_loss"])],
    ]
    plot = plots.reliability_plot({"tested faces": found["reliability"]})
    return html.section(
        "Calibration",
        "Whether a confidence of 90 % is right in 90 % of the cases; dots are bins of confidence.",
        pictures.add("reliability", plot, "reliability plot"),
        html.table(rows, numbers=(1,)),
    )


def gates_section(run: Evaluated, pictures: Pictures) -> str:
    model, size = run.model, run.model.config["image_size"]
    images = center(run.faces.images[torch.tensor(gallery_sources(run.faces, GATE_FACES))], size)
    gates = gates_by_level(model, images)
    if not gates:
        return html.section("Gates", f"Sharing {model.config['sharing']!r} has no gates.")
    figure = face_plots.gate_maps(images, gates, model.config["convention"])
    statistics = run.report["gates"]
    accepted: dict[str, dict[str, float]] = {}
    for line in statistics:
        if line["gate"] == "z":
            accepted.setdefault(f"level {line['level']}", {})[line["direction"]] = line["mean"]
    return html.section(
        "Gates",
        "Mean over the channels. r: which features of the other task may pass; z: how much of "
        "the candidate made from them is accepted (0 keeps the task's own). The number is the mean "
        "over the map and the faces.",
        pictures.add("gates", figure, "gate maps"),
        pictures.add("accepted", plots.bars(accepted, "Accepted from the other task (mean z)", (0, 1)), "z"),
        html.table(*gate_table(statistics, run.faces.classes)),
    )


def gate_table(
    statistics: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> tuple[list[list[str]], list[str], range]:
    """Rows, header and number columns of the gates' statistics."""
    rows = [
        [f"{line['level']}", line["direction"], line["gate"], number(line["mean"]), number(line["deviation"])]
        + [percent(line["open"])]
        + [number(line["per_expression"].get(name)) for name in classes]
        for line in statistics
    ]
    header = ["level", "direction", "gate", "mean", "deviation", "above 1/2", *classes]
    return rows, header, range(3, len(header))


def details_section(run: Evaluated, pictures: Pictures) -> str:
    report = run.report
    split = report.get("split", {})
    rows = [[key, str(report[key])] for key in ("data", "selection", "epoch", "parameters") if key in report]
    rows += [
        [f"{role} subjects", f"{len(names)}: {', '.join(names)}"]
        if run.faces.known_subjects
        else [f"{role} images", str(len(names))]
        for role, names in split.items()
        if names
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


SECTIONS = (
    headline,
    synthesis_section,
    data_section,
    calibration_section,
    gates_section,
    curves_section,
    details_section,
)


def write_report(run: Evaluated, folder: Path, title: str, lead: str) -> None:
    """Write pictures/, report.html and report.json into ``folder``."""
    pictures = Pictures(folder / "pictures")
    write_text(
        folder / "report.html", html.page(title, lead, *(section(run, pictures) for section in SECTIONS))
    )
    write_json(folder / "report.json", run.report)
