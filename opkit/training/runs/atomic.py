"""Files that are the old one or the whole new one, whenever the process ends or the disk fills."""

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4


def write_whole(path: str | Path, content: bytes) -> None:
    """Write `content` beside `path` and rename it to `path`."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")  # its own, should another process write here too
    try:
        with open(unfinished, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """`write_whole` of `value` as indented JSON."""
    write_whole(path, (json.dumps(value, indent=2) + "\n").encode())
