"""One module per ``fer-mtl`` command, each with ``main(arguments) -> exit code or None``."""
