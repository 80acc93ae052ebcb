"""One file → the image that a model sees. Whatever is unusual about it is converted or skipped, and said."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from ravl_core.checks import choice, whole_number

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")  # no others are tried: some of PIL's readers start programs
ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
FITS = ("squash", "centre")
AT_A_TIME = 256  # files that are read between two looks at what the caller does with them
ORIENTATION = 0x0112  # EXIF's number for it
PLAIN = {"RGB", "L", "RGBA", "LA"}  # transparency has a note of its own
BROKEN = ("truncated", "broken", "premature")  # PIL's words for a file that stops too early


@dataclass(frozen=True, eq=False)
class ImageFile:
    """What came of a file; size and window are in pixels of the file's image, turned upright."""

    pixels: np.ndarray | None = field(default=None, repr=False)  # (S, S, 3) uint8; None where it was skipped
    size: tuple[int, int] = (0, 0)  # width, height
    window: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # the part that is shown: x1, y1, x2, y2
    notes: tuple[tuple[str, str], ...] = ()  # kind and detail; of a file that was skipped the reason alone


class _Skip(Exception):
    """Kind and detail of what makes a file useless."""


def read_image(path: Path | str, size: int, fit: str = "squash") -> ImageFile:
    """Read a JPEG, PNG, BMP, GIF, TIFF or WebP as a square RGB image; whatever is in the file, it raises nothing.

    Kept, with a note: "16-bit" and "32-bit" (integers lose as many low bits as the image's largest has above 8, so
    that a 12-bit X-ray does not go black; floats are scaled from their range to 0 … 255; of 16-bit colours PIL keeps
    the upper 8), "CMYK", "palette", "1-bit" and rarer modes by PIL's name, "alpha" (where a pixel is not opaque; laid
    on white), "animated" (the first frame or page), "turned" (upright, as EXIF says), "huge" (above PIL's limit).
    Skipped: "missing", "unreadable", "truncated", "not finite", "one pixel" (a side below 2), "huge" (above twice the
    limit). Plain RGB and 8-bit grey need no note.

    Parameters
    ----------
    size : S, the side of the result in pixels.
    fit : "squash" resizes the whole image to a square, "centre" its central square, as CLIP's own preprocessing does.

    Raises
    ------
    ValueError
        A size below 1, or an unknown fit.
    """
    return next(read_images_of([path], size, fit))


def read_images_of(paths: Sequence[Path | str], size: int, fit: str = "squash") -> Iterator[ImageFile]:
    """Like `read_image`, of many files, on all cores; the results come in the order of the paths."""
    from concurrent.futures import ThreadPoolExecutor

    from joblib import cpu_count

    read = partial(_read, size=whole_number("size", size, 1), fit=choice("fit", fit, FITS))
    with ThreadPoolExecutor(cpu_count()) as threads:
        for start in range(0, len(paths), AT_A_TIME):
            with warnings.catch_warnings():  # around all threads: it is the process that warns, not a thread
                warnings.filterwarnings("ignore", module="PIL")  # the notes say it
                files = list(threads.map(read, paths[start : start + AT_A_TIME]))
            yield from files


def _read(path: Path | str, size: int, fit: str) -> ImageFile:
    try:
        return _decode(Path(path), size, fit)
    except _Skip as skip:
        return ImageFile(notes=(skip.args,))
    except Exception as error:  # a broken file makes PIL's readers stumble in every way there is
        return ImageFile(notes=(_reason(error),))


def _reason(error: Exception) -> tuple[str, str]:
    """Kind and detail in one line, without the path that some messages hold."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "unreadable", "no image of a known format"
    if isinstance(error, Image.DecompressionBombError):
        return "huge", f"above twice PIL's limit of {Image.MAX_IMAGE_PIXELS} pixels"
    detail = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return "truncated" if any(word in detail.lower() for word in BROKEN) else "unreadable", detail


def _decode(path: Path, size: int, fit: str) -> ImageFile:
    from PIL import Image

    if not path.is_file():  # a pipe would be waited for
        raise _Skip("unreadable", "no regular file") if path.exists() else _Skip("missing", "no such file")
    with Image.open(path, formats=FORMATS) as image:
        if min(image.size) < 2:
            raise _Skip("one pixel", f"{image.width}×{image.height} pixels")
        notes = _notes_before_decoding(image)
        whole, part = image.size, image.draft(None, (2 * size, 2 * size))  # JPEG: decodes to a fraction, which is fast
        shrink = part[1][2] / whole[0] if part else 1.0
        turned_by_pil = _orientation(image) if image.format == "TIFF" else 1  # others may decode to find it
        image.load()
        orientation = _orientation(image)
        upright, on_its_side = _upright(image, orientation), orientation >= 5
    shown, more = _eight_bits(upright)
    if max(turned_by_pil, orientation) > 1:
        more.append(("turned", f"EXIF orientation {max(turned_by_pil, orientation)}"))
    whole = (whole[::-1] if on_its_side else whole) if part else upright.size
    window = _window(*whole, fit)
    box = tuple(np.minimum(np.multiply(window, shrink), 2 * upright.size))
    pixels = shown.resize((size, size), Image.Resampling.BILINEAR, box=box).convert("RGB")
    return ImageFile(np.asarray(pixels), whole, window, (*notes, *more))


def _window(width: int, height: int, fit: str) -> tuple[float, float, float, float]:
    if fit == "squash":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height)
    x, y = (width - side) / 2, (height - side) / 2
    return x, y, x + side, y + side


def _notes_before_decoding(image) -> list[tuple[str, str]]:
    """What is known of an image that is open and not yet decoded, and lost afterwards."""
    from PIL import Image

    notes, limit = [], Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        notes.append(("huge", f"{image.width}×{image.height} pixels, above PIL's limit of {limit}"))
    if getattr(image, "is_animated", False):
        notes.append(("animated", f"the first of {image.n_frames} frames"))
    if not image.mode.startswith("I") and image.tile and ";16" in str(image.tile[0][3]):
        notes.append(("16-bit", "colours, of which the upper 8 bits are kept"))
    return notes


def _orientation(image) -> int:
    """1 … 8 as EXIF counts them; 1, upright, also where its EXIF is broken."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # of all kinds; the pixels may be whole
        return 1
    return orientation if orientation in range(1, 9) else 1


def _upright(image, orientation: int):
    from PIL.Image import Transpose as T

    how = (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM, T.TRANSPOSE, T.ROTATE_270, T.TRANSVERSE, T.ROTATE_90)
    return image if orientation == 1 else image.transpose(how[orientation - 2])


def _eight_bits(image) -> tuple:
    """As RGB or 8-bit grey, with notes of what that took."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        return _from_numbers(image)
    notes = []
    if image.mode not in PLAIN:
        notes.append(({"P": "palette", "PA": "palette", "1": "1-bit"}.get(image.mode, image.mode), "to RGB"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append(("alpha", "laid on white"))
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        image = white
    return image if image.mode == "L" else image.convert("RGB"), notes


def _from_numbers(image) -> tuple:
    """Grey of 8 bits from 16 or 32 bits a pixel, integers or floats."""
    from PIL import Image

    values = np.asarray(image)
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise _Skip("not finite", f"{np.count_nonzero(~np.isfinite(values))} values are NaN or infinite")
        values = values.astype(np.float64)
        low, high = values.min(), values.max()
        values = (255 * (values - low) / ((high - low) or 1)).round()
        how = f"{low:g} … {high:g} to 0 … 255"
    else:
        values = values.astype(np.int64) - min(int(values.min()), 0)
        bits = max(int(values.max()).bit_length() - 8, 0)
        values, how = values >> bits, f"without the lowest {bits} bits"
    return Image.fromarray(values.astype(np.uint8)), [("16-bit" if "16" in image.mode else "32-bit", how)]
