"""Runs side by side, and beside the paper: what `fer-mtl report` and a cross-validation write.

A report is a list of parts; each is a small function from the runs to a table, pictures or nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations, count
from pathlib import Path
from typing import Any

from fer_mtl.evaluation import plots
from fer_mtl.evaluation.document import Part, Table, write_document
from fer_mtl.evaluation.paired import comparable, compare, obstacle
from fer_mtl.evaluation.published import PUBLISHED, protocol_differences, published_accuracy, published_row
from fer_mtl.evaluation.report import gate_table, number, percent, redrawn_table
from fer_mtl.evaluation.runs import Run
from fer_mtl.files import write_json
from fer_mtl.words import counted

# The tables and pictures that the parts below may leave, and so may remove.
FILES = re.compile(
    r"tables/(results|paired|recall|calibration|learning|synthesis|published|folds|(redrawn|gates)-\d+)\.csv"
    r"|pictures/(confusion(-\d+)?|calibration|learning|gates-\d+)\.png"
)
DATA_TITLES = {"ckplus": "CK+", "oulu_casia": "Oulu-CASIA", "mmi": "MMI"}


def columns(runs: Sequence[Run]) -> list[str]:
    """A distinct heading for each run: its method and, only where two runs have one method, its folder, with
    as many of those above as it takes; a run that is given twice is numbered."""
    names = []
    places = [(run.method, run.folder.absolute().parts) for run in runs]
    for index, (method, parts) in enumerate(places):
        alike = [other for name, other in places if name == method]
        depth = next(k for k in count(1) if len({other[-k:] for other in alike}) == len(set(alike)))
        name = method if len(alike) == 1 else f"{method} [{'/'.join(parts[-depth:])}]"
        again = places[:index].count((method, parts))
        names.append(f"{name} ({again + 1})" if again else name)
    return names


def interval(found: dict[str, Any]) -> str:
    """An interval in percent; what lies beyond 0 and 100 % is cut off."""
    if found["low"] is None:
        return ""
    return f"{100 * max(found['low'], 0.0):.1f} to {100 * min(found['high'], 1.0):.1f}"


def drawn(runs: Sequence[Run]) -> str:
    """What stands or falls together in them: subjects, or single images where nobody knows who is who."""
    kinds = {True: "subjects", False: "images"}
    return " or ".join(kinds[known] for known in kinds if known in {run.known_subjects for run in runs})


def results(runs: Sequence[Run]) -> list[Part]:
    header = [
        "method", "data", "folds x seeds", "accuracy", "deviation", "95 % over seeds",
        f"95 % over {drawn(runs)}", "macro F1", "macro recall", "paper", "ours - paper",
        "optimistic", "parameters", "of it sharing", "minutes",
    ]  # fmt: skip
    rows = []
    for run, name in zip(runs, columns(runs), strict=True):
        report, paper = run.report, published_accuracy(run.config)
        accuracy = report["over_seeds"]["accuracy"]
        optimistic = report["optimistic"]
        rows.append(
            [
                name,
                run.data,
                f"{report['folds']} x {len(report['seeds'])}",
                percent(report["accuracy"]),
                "" if accuracy["deviation"] is None else f"{100 * accuracy['deviation']:.2f}",
                interval(accuracy),
                interval(report["over_subjects"]),
                percent(report["macro_f1"]),
                percent(report["macro_recall"]),
                "" if paper is None else f"{100 * paper:.2f} %",
                "" if paper is None else f"{100 * (report['accuracy'] - paper):+.1f}",
                "" if optimistic is None else percent(optimistic["accuracy"]),
                f"{report['parameters']['total']:,}",
                f"{report['parameters']['sharing']:,}",
                f"{report['seconds'] / 60:.1f}",
            ]
        )
    unseen = {
        "subjects": "Subject-independent; every image is tested once for each seed, by a network that saw no "
        "image of that person.",
        "images": "Every image is tested once for each seed, by a network that did not see it; whether it "
        "saw the same person, the set does not tell.",
        "subjects or images": "Every image is tested once for each seed, by a network that saw no image of "
        "that person or, where the set does not tell who is who, not that image.",
    }[drawn(runs)]
    lead = (
        f"{unseen} The interval over seeds is that of the mean of independent trainings (t), the one over "
        f"{drawn(runs)} says how far other ones would move it (bootstrap). Optimistic: the epoch chosen on "
        "the test fold, as the paper's code does; not a result."
    )
    return [
        Part("results", "Results beside the paper", lead, table=Table(header, rows, range(3, len(header))))
    ]


def protocol(runs: Sequence[Run]) -> list[Part]:
    """What does not hold for all runs says for which it does."""
    names = columns(runs)
    found: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        for line in protocol_differences(run.config):
            found.setdefault(line, []).append(name)
    lines = [
        line if len(whose) == len(names) else f"{', '.join(whose)}: {line}" for line, whose in found.items()
    ]
    beside = [published_row(run.config) for run in runs if published_accuracy(run.config) is not None]
    notes = [f"{row.row}: the paper's figure is for {row.note}." for row in PUBLISHED if row in beside]
    return [Part("protocol", "Where the protocols differ", lines=[*lines, *notes])]


def paper(runs: Sequence[Run]) -> list[Part]:
    rows = [
        [
            row.row,
            *(f"{100 * row.accuracy[d]:.2f} %" if d in row.accuracy else "" for d in DATA_TITLES),
            row.note,
        ]
        for row in PUBLISHED
    ]
    lead = "Accuracy as published, on full-size images, the epoch chosen on the test fold in the public code."
    table = Table(["row", *DATA_TITLES.values(), "note"], rows, range(1, 4))
    return [Part("published", "Published figures", lead, table=table)]


def recalls(runs: Sequence[Run]) -> list[Part]:
    classes = list(dict.fromkeys(name for run in runs for name in run.report["per_class"]))
    rows = [
        [name, *(percent(run.report["per_class"].get(name, {}).get("recall")) for run in runs)]
        for name in classes
    ]
    rows.append(["mean", *(percent(run.report["macro_recall"]) for run in runs)])
    table = Table(["expression", *columns(runs)], rows, range(1, len(runs) + 1))
    figures = {
        name: plots.confusion_plot(run.report["confusion"], list(run.report["per_class"]))
        for name, run in zip(columns(runs), runs, strict=True)
    }
    lead = "Share of an expression's images that were recognised; below, what they were taken for."
    return [
        Part("recall", "Recall of each expression", lead, table=table),
        Part("confusion", "Confusion", "Rows are the true expressions.", figures=figures),
    ]


def calibrations(runs: Sequence[Run]) -> list[Part]:
    keys = {"ece": "expected error", "mce": "largest error", "brier": "Brier score", "log_loss": "log loss"}
    rows = [
        [name, percent(run.report["calibration"]["mean_confidence"]), percent(run.report["accuracy"])]
        + [number(run.report["calibration"][key]) for key in keys]
        for name, run in zip(columns(runs), runs, strict=True)
    ]
    header = ["method", "mean confidence", "accuracy", *keys.values()]
    bins = {
        name: run.report["calibration"]["reliability"] for name, run in zip(columns(runs), runs, strict=True)
    }
    lead = "Whether a confidence of 90 % is right in 90 % of the cases; dots are bins of confidence."
    return [
        Part(
            "calibration",
            "Calibration",
            lead,
            table=Table(header, rows, range(1, len(header))),
            figures={"reliability": plots.reliability_plot(bins)},
        )
    ]


def paired(runs: Sequence[Run]) -> list[Part]:
    if len(runs) < 2:
        return []
    rows, apart = [], []
    for (first, name), (second, other) in combinations(zip(runs, columns(runs), strict=True), 2):
        if reason := obstacle(first, second):
            apart.append(reason)
            continue
        found = compare(first, second)
        exact = found["mcnemar"].values()
        rows.append(
            [
                name,
                other,
                f"{100 * found['folds']['mean']:+.2f}",
                ", ".join(f"{test['only_first']} : {test['only_second']}" for test in exact),
                ", ".join(p_value(test["p"]) for test in exact),
                p_value(found["folds"]["p"]),
                p_value(found["subjects"]["p"]),
            ]
        )
    title, more = "Paired tests", ", and so on" if len(apart) > 1 else ""
    lines = [f"{counted(len(apart), 'pair')} without a test: {apart[0]}{more}"] if apart else []
    if not rows:
        return [Part("paired", title, lines=lines)]
    header = [
        "first", "second", "difference in points", "images only one has right", "p, McNemar by seed",
        "p, folds", f"p, {drawn(runs)}",
    ]  # fmt: skip
    lead = (
        "Same images, same folds. McNemar's exact test counts images and takes them as independent, which "
        "the frames of one sequence are not; the t test over folds (each the mean of its seeds) is corrected "
        f"for training sets that overlap; the last one flips the sign of whole {drawn(runs)}. Mean "
        "difference over folds and seeds."
    )
    return [Part("paired", title, lead, lines, Table(header, rows, range(2, 7)))]


def p_value(p: float | None) -> str:
    if p is None:
        return "none"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def synthesis(runs: Sequence[Run]) -> list[Part]:
    rows = []
    for run, name in zip(runs, columns(runs), strict=True):
        found = run.report["synthesis"]
        if not found:
            continue
        to_target, identity, sets = found["to_target"] or {}, found["identity"] or {}, found["sets"] or {}
        rows.append(
            [
                name,
                found["judge"],
                percent(found["expression_accuracy"]),
                percent(found["judge_on_real_faces"]),
                number(identity.get("cosine")),
                f"{number(identity.get('other_people'))} to {number(identity.get('same_person'))}",
                number(to_target.get("ssim")),
                number(to_target.get("psnr"), 2),
                number((found["unchanged_source"] or {}).get("ssim")),
                number(sets.get("frechet")),
                number(sets.get("kernel"), 4),
            ]
        )
    if not rows:
        return []
    header = [
        "method", "judge", "expression read", "in real faces", "identity cosine", "strangers to same person",
        "SSIM to target", "PSNR", "SSIM of unchanged source", "Frechet", "kernel",
    ]  # fmt: skip
    lead = (
        "Faces of tested people redrawn with every other expression. SSIM (Gaussian window of 11 pixels, the "
        "border included) and PSNR are means over faces. Frechet and kernel distance are on recognition "
        "features of the judge, not on Inception's: they compare only under one judge, and Frechet's, which "
        "is larger for fewer faces, only between test folds of one size. Means over folds and seeds."
    )
    return [Part("synthesis", "Synthesis", lead, table=Table(header, rows, range(2, len(header))))]


def redrawn(runs: Sequence[Run]) -> list[Part]:
    """For each run that synthesises, the expressions read by the expression of the source."""
    parts = []
    for index, (run, name) in enumerate(zip(runs, columns(runs), strict=True)):
        found = run.report["synthesis"]
        if found and "by_source" in found:
            rows, header = redrawn_table(found["by_source"])
            lead = (
                f"Expressions read by {found['judge']}. Faces and true pairs are those of all folds and "
                "seeds, shares are means over folds and seeds."
            )
            table = Table(header, rows, range(1, len(header)))
            parts.append(Part(f"redrawn-{index}", f"Redrawn faces: {name}", lead, table=table))
    return parts


def gates(runs: Sequence[Run]) -> list[Part]:
    parts = []
    for index, (run, name) in enumerate(zip(runs, columns(runs), strict=True)):
        statistics = run.report["gates"]
        if not statistics:
            continue
        rows, header, numbers = gate_table(statistics, list(run.report["per_class"]))
        bars = {
            f"{line['direction'].split()[0]} {line['level']}": line["per_expression"]
            for line in statistics
            if line["gate"] == "z"
        }
        parts.append(
            Part(
                f"gates-{index}",
                f"Gates: {name}",
                "Mean z is how much of the candidate made from the other task is accepted, by direction, "
                "level and expression; r is what of the other task may enter it. Means over folds and seeds.",
                table=Table(header, rows, numbers),
                figures={"accepted from the other task": plots.bars(bars, "Accepted (mean z)")},
            )
        )
    return parts


def learning(runs: Sequence[Run]) -> list[Part]:
    """Accuracy over training subjects, where runs differ in them; all subjects count as one point too."""
    if len({run.config.train_subjects for run in runs}) < 2:
        return []
    lines: dict[str, list[tuple[float, float]]] = {}
    several = len({run.data for run in runs}) > 1
    for run in runs:
        method = run.method.replace(f", {run.config.train_subjects} training subjects", "")
        method += f" on {run.data}" if several else ""
        counts = [len(entry["train_subjects"]) for entry in run.report["per_fold"]]
        lines.setdefault(method, []).append((sum(counts) / len(counts), run.report["accuracy"]))
    rows = [[name, f"{x:.0f}", percent(y)] for name, points in lines.items() for x, y in sorted(points)]
    table = Table(["method", "training subjects of a fold", "accuracy"], rows, (1, 2))
    figures = {"learning curve": plots.learning_curve(lines)}
    return [Part("learning", "Learning curve", "Means over folds and seeds.", table=table, figures=figures)]


def folds(runs: Sequence[Run]) -> list[Part]:
    rows = [
        [
            name,
            str(entry["seed"]),
            str(entry["fold"]),
            percent(entry["accuracy"]),
            percent(entry["macro_recall"]),
            str(entry["n_train"]),
            str(entry["n_test"]),
            ", ".join(entry["test_subjects"]) if run.known_subjects else "unknown",
        ]
        for run, name in zip(runs, columns(runs), strict=True)
        for entry in run.report["per_fold"]
    ]
    header = [
        "method",
        "seed",
        "fold",
        "accuracy",
        "macro recall",
        "trained on",
        "tested on",
        "test subjects",
    ]
    return [Part("folds", "Folds", table=Table(header, rows, range(1, 7)))]


PARTS = (results, protocol, paired, recalls, calibrations, learning, synthesis, redrawn, gates, paper, folds)


def write_comparison(runs: Sequence[Run], folder: str | Path) -> None:
    """Write report.html, report.md, pictures/ and tables/*.csv about ``runs`` into ``folder``, and
    paired.json with all figures of the paired tests, in place of an earlier comparison there."""
    folder = Path(folder)
    one = len(runs) == 1
    parts = [part for make in PARTS for part in make(runs)]
    remove_comparison(folder)
    write_document(
        folder,
        f"{runs[0].method} on {runs[0].data}" if one else f"{len(runs)} runs compared",
        ("Subject-independent facial" if all(run.known_subjects for run in runs) else "Facial")
        + " expression recognition and synthesis.",
        parts,
    )
    if not one:
        tests = [
            {**compare(a, b), "first": first, "second": second}
            for (a, first), (b, second) in combinations(zip(runs, columns(runs), strict=True), 2)
            if comparable(a, b)
        ]
        write_json(folder / "paired.json", tests)


def remove_comparison(folder: Path) -> None:
    """Remove what :func:`write_comparison` may have written into ``folder``, and nothing else: other runs
    leave other tables and pictures, and old ones among them would look like theirs."""
    for name in ("report.html", "report.md", "paired.json"):
        (folder / name).unlink(missing_ok=True)
    for path in (*folder.glob("tables/*.csv"), *folder.glob("pictures/*.png")):
        if FILES.fullmatch(path.relative_to(folder).as_posix()):
            path.unlink()
