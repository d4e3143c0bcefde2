from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any

import pytest

from fer_mtl.cli import main
from fer_mtl.commands.options import (
    LISTS,
    SWITCHES,
    add_config,
    expand,
    make_parser,
    normalise,
    out_folder,
    parse,
    read_config,
)
from fer_mtl.training.config import TrainConfig
from fer_mtl.training.methods import METHODS, method_of


def config_of(*arguments: str) -> TrainConfig:
    """The configuration that a command would read from its arguments."""
    given = normalise(arguments, SWITCHES, LISTS)
    parser = make_parser("test", "A test.")
    add_config(parser, given)
    return read_config(parse(parser, given))


def test_a_file_is_no_folder_for_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NotADirectoryError, match=r"--out must be a folder, got the file .*notes\.txt"):
        out_folder("~/notes.txt")
    with pytest.raises(NotADirectoryError, match=r"--out must be a folder, got the file .*notes\.txt$"):
        out_folder("~/notes.txt/new")
    assert out_folder("~/new") == tmp_path / "new"


def test_a_link_to_a_disk_that_is_not_there_is_said(tmp_path: Path) -> None:
    """It was "File exists", of what does not."""
    (tmp_path / "runs").symlink_to(tmp_path / "scratch")
    for name in ("runs", "runs/new"):
        with pytest.raises(FileNotFoundError, match=r"got the link .*runs to .*scratch, which is not there"):
            out_folder(str(tmp_path / name))
    (tmp_path / "scratch").mkdir()
    assert out_folder(str(tmp_path / "runs" / "new")) == tmp_path / "runs" / "new"


def test_a_folder_for_results_can_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    (tmp_path / "here").mkdir()
    assert out_folder(str(tmp_path / "here" / "new")) == tmp_path / "here" / "new"
    for name in ("", "new", "new/below"):
        with pytest.raises(PermissionError, match=f"--out must be .* written to, {tmp_path} cannot"):
            out_folder(str(tmp_path / name))


@pytest.mark.parametrize(
    "command", ["balance", "crossval", "demo", "evaluate", "predict", "report", "synthesize", "train"]
)
def test_no_work_is_done_for_results_that_have_no_place(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes = tmp_path / "notes.txt"
    notes.touch()
    runs, files = ("balance", "evaluate", "report"), ("predict", "synthesize")
    inputs = ["gone"] if command in runs else ["gone", str(notes)] if command in files else []
    assert main([command, *inputs, "--out", str(notes)]) == 2
    assert f"--out must be a folder, got the file {notes}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("export", "gone", "--out", "{}"), "--out"),
        (("prepare", "gone", "{}"), "OUT"),
        (("datasets", "procedural", "--sheet", "{}/sheet.png"), "where --sheet lies"),
    ],
)
def test_no_work_is_done_for_new_files_that_have_no_place(
    arguments: tuple[str, ...], what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").touch()
    place = tmp_path / "notes.txt" / "new"
    assert main([argument.format(place) for argument in arguments]) == 2
    expected = f"error: {what} must be a folder, got the file {tmp_path / 'notes.txt'}\n"
    assert capsys.readouterr().err == f"fer-mtl {arguments[0]}: {expected}"


def test_short_options_stand_for_settings() -> None:
    assert expand(["--sharing", "nddr", "--epochs", "3"]) == ["--model.sharing=nddr", "--epochs", "3"]
    assert expand(["--method=baseline"]) == ["--model.sharing=none", "--model.synthesis=false"]
    with pytest.raises(ValueError, match=r"--method must be one of baseline, baseline\*, fersnet.* got 'x'"):
        normalise(["--method", "x"])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_a_configuration(name: str) -> None:
    config = config_of("--method", name, "--train-subjects", "20")
    model = {f"model.{key}": value for key, value in vars(config.model).items()}
    assert METHODS[name].items() <= model.items()
    assert "20 training subjects" in method_of(config)


def test_later_options_win_and_a_preset_comes_first() -> None:
    config = config_of("--preset", "ck48", "--method", "pad", "--epochs", "2", "--restart", "[classifier]")
    assert (config.preset, config.epochs, config.model.sharing) == ("ck48", 2, "pad")
    assert config.restart == ("classifier",) and config.model.in_channels == 1


def test_the_preset_that_is_named_last_gives_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs were called by one preset and had the settings of another."""
    monkeypatch.chdir(tmp_path)
    files = {"paper": "preset: paper", "other": "epochs: 3", "ck48": "preset: ck48\nepochs: 4"}
    for name, text in files.items():
        Path(f"{name}.yaml").write_text(text)

    def read(text: str) -> tuple[str, int, bool]:
        config = config_of(*text.split())
        return config.preset, config.epochs, config.model.blend

    assert read("--config paper.yaml --config other.yaml") == ("paper", 3, False)
    assert read("--preset small --config paper.yaml") == ("paper", 500, False)
    assert read("--preset paper --config ck48.yaml") == ("ck48", 4, True)
    assert read("--config=paper.yaml --config=ck48.yaml") == ("ck48", 4, True)
    assert read("--config ck48.yaml --config other.yaml --preset=small") == ("small", 3, True)


def test_options_have_their_whole_names() -> None:
    """What is looked for by its name before the parser sees it was passed over."""
    for option in (["--meth", "baseline"], ["--shar", "hard"], ["--pres=paper"]):
        with pytest.raises(ValueError, match="nrecognized arguments: " + " ".join(option)):
            config_of(*option)


def test_what_is_short_for_settings_is_refused_in_a_file(tmp_path: Path) -> None:
    """It was passed over, and FERSNet was trained."""
    file = tmp_path / "hard.yaml"
    for text, allowed in (("sharing: hard", "model.sharing"), ("method: baseline", "model.synthesis")):
        file.write_text(text)
        with pytest.raises(
            ValueError, match=rf"is for the command line, as --{text.replace(':', '')}; .*{allowed}"
        ):
            config_of("--config", str(file))
    file.write_text("sharing: null\nmethod: null\nmodel: {sharing: hard}")  # as --print_config prints it
    assert config_of("--config", str(file)).model.sharing == "hard"


@pytest.mark.parametrize("text", ["", "# nothing yet", "[small]", "small"])
def test_a_file_of_settings_holds_settings(text: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.yaml must be settings by name, got"):
        config_of("--config", str(file))


@pytest.mark.parametrize("form", ["--{}={}", "--{} {}"])
def test_lists_are_read_with_and_without_brackets(form: str) -> None:
    settings = {
        "restart": ["decoder,style", "[decoder,style]", "stem", "[]", ""],
        "optimiser.betas": ["0.4,0.9"],
        "optimiser.milestones": ["0.5"],
        "model.levels": ["1,3", "[2]", "2"],
    }

    def read(name: str, text: str) -> Any:
        return operator.attrgetter(name)(config_of(*form.format(name, text).split(" ", 1)))

    assert [[read(name, text) for text in texts] for name, texts in settings.items()] == [
        [("decoder", "style"), ("decoder", "style"), ("stem",), (), ()],
        [(0.4, 0.9)],
        [(0.5,)],
        [[1, 3], [2], 2],
    ]
    assert config_of("--restart", "stem", "--skip-bad-images").skip_bad_images


def test_names_after_two_dashes_stay_as_they_are() -> None:
    """A file --my-photo.jpg was looked for as --my_photo.jpg."""
    names = ["--", "--my-photo.jpg", "--sharing", "x"]
    assert normalise(["--skip-bad-images", *names]) == ["--skip_bad_images", *names]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--restart", "[head]"], "restart must be one of stem, fer, fes"),
        (["--mix", "1.0"], r"mix must be in \(0, 1\), got 1.0"),
        (["--loss.expression", "0.5"], "loss.expression must be 0 without average"),
        (["--method", "baseline", "--weighting", "mgda"], "weighting must be fixed without synthesis"),
        (["--train_subjects", "1"], "train_subjects must be null or 2 or more, got 1"),
        (["--views", "all"], "views must be one of center, mirror, ten"),
        (["--optimiser.schedule", "flat"], "optimiser.schedule must be one of steps, cosine"),
        (["--average", "1.0"], "average must be in"),
        (["--mixup", "0.9"], "mixup must be in"),
        (["--synthesis_every", "0"], "synthesis_every must be 1 or more"),
    ],
)
def test_a_bad_value_names_the_setting(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(*arguments)
