"""What the commands share: parsers that complain in one line, and a configuration read from options."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, Namespace, set_parsing_settings

from fer_mtl.files import read_yaml
from fer_mtl.models.sharing import SHARING
from fer_mtl.training.config import TrainConfig, from_dict
from fer_mtl.training.methods import METHODS
from fer_mtl.training.presets import defaults
from fer_mtl.training.settings import check, check_choice

set_parsing_settings(docstring_parse_attribute_docstrings=True)


def make_parser(command: str, description: str) -> ArgumentParser:
    """A parser that raises instead of printing its usage and leaving, and takes options by their whole names:
    :func:`normalise` and :func:`chosen_preset` know no others, and would pass over ``--meth`` and ``--pres``.
    """
    return ArgumentParser(
        prog=f"fer-mtl {command}", description=description, exit_on_error=False, allow_abbrev=False
    )


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """The parsed options. ``ValueError`` with the reason when they do not fit."""
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise ValueError(str(error)) from error


def normalise(arguments: Sequence[str], switches: Sequence[str] = (), lists: Sequence[str] = ()) -> list[str]:
    """Let ``--dry-run`` mean ``--dry_run``, a bare ``--skip-bad-images`` mean ``--skip_bad_images true``,
    ``--restart decoder,style`` mean ``--restart [decoder,style]``, and ``--sharing`` and ``--method`` the
    settings they stand for.

    ``switches`` names the options that hold a boolean, ``lists`` those that hold several values; what follows
    a ``--`` is names, and stays as it is. Raises ``ValueError`` for an unknown method.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    names, arguments = arguments[end:], expand(arguments[:end])
    result: list[str] = []
    listed = False  # whether the argument is the value of a list
    following = [*arguments[1:], "--"][: len(arguments)]
    for argument, after in zip(arguments, following, strict=True):
        if listed:
            argument, listed = bracketed(argument), False
        elif argument.startswith("--"):
            name, equals, value = argument.partition("=")
            if name[2:] in lists:
                value, listed = bracketed(value) if equals else value, not equals
            argument = "--" + name[2:].replace("-", "_") + equals + value
            if not equals and argument[2:] in switches and after.lower() not in ("true", "false"):
                argument += "=true"
        result.append(argument)
    return [*result, *names]


def bracketed(value: str) -> str:
    """A list as jsonargparse takes it, of values separated by commas; a single whole number stays one."""
    return value if value.startswith("[") or value.isdigit() else f"[{value}]"


def expand(arguments: Sequence[str]) -> list[str]:
    """``--sharing X`` -> ``--model.sharing=X``; ``--method NAME`` -> the settings of METHODS."""
    result, rest = [], iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in ("--sharing", "--method"):
            result.append(argument)
            continue
        value = value if equals else next(rest, "")
        if name == "--method":
            check_choice("--method", value, tuple(METHODS))
        settings = METHODS[value] if name == "--method" else {"model.sharing": value}
        result += [f"--{key}={str(setting).lower()}" for key, setting in settings.items()]
    return result


def out_folder(name: str, what: str = "--out") -> Path:
    """What ``--out``, or ``what``, names, ``~`` being the home folder. NotADirectoryError where a file lies
    there or on the way, FileNotFoundError where a link leads nowhere, as to a disk that is not mounted,
    PermissionError where nothing can be written: said before the work and not after it."""
    folder = Path(name).expanduser()
    places = (folder, *folder.absolute().parents)
    there = next(place for place in places if place.exists() or place.is_symlink())
    if not there.exists():
        raise FileNotFoundError(
            f"{what} must be a folder, got the link {there} to {there.readlink()}, which is not there"
        )
    if not there.is_dir():
        raise NotADirectoryError(f"{what} must be a folder, got the file {there}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"{what} must be a folder that can be written to, {there} cannot")
    return folder


def leaves(kind: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and types of the settings of a configuration dataclass."""
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, hint


SWITCHES = tuple(name for name, hint in leaves(TrainConfig) if hint is bool)
LISTS = tuple(
    name
    for name, hint in leaves(TrainConfig)
    if any(get_origin(kind) in (tuple, list) for kind in (hint, *get_args(hint)))
)


def add_config(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """Add every setting of :class:`TrainConfig` with the defaults of the preset that ``arguments`` choose."""
    parser.add_argument(
        "--sharing", type=str, metavar="NAME", help="short for --model.sharing: " + ", ".join(SHARING)
    )
    parser.add_argument(
        "--method", type=str, metavar="NAME", help="a row of the comparison: " + ", ".join(METHODS)
    )
    parser.add_argument("--config", action="config", help="YAML file of settings; options after it win")
    parser.add_class_arguments(TrainConfig)
    parser.set_defaults(defaults(chosen_preset(arguments)))


def chosen_preset(arguments: Sequence[str]) -> str:
    """The last one that a ``--preset`` or the ``preset:`` of a ``--config`` file names, else "small".
    ``ValueError`` for a file that does not hold settings."""
    chosen: str = TrainConfig.preset
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        value = value if equals else after
        if name == "--preset":
            chosen = value
        elif name == "--config" and value:  # one without is the parser's to refuse
            content = read_yaml(Path(value))
            check(value, content, "settings by name", isinstance(content, Mapping))
            chosen = str(content.get("preset", chosen))
    return chosen


def read_config(options: Namespace) -> TrainConfig:
    """The :class:`TrainConfig` among parsed options. ``ValueError`` names a setting out of range, and what is
    short for others (``expand``) where a file has it."""
    values = options.as_dict()
    for name, settings in (("sharing", "model.sharing"), ("method", "model.sharing and model.synthesis")):
        if values.get(name) is not None:
            raise ValueError(
                f"{name} is for the command line, as --{name} {values[name]}; a file has {settings}"
            )
    return from_dict(
        TrainConfig, {f.name: values[f.name] for f in dataclasses.fields(TrainConfig) if f.name in values}
    )
