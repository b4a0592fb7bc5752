"""A file's pixels are those of Pillow's convert("RGB") on the file as stored; the decode cache changes nothing."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from search_spaces.benchmarks import BENCHMARKS
from search_spaces.errors import UserError
from tests.support.folders import encoded
from trainables.data.formats.images import CachedSource, cached, decode, problem_of
from trainables.data.formats.open import open_benchmark


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def _gradient(mode: str) -> Image.Image:
    return Image.linear_gradient("L").resize((40, 30)).convert(mode)


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(_gradient("RGB"), "JPEG", exif=exif)


FILES = {
    "cmyk": _saved(_gradient("CMYK"), "JPEG"),
    "palette": _saved(_gradient("RGB").quantize(16), "PNG"),
    "greyscale": _saved(_gradient("L"), "JPEG"),
    "one bit": _saved(_gradient("1"), "PNG"),
    "alpha": _saved(_gradient("RGBA"), "PNG"),
    "rotated by EXIF": _rotated(),
    "webp": _saved(_gradient("RGB"), "WEBP"),
    "tiff": _saved(_gradient("RGB"), "TIFF"),
    "gif named png": _saved(_gradient("P"), "GIF"),
}


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_pillows_on_the_file_as_stored(name: str) -> None:
    with Image.open(io.BytesIO(FILES[name])) as image:
        expected = np.asarray(image.convert("RGB"))
    found = decode(FILES[name], name)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), expected)
    assert problem_of(FILES[name]) == ""


def _huge_png() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 1000)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>quota exceeded</html>", "not an image file"),
        (encoded(3)[:90], "truncated|broken"),
        (encoded(3, "JPEG", side=64)[:900], "truncated|broken"),
        (_huge_png(), "400000000|20,000 x 20,000"),
    ],
)
def test_a_bad_file_has_one_clear_reason(data: bytes, reason: str) -> None:
    with pytest.raises(UserError, match=rf"cannot read image a/b.jpg: .*({reason})") as caught:
        decode(data, "a/b.jpg")
    assert "\n" not in str(caught.value)
    assert problem_of(data) in str(caught.value)


def _palette_with_transparency() -> bytes:
    return _saved(_gradient("RGB").quantize(16), "PNG", transparency=bytes(range(16)))


@pytest.mark.parametrize("name", ["many pixels", "palette with transparency"])
def test_pillow_prints_no_warnings_of_its_own(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _palette_with_transparency() if name == "palette with transparency" else FILES["alpha"]
    # Pillow warns above this, as it does of 10,000 x 10,000 pixels.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000 if name == "many pixels" else Image.MAX_IMAGE_PIXELS)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with Image.open(io.BytesIO(data)) as image:
            expected = image.convert("RGB").tobytes()
        assert seen, "Pillow does warn of it"
        seen.clear()
        assert problem_of(data) == ""
        assert decode(data, "x").tobytes() == expected
    assert not seen


def test_every_truncation_that_decoding_notices_is_noticed_by_the_quick_look() -> None:
    whole = encoded(11, "JPEG", side=64)
    for length in range(0, len(whole), 97):
        try:
            decode(whole[:length], "x")
            readable = True
        except UserError:
            readable = False
        assert (problem_of(whole[:length]) == "") == readable, length


def test_the_cache_gives_the_same_pixels_and_keeps_to_its_size() -> None:
    source = open_benchmark(BENCHMARKS["icons"])
    image_bytes = 4 * 64 * 64
    keeper = CachedSource(source, 10 * image_bytes / 2**20)
    for index in [*range(25), *range(25), 3, 3]:
        assert keeper.read("line", index).tobytes() == source.read("line", index).tobytes()
        assert keeper.used_bytes <= 10 * image_bytes
    assert keeper.used_bytes == 10 * image_bytes
    assert keeper.read("line", 3) is keeper.read("line", 3)


def test_an_image_above_the_cache_is_read_every_time() -> None:
    keeper = CachedSource(open_benchmark(BENCHMARKS["icons"]), 0.001)
    assert keeper.read("line", 3) is not keeper.read("line", 3)
    assert keeper.used_bytes == 0


def test_one_cache_is_enough() -> None:
    source = open_benchmark(BENCHMARKS["icons"])
    keeper = cached(source, 8)
    assert cached(keeper, 8) is keeper
    assert cached(source, 0) is source
