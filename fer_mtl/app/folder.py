"""Where gradio keeps files while a page is served; it must be told before it is imported, too."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "GRADIO_TEMP_DIR"
"""The variable that tells gradio where to keep files."""


@contextmanager
def own_folder() -> Iterator[Path]:
    """What visitors upload and what is made of it lies in a folder that no other user of this machine can
    look into, and that is gone when the block ends. gradio has one for everybody, and leaves it behind."""
    before = os.environ.get(FOLDER)
    with tempfile.TemporaryDirectory(prefix="fer-mtl-app-", ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER] = folder
        try:
            yield Path(folder)
        finally:
            os.environ.pop(FOLDER)
            if before is not None:
                os.environ[FOLDER] = before
