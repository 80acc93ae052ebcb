"""Files that are either whole or not there, also after a kill or on a full disk."""

import os
import secrets
from pathlib import Path


def write_atomically(path: Path | str, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) under a temporary name in the same folder, then rename it to `path`.

    A reader sees the old file or the new one, never a part. Raises OSError when it cannot be written; the file that
    was there before is then untouched. After a kill a `*.tmp` may stay behind, which nobody reads.
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
