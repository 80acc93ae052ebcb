"""Files and folders that are either whole or not there, also after a kill or on a full disk."""

import errno
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DAY = 24 * 60 * 60.0  # seconds
TAKEN = (errno.ENOTEMPTY, errno.EEXIST)  # what renaming a folder says where one is already


def write_atomically(path: Path | str, content: str | bytes) -> Path:
    """Write `content` (text as UTF-8) under a temporary name in the same folder, then rename it to `path`.

    A reader sees the old file or the new one, never a part. Raises OSError, which names the file, when it cannot be
    written; the file that was there before is then untouched. After a kill a `*.tmp` may stay behind, which nobody
    reads and `remove_leftovers` removes.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


@contextmanager
def folder_at_once(folder: Path | str, replace: bool = False) -> Iterator[Path]:
    """A new folder to fill under a temporary name, which at the end becomes `folder`, whole or not at all.

    With `replace` a folder that is there goes when the new one is whole; without it, it stays, and that is a
    FileExistsError. Raises OSError, which names the folder, when it cannot be written; after that, and after any other
    error inside, nothing of the new one is left. What a kill leaves is as in `write_atomically`; one between the two
    renames of a replacement leaves the old folder under a temporary name.
    """
    real = Path(folder).resolve()  # behind a link, on the disk where the folder is
    unfinished = _temporary(real)
    try:
        with naming(folder):
            unfinished.mkdir(parents=True)
            yield unfinished
            _take_place(unfinished, real, replace)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _take_place(unfinished: Path, folder: Path, replace: bool) -> None:
    """Rename, whatever other processes do meanwhile with the same name."""
    aside = []
    while True:
        try:
            unfinished.rename(folder)
            break
        except OSError as error:
            if error.errno in TAKEN and not replace:
                raise FileExistsError(f"folder: {folder} exists already; nothing was written") from error
            if error.errno not in TAKEN:
                if aside:
                    aside[-1].rename(folder)
                raise
        with suppress(FileNotFoundError):  # another process was first
            aside.append(folder.rename(_temporary(folder)))
    for old in aside:
        shutil.rmtree(old, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Let an error of the system name the file: when writing fails, unlike opening, it says only what went wrong."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


@contextmanager
def alone(path: Path | str, expected: str) -> Iterator[None]:
    """Let one process at a time go on, by a lock on that file; however it ends, the lock ends with it.

    Raises BlockingIOError, with what was `expected`, while another process holds it. Where the system or the disk
    has no such locks (Windows, some shared disks) nothing is locked.
    """
    with open(path, "ab") as file:
        with suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BlockingIOError(expected) from error
            except OSError:
                pass  # a disk of another kind
        yield


def remove_leftovers(folder: Path | str) -> None:
    """Remove what killed processes left in a folder: hidden `*.tmp` files and folders older than a day."""
    for path in Path(folder).glob(".*.tmp"):
        with suppress(OSError):  # another process was first
            if time.time() - path.stat().st_mtime > DAY:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
