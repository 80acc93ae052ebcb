"""One file, one image: every kind that PIL reads is converted or skipped, says so, and never crashes."""

import io
import os
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from ravl_core.domains.image_files import AT_A_TIME, read_image, read_images_of

ORIENTATION = 0x0112


def photograph(width=40, height=24):
    """Smooth, and different in every direction."""
    y, x = np.mgrid[:height, :width]
    return np.stack([200 * x / width, 200 * y / height, 255 - 100 * x * y / width / height], axis=-1).astype(np.uint8)


def saved(tmp_path, image, name="image.png", **how):
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(tmp_path / name, **how)
    return tmp_path / name


def kinds(file):
    return [kind for kind, _ in file.notes]


def is_skipped(file, kind):
    return file.pixels is None and kinds(file) == [kind]


def box_mean(pixels, x1, y1, x2, y2):
    return pixels[y1:y2, x1:x2].reshape(-1, 3).mean(axis=0)


# ---- what is plain ----


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.webp", "a.gif", "a.jpg", "a.JPEG"])
def test_plain_images_of_every_format_are_read_without_a_note(tmp_path, name):
    grey = np.full((24, 40), 90, dtype=np.uint8)
    file = read_image(saved(tmp_path, grey, name, **({"lossless": True} if "webp" in name else {})), 8)
    assert file.pixels.shape == (8, 8, 3) and file.pixels.dtype == np.uint8
    assert np.abs(file.pixels.astype(int) - 90).max() <= 1
    assert file.size == (40, 24) and file.window == (0, 0, 40, 24)
    assert kinds(file) == ([] if "gif" not in name else ["palette"] if Image.open(tmp_path / name).mode == "P" else [])


def test_squash_shows_the_whole_and_centre_the_central_square(tmp_path):
    path = saved(tmp_path, photograph(40, 24))
    whole, centre = read_image(path, 24, "squash"), read_image(path, 24, "centre")
    expected = Image.fromarray(photograph(40, 24)).resize((24, 24), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(whole.pixels, np.asarray(expected))
    np.testing.assert_array_equal(centre.pixels, photograph(40, 24)[:, 8:32])
    assert centre.window == (8, 0, 32, 24) and centre.size == whole.size == (40, 24)
    tall = read_image(saved(tmp_path, photograph(24, 41), "tall.png"), 24, "centre")
    assert tall.window == (0, 8.5, 24, 32.5)


@pytest.mark.parametrize("fit", ["squash", "centre"])
def test_a_large_jpeg_is_decoded_to_a_fraction_and_looks_the_same(tmp_path, fit, monkeypatch):
    path = saved(tmp_path, photograph(901, 613), "large.jpg", quality=98)
    slow = read_image(saved(tmp_path, Image.open(path), "large.png"), 100, fit)
    decoded, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda image, *a, **k: (decoded.append(image.size), resize(image, *a, **k))[1]
    )
    file = read_image(path, 100, fit)
    assert decoded == [(451, 307)], "the smallest fraction with twice the pixels that are needed"
    assert file.size == slow.size == (901, 613) and file.window == slow.window
    assert np.abs(file.pixels.astype(int) - slow.pixels).max() <= 3


def test_many_are_read_in_the_order_of_their_paths(tmp_path):
    greys = np.random.default_rng(0).permutation(2 * AT_A_TIME + 3) % 256
    paths = []
    for grey in range(256):
        saved(tmp_path, np.full((2, 2), grey, dtype=np.uint8), f"{grey}.bmp")
    paths = [tmp_path / f"{grey}.bmp" for grey in greys]
    paths[5] = tmp_path / "absent.bmp"
    files = list(read_images_of(paths, 1))
    assert is_skipped(files.pop(5), "missing")
    assert [int(file.pixels[0, 0, 0]) for file in files] == np.delete(greys, 5).tolist()


def test_a_wrong_size_or_fit_is_refused(tmp_path):
    path = saved(tmp_path, photograph())
    with pytest.raises(ValueError, match="size: expected an integer of 1 or more, got 0"):
        read_image(path, 0)
    with pytest.raises(
        ValueError, match="fit: expected one of 'squash', 'centre', got 'center'; did you mean 'centre'"
    ):
        read_image(path, 8, "center")


# ---- what is converted ----


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
@pytest.mark.parametrize("largest, shift", [(200, 0), (4095, 4), (4096, 5), (65535, 8)])
def test_integers_lose_as_many_bits_as_the_largest_has_above_8(tmp_path, name, largest, shift):
    values = np.linspace(0, largest, 64).astype(np.uint16).reshape(8, 8)
    file = read_image(saved(tmp_path, values, name), 8)
    np.testing.assert_array_equal(file.pixels, np.repeat((values // 2**shift)[..., None], 3, axis=-1))
    assert file.notes == (("16-bit", f"without the lowest {shift} bits"),)


def test_32_bit_integers_are_shifted_too_and_negative_ones_lifted(tmp_path):
    values = np.linspace(-1000, 3000, 64).astype(np.int32).reshape(8, 8)
    file = read_image(saved(tmp_path, values, "a.tif"), 8)
    np.testing.assert_array_equal(file.pixels[..., 0], (values + 1000) // 16)
    assert kinds(file) == ["32-bit"]


@pytest.mark.parametrize("low, high", [(0, 1), (-3.5, 1e30), (-3e38, 3e38)])
def test_floats_are_scaled_from_their_range(tmp_path, low, high):
    values = np.linspace(low, high, 64).astype(np.float32).reshape(8, 8)
    file = read_image(saved(tmp_path, values, "a.tif"), 8)
    np.testing.assert_allclose(file.pixels[..., 1], np.linspace(0, 255, 64).reshape(8, 8), atol=0.51)
    assert kinds(file) == ["32-bit"]
    assert read_image(saved(tmp_path, np.full((4, 4), 7, dtype=np.float32), "flat.tif"), 2).pixels.max() == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_not_finite_are_skipped(tmp_path, value):
    values = np.zeros((4, 4), dtype=np.float32)
    values[1, 2] = value
    file = read_image(saved(tmp_path, values, "a.tif"), 8)
    assert is_skipped(file, "not finite") and file.notes[0][1].startswith("1 values")


def test_colours_of_16_bits_keep_the_upper_8_and_say_so(tmp_path):
    rows = np.full((4, 1 + 4 * 6), 0, dtype=np.uint8)  # each row: filter 0, then 4 pixels of 3 big-endian numbers
    rows[:, 1::2], rows[:, 2::2] = 77, 200
    (tmp_path / "a.png").write_bytes(png(4, 4, 16, 2, rows.tobytes()))
    file = read_image(tmp_path / "a.png", 4)
    assert (file.pixels == 77).all() and kinds(file) == ["16-bit"]


def png(width, height, depth, colour, raw):
    def chunk(kind, data):
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, colour, 0, 0, 0])
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.mark.parametrize("mode, kind", [("CMYK", "CMYK"), ("P", "palette"), ("1", "1-bit"), ("YCbCr", "YCbCr")])
def test_other_kinds_of_colour_become_rgb_with_a_note(tmp_path, mode, kind):
    colour = (255, 255, 255) if mode == "1" else (204, 51, 102)
    image = Image.new("RGB", (6, 5), colour).convert(mode)
    file = read_image(saved(tmp_path, image, "a.tif"), 4)
    assert np.abs(file.pixels.astype(int) - colour).max() <= (30 if mode == "P" else 2)
    assert kinds(file) == [kind]


def test_what_is_transparent_is_laid_on_white(tmp_path):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:, :2, 3] = 255
    pixels[:, 2:, 3] = 51  # a fifth opaque
    for name, image in (("rgba.png", Image.fromarray(pixels)), ("la.png", Image.fromarray(pixels).convert("LA"))):
        file = read_image(saved(tmp_path, image, name), 4)
        assert (file.pixels[:, :2] == 0).all() and (file.pixels[:, 2:] == 204).all()
        assert kinds(file) == ["alpha"]
    pixels[..., 3] = 255
    assert kinds(read_image(saved(tmp_path, pixels, "opaque.png"), 4)) == []


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_colour_that_stands_for_transparent_is_laid_on_white(tmp_path, mode):
    image = Image.new(mode, (4, 4), 1 if mode != "RGB" else (1, 1, 1))
    image.paste(0 if mode != "RGB" else (0, 0, 0), (0, 0, 2, 4))
    if mode == "P":
        image.putpalette([9, 9, 9, 30, 30, 30])
    path = saved(tmp_path, image, transparency=0 if mode != "RGB" else (0, 0, 0))
    file = read_image(path, 4)
    assert (file.pixels[:, :2] == 255).all() and (file.pixels[:, 2:] == (30 if mode == "P" else 1)).all()
    assert kinds(file) == (["palette", "alpha"] if mode == "P" else ["alpha"])


@pytest.mark.parametrize("name", ["a.gif", "a.tif", "a.webp", "a.png"])
def test_the_first_frame_of_several_is_shown(tmp_path, name):
    frames = [Image.new("L", (4, 4), grey).convert("RGB") for grey in (200, 20, 90)]
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
    file = read_image(path, 4)
    assert np.abs(file.pixels.astype(int) - 200).max() <= 2
    assert ("animated", "the first of 3 frames") in file.notes


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright_as_exif_says(tmp_path, name, orientation):
    upright = photograph(400, 240)
    stored = {  # the inverse of each turn, by axes: EXIF's orientations say where row 0 and column 0 lie
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: upright.transpose(1, 0, 2)[::-1],
        7: upright.transpose(1, 0, 2)[::-1, ::-1],
        8: upright.transpose(1, 0, 2)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path, np.ascontiguousarray(stored), name, exif=exif, **({"quality": 98} if "jpg" in name else {}))
    file, plain = read_image(path, 24, "centre"), read_image(saved(tmp_path, upright, "upright.png"), 24, "centre")
    assert np.abs(file.pixels.astype(int) - plain.pixels).max() <= 3
    assert file.size == (400, 240) and file.window == (80, 0, 320, 240)
    assert kinds(file) == (["turned"] if orientation > 1 else [])


@pytest.mark.parametrize("orientation", [0, 9, 300])
def test_an_orientation_that_is_none_is_ignored(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    file = read_image(saved(tmp_path, photograph(), exif=exif), 8)
    assert file.size == (40, 24) and kinds(file) == []


def test_broken_exif_costs_nothing_but_the_orientation(tmp_path, monkeypatch):
    path = saved(tmp_path, photograph(), "a.jpg", exif=b"Exif\0\0MM\0*\0\0\xff\xff\x01\x12")
    assert read_image(path, 8).size == (40, 24)

    def stumble(image):
        raise struct.error("unpack requires a buffer of 12 bytes")

    monkeypatch.setattr(Image.Image, "getexif", stumble)
    assert read_image(path, 8).size == (40, 24)


def test_huge_images_are_counted_and_the_largest_are_skipped_and_nothing_is_warned_of(tmp_path, monkeypatch):
    path = saved(tmp_path, photograph(40, 24))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 24)
        assert read_image(path, 8).notes == ()
        for fit in ("squash", "centre"):
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 24 - 1)
            file = read_image(path, 8, fit)
            assert file.pixels is not None and kinds(file) == ["huge"]
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 12 - 1)
        assert is_skipped(read_image(path, 8), "huge")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert kinds(read_image(path, 8)) == []


# ---- what is skipped ----


@pytest.mark.parametrize(
    "content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0\xff\xff\xff\xff"]
)
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_what_is_no_image_is_unreadable(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    file = read_image(tmp_path / name, 8)
    assert is_skipped(file, "unreadable") and str(tmp_path) not in file.notes[0][1] and file.notes[0][1]


def test_absent_files_folders_pipes_and_dead_links_are_skipped(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "dead.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert is_skipped(read_image(tmp_path / "folder.jpg", 8), "unreadable")
    assert is_skipped(read_image(tmp_path / "pipe.jpg", 8), "unreadable")
    for name in ("absent.jpg", "dead.jpg", "nul\0.jpg", "half\ud800.jpg"):
        assert is_skipped(read_image(tmp_path / name, 8), "missing")
    assert is_skipped(read_image(tmp_path / ("long" * 100 + ".jpg"), 8), "unreadable")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_file_that_may_not_be_read_is_unreadable(tmp_path):
    path = saved(tmp_path, photograph())
    path.chmod(0)
    assert read_image(path, 8).notes == (("unreadable", "Permission denied"),)


def test_a_refusal_of_the_system_is_unreadable_and_names_no_path(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    path = saved(tmp_path, photograph())
    monkeypatch.setattr(Image, "open", refuse)
    assert read_image(path, 8).notes == (("unreadable", "Permission denied"),)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_ends_too_early_is_truncated(tmp_path, name, share):
    whole = saved(tmp_path, np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8), name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    assert is_skipped(read_image(tmp_path / name, 8), "truncated")


def test_a_png_with_broken_data_is_skipped(tmp_path):
    path = saved(tmp_path, photograph())
    header = path.read_bytes().index(b"IDAT") + 4
    content = bytearray(path.read_bytes())
    content[header : header + 2] = b"\xff\xff"
    path.write_bytes(content)
    assert is_skipped(read_image(path, 8), "truncated")


@pytest.mark.parametrize("width, height, is_kept", [(1, 1, False), (1, 9, False), (9, 1, False), (2, 2, True)])
def test_a_side_of_one_pixel_is_too_few(tmp_path, width, height, is_kept):
    file = read_image(saved(tmp_path, photograph(width, height)), 8)
    assert file.pixels is not None if is_kept else is_skipped(file, "one pixel")


def test_no_broken_file_raises(tmp_path):
    random, buffers = np.random.default_rng(0), []
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    for form in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"):
        buffers.append(io.BytesIO())
        Image.fromarray(photograph()).save(buffers[-1], form, **({} if form in ("GIF", "BMP") else {"exif": exif}))
    read = 0
    for at in range(360):
        content = bytearray(buffers[at % len(buffers)].getvalue())
        for place in random.integers(0, min(len(content), 300), 3):
            content[place] = random.integers(256)
        (tmp_path / f"{at}.png").write_bytes(content)
    for file in read_images_of([tmp_path / f"{at}.png" for at in range(360)], 4):
        assert (file.pixels is None) == (file.size == (0, 0)) and (file.pixels is not None or len(file.notes) == 1)
        read += file.pixels is not None
    assert 30 < read < 330, "too plain a case"


@pytest.mark.parametrize("form", ["EPS", "PPM", "PCX"])
def test_other_formats_are_not_tried_as_some_start_programs(tmp_path, form):
    path = saved(tmp_path, photograph(), "a.jpg", format=form)
    assert Image.open(path).format == form, "no such file was made"
    assert is_skipped(read_image(path, 8), "unreadable")


def test_pil_waits_until_a_file_is_read():
    script = "import ravl_core.domains.image_files, sys; print('PIL' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "False"
