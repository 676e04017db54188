"""What is done to pixels on the way in: transparency, 16 bits, EXIF, frames; and what is never opened."""

import io
import os
import socket
import stat
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from deq_nc.config import DataConfig
from deq_nc.data import DataError, load
from deq_nc.data.pixels import FORMATS, decode, notes

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8)
ALPHA = RNG.integers(0, 256, (6, 8)).astype(np.uint8)


def encoded(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def read(data, channels=3, size=None):
    seen = Counter()
    return decode(data, channels, size, seen), notes(seen, "set")


def laid(colour, alpha):
    """The definition, in float64."""
    a = alpha[..., None] / 255
    return np.floor(colour * a + 255 * (1 - a) + 0.5).astype(np.uint8)


def png16(colour_type, samples):
    """A PNG of 16 bits a channel, which Pillow cannot write; samples [H, W, C]."""
    height, width, _ = samples.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.parametrize("format", ["PNG", "BMP", "WEBP"])
def test_opaque_images_come_back_to_the_last_bit_and_without_a_note(format):
    options = {"lossless": True} if format == "WEBP" else {}
    assert read(encoded(Image.fromarray(RGB), format, **options)) == (pytest.approx(RGB, abs=0), ())
    opaque = np.dstack([RGB, np.full_like(ALPHA, 255)])
    assert read(encoded(Image.fromarray(opaque), format, **options)) == (pytest.approx(RGB, abs=0), ())


def test_transparent_pixels_are_laid_on_white():
    image, said = read(encoded(Image.fromarray(np.dstack([RGB, ALPHA]))))
    np.testing.assert_array_equal(image, laid(RGB, ALPHA))
    assert said == ("set: 1 image transparent in places, laid on white",)
    grey, said = read(encoded(Image.fromarray(np.dstack([RGB[..., 0], ALPHA]))), channels=1)
    np.testing.assert_array_equal(grey, laid(RGB[..., :1], ALPHA))
    icon = np.zeros((6, 8, 4), np.uint8)
    icon[2:4, 3:5, 3] = 255  # black on transparent black: all zeros once alpha is dropped
    image, _ = read(encoded(Image.fromarray(icon)))
    assert (image[2:4, 3:5] == 0).all() and image.sum() == 255 * (image.size - 12)


def test_an_image_that_white_ground_swallows_is_counted_apart():
    icon = np.full((6, 8, 4), 255, np.uint8)
    icon[..., 3] = ALPHA
    image, said = read(encoded(Image.fromarray(icon)))
    assert (image == 255).all() and "white throughout" in said[0]


def test_a_transparent_colour_and_a_transparent_palette_entry_are_laid_on_white_too():
    keyed = RGB.copy()
    keyed[1, 1] = (1, 2, 3)
    image, said = read(encoded(Image.fromarray(keyed), transparency=(1, 2, 3)))
    assert (image[1, 1] == 255).all() and "laid on white" in said[0]
    keyed[1, 1] = 255
    np.testing.assert_array_equal(image, keyed)
    palette = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    for options in ({"transparency": 1}, {"transparency": b"\xff\x00"}):
        image, _ = read(encoded(palette, **options))
        assert image.tolist() == [[[10, 20, 30], [255] * 3], [[255] * 3, [10, 20, 30]]]
    bits = Image.fromarray(np.eye(8, dtype=np.uint8) * 255).convert("1")
    image, _ = read(encoded(bits, transparency=0), channels=1)
    assert (image == 255).all()


@pytest.mark.parametrize("colour_type, channels", [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_whatever_the_colour(colour_type, channels):
    samples = RNG.integers(0, 1 << 16, (6, 8, channels))
    with pytest.raises(ValueError, match="more than 8 bits"):
        read(png16(colour_type, samples))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_exif_orientation_is_honoured(format, orientation):
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :12] = (200, 10, 10)
    upright[8:, :12] = (10, 10, 200)
    undo = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud}
    undo |= {5: lambda a: a.swapaxes(0, 1), 6: np.rot90, 7: lambda a: np.rot90(a, 2).swapaxes(0, 1)}
    undo |= {8: lambda a: np.rot90(a, -1)}  # what the sensor stored, by the definition of the tag
    exif = Image.Exif()
    exif[0x0112] = orientation
    image, said = read(encoded(Image.fromarray(np.ascontiguousarray(undo[orientation](upright))), format, exif=exif))
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright)[::6, ::6].max() < 80  # of 190; JPEG and WebP are lossy
    assert said == (() if orientation == 1 else ("set: 1 image turned as EXIF says",))


def test_exif_that_is_garbage_leaves_the_pixels_and_is_said():
    image, said = read(encoded(Image.fromarray(RGB), exif=b"Exif\0\0garbage of no kind"))
    np.testing.assert_array_equal(image, RGB)
    assert "cannot be read" in said[0]


def test_inks_and_frames_are_said():
    _, said = read(encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"))
    assert said == ("set: 1 image converted from CMYK",)
    frames = [Image.fromarray(np.full((6, 8), value, np.uint8)) for value in (10, 200)]
    for format in ("GIF", "PNG", "WEBP"):
        image, said = read(encoded(frames[0], format, save_all=True, append_images=frames[1:]))
        assert abs(int(image[0, 0, 0]) - 10) < 3 and said == ("set: 1 image of several frames, the first taken",)


def test_a_flipped_bit_of_a_png_is_refused_and_so_are_cut_files():
    data = encoded(Image.fromarray(RGB))
    for place in range(8, len(data)):
        with pytest.raises(Exception):  # noqa: B017 - Pillow raises what it likes; folder.py names the file
            read(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
    for suffix, format in FORMATS.items():
        data = encoded(Image.fromarray(RGB), format)
        whole = read(data)[0]
        for end in range(0, len(data), 7):
            try:
                assert np.array_equal(read(data[:end])[0], whole), (suffix, end)
            except AssertionError:
                raise
            except Exception:
                pass


def folder_with(root, name, data=None):
    for k in "ab":
        (root / k).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(RGB).save(root / k / f"{i}.png")
    file = root / "a" / name
    if data is not None:
        file.write_bytes(data)
    return file


def load_folder(root):
    return load(DataConfig(name="folder", dir=str(root)))


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n%%EOF\n"
BOMB = png16(2, np.zeros((1, 1, 3)))  # rewritten below to claim 60,000 x 60,000 pixels


@pytest.mark.parametrize(
    "name, data, says",
    [
        ("z.png", EPS, "no PNG"),
        ("z.png", encoded(Image.fromarray(RGB), "JPEG"), "no PNG"),
        ("z.gif", encoded(Image.fromarray(RGB)), "no GIF"),
        ("z.png", encoded(Image.fromarray(RGB), "TIFF"), "no PNG"),
        ("z.png", b"", "no PNG"),
        ("z.png", encoded(Image.fromarray(RGB))[:-40], "z.png is not a readable image"),
        ("z.png", b"".join([BOMB[:16], struct.pack(">II", 60_000, 60_000), BOMB[24:]]), "z.png is not a readable"),
        ("z\x1b[31m.png", b"", r"z\\x1b\[31m.png is not"),
        (b"z\xff.png".decode("utf-8", "surrogateescape"), b"", r"z\\udcff.png is not"),
    ],
)
def test_what_is_no_image_of_its_name_is_refused_by_name(tmp_path, monkeypatch, name, data, says):
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("a program was started"))
    folder_with(tmp_path, name, data)
    with pytest.raises(DataError, match=says):
        load_folder(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "directory", "loop", "dangling"])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, kind):
    file = folder_with(tmp_path, "z.png")
    match kind:
        case "fifo":
            os.mkfifo(file)
        case "socket":
            monkeypatch.chdir(file.parent)  # names of sockets have room for 100 characters
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(file.name)
        case "device":
            file.symlink_to("/dev/zero")
        case "directory":
            file.mkdir()
        case "loop":
            file.symlink_to(file)
        case "dangling":
            file.symlink_to(tmp_path / "absent")
    with pytest.raises(DataError, match="z.png is not a readable image"):
        load_folder(tmp_path)
    assert kind != "fifo" or stat.S_ISFIFO(file.stat().st_mode)


def test_links_to_images_elsewhere_are_followed(tmp_path):
    file = folder_with(tmp_path / "set", "z.png")
    Image.fromarray(RGB[::-1].copy()).save(tmp_path / "elsewhere.png")
    file.symlink_to(tmp_path / "elsewhere.png")
    assert load_folder(tmp_path / "set").train_counts.tolist() == [2, 1]


def test_notes_are_kept_by_the_cache(tmp_path):
    folder_with(tmp_path, "z.png", encoded(Image.fromarray(np.dstack([RGB, ALPHA]))))
    first = load_folder(tmp_path)
    assert any("1 image transparent" in note for note in first.notes)
    assert load_folder(tmp_path).notes == first.notes


def test_a_class_whose_name_is_not_utf8_is_refused(tmp_path):
    folder_with(tmp_path, "z.png", encoded(Image.fromarray(RGB)))
    (tmp_path / b"c\xff".decode("utf-8", "surrogateescape")).mkdir()
    with pytest.raises(DataError, match=r"not UTF-8: c\\udcff"):
        load_folder(tmp_path)


def test_long_names_are_read(tmp_path):
    root = tmp_path / ("d" * 255)
    folder_with(root, "z.png", encoded(Image.fromarray(RGB)))
    (root / "a").rename(root / ("é" * 127))
    data = load_folder(root)
    assert data.notes[0].startswith("dddd") and "é" * 127 in data.class_names
    assert isinstance(load_folder(root).train_images, np.memmap)
