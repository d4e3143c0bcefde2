"""The ``fer-mtl`` command: ``fer-mtl COMMAND [options]``, one module of :mod:`fer_mtl.commands` per command.

A command module has ``main(arguments)``, which returns an exit code. It is imported only when asked for, so a
missing optional package stops the commands that need it and no other.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from fer_mtl.memory import keep_freed_memory
from fer_mtl.processors import wait_briefly
from fer_mtl.signals import ended_by_signals

COMMANDS = {
    "demo": "train on drawn faces with three ways of sharing and show what was learnt, in minutes",
    "datasets": "list the data sets, or check a folder of faces",
    "prepare": "find, align and crop the faces of a folder of pictures",
    "train": "train on one subject-independent fold and report on the unseen subjects",
    "crossval": "train and test on every fold with several seeds",
    "report": "set runs side by side and beside the paper, with paired tests",
    "evaluate": "measure a trained model on faces it has not seen",
    "balance": "draw synthetic faces until the expressions are even",
    "synthesize": "redraw faces with another expression",
    "predict": "read the expressions in pictures and videos",
    "export": "write a trained model for use elsewhere: a model folder, ONNX or PyTorch's pt2",
    "app": "a page in the browser that reads expressions and redraws faces",
}

# What people install for a package that is not there.
EXTRAS = {
    "cv2": "faces",
    "gradio": "app",
    "tensorboard": "tensorboard",
    "torchjd": "weighting",
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "export"),
}
DISTRIBUTION = "selective-feature-sharing"

BAD_INPUT, BUG, STOPPED = 2, 1, 130


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    return (
        "usage: fer-mtl COMMAND [options]\n\n"
        "Facial expression recognition and synthesis with selective feature sharing.\n\n"
        f"commands:\n{lines}\n\n"
        "`fer-mtl COMMAND --help` explains a command; --debug shows the traceback of an error."
    )


def load_command(name: str) -> ModuleType:
    """The module of a command. ``ValueError`` for an unknown name."""
    if name not in COMMANDS:
        raise ValueError(f"unknown command {name!r}; known are {', '.join(COMMANDS)}")
    return importlib.import_module(f"fer_mtl.commands.{name}")


def one_line(error: BaseException) -> str:
    """An error's message without line breaks, its kind when it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def escape_unknown_characters() -> None:
    """Let no name that the output's encoding lacks (ASCII of a scheduler's, a Windows code page) end what is
    being done: it is printed escaped, as errors are."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def while_it_is_read() -> Iterator[None]:
    """End with code 1 and no word where nobody reads the output any more (``| head``), as rich does."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes when it ends
        raise SystemExit(BUG) from None


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 2 for bad input (one line on stderr), 130 after Ctrl-C or
    another signal that ends a program."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        with while_it_is_read():
            print(usage())
        return 0 if arguments else BAD_INPUT
    name, debug = arguments[0], "--debug" in arguments
    rest = [argument for argument in arguments[1:] if argument != "--debug"]

    def fail(code: int, text: str) -> int:
        print(f"fer-mtl{f' {name}' if name in COMMANDS else ''}: {text}", file=sys.stderr)
        return code

    escape_unknown_characters()
    keep_freed_memory()
    wait_briefly()
    try:
        command = load_command(name)
        from fer_mtl.data.files import readable_names  # here, since packages may be missing
        from fer_mtl.data.images import expect_large_photographs

        expect_large_photographs()
        readable_names(map(Path, rest))  # reports name what they are of
        with ended_by_signals(), while_it_is_read():
            return int(command.main(rest) or 0)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if debug or package in ("fer_mtl", "fused_ops"):
            raise
        extra = EXTRAS.get(package, "fer")
        return fail(BAD_INPUT, f"the package {package!r} is missing; pip install '{DISTRIBUTION}[{extra}]'")
    except KeyboardInterrupt as error:
        return fail(STOPPED, str(error) or "stopped")
    except (ValueError, TypeError, OSError) as error:
        if debug:
            raise
        return fail(BAD_INPUT, f"error: {one_line(error)}")
    except MemoryError as error:
        if debug:
            raise
        return fail(BAD_INPUT, "error: not enough memory" + (f": {one_line(error)}" if str(error) else ""))
    except RuntimeError as error:
        if debug:
            raise
        return fail(BUG, f"error: {one_line(error)} (--debug shows where)")


if __name__ == "__main__":
    sys.exit(main())
