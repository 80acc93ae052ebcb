"""Files that are either whole or not there, also after a kill or on a full disk."""

import os
import secrets
import shutil
import time
from contextlib import suppress
from pathlib import Path

DAY = 24 * 60 * 60.0  # seconds


def write_atomically(path: Path | str, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) under a temporary name in the same folder, then rename it to `path`.

    A reader sees the old file or the new one, never a part. Raises OSError when it cannot be written; the file that
    was there before is then untouched. After a kill a `*.tmp` may stay behind, which nobody reads and
    `remove_leftovers` removes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def remove_leftovers(folder: Path | str) -> None:
    """Remove what killed processes left in a folder: hidden `*.tmp` files and folders older than a day."""
    for path in Path(folder).glob(".*.tmp"):
        with suppress(OSError):  # another process was first
            if time.time() - path.stat().st_mtime > DAY:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
