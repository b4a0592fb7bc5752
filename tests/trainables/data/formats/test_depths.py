"""Images of every mode, depth and ending: scaled to 8 bits by what their format says is white, or named."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from search_spaces.errors import UserError
from tests.fuzz import images
from tests.support.folders import tiny_benchmark, write_tiny
from trainables.data.formats.images import decode, problem_of
from trainables.data.formats.manifest import scan
from trainables.data.formats.open import check_readable, open_benchmark
from trainables.data.formats.pack import PackSettings, write_pack
from trainables.data.formats.verify import verify_benchmark

GREYS = np.array([[0, 20_000, 40_000, 65_535]], np.uint16)
EIGHT = [0, 78, 156, 255]
"""By hand: 20,000 / 257 = 77.8, 40,000 / 257 = 155.6."""


def saved(values: npt.NDArray[np.generic], image_format: str) -> bytes:
    """A grey image file of these values."""
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, image_format)
    return stream.getvalue()


def tiff(data: bytes, width: int, *, bits: int, white_is_zero: bool = False, order: str = "<", kind: int = 1) -> bytes:
    """A grey TIFF of one row; `kind` is 1 for unsigned, 2 for signed integers, 3 for floating-point numbers."""
    tags = [(256, width), (257, 1), (258, bits), (259, 1), (262, int(not white_is_zero)), (273, 8), (277, 1), (278, 1)]
    tags += [(279, len(data)), (339, kind)]
    data += b"\0" * (len(data) % 2)
    start = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    entries = b"".join(struct.pack(f"{order}HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return start + data + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def pgm(values: npt.NDArray[np.uint16], white: int) -> bytes:
    """A binary PGM whose white is `white`."""
    return f"P5 {values.shape[1]} {values.shape[0]} {white}\n".encode() + values.astype(">u2").tobytes()


def read(data: bytes) -> list[int]:
    """The first row of an image that has to be grey."""
    pixels = np.asarray(decode(data, "x"))
    assert problem_of(data) == ""
    assert (pixels == pixels[:, :, :1]).all()
    row: list[int] = pixels[0, :, 0].tolist()
    return row


SIXTEEN = {
    "png": saved(GREYS, "PNG"),
    "tiff": saved(GREYS, "TIFF"),
    "tiff, big-endian": tiff(GREYS.astype(">u2").tobytes(), 4, bits=16, order=">"),
    "tiff, white is zero": tiff((65_535 - GREYS).astype("<u2").tobytes(), 4, bits=16, white_is_zero=True),
    "pgm": saved(GREYS, "PPM"),
    "jpeg 2000": saved(GREYS, "JPEG2000"),
    "tiff of 12 bits": tiff(bytes([0x00, 0x04, 0xE2, 0x9C, 0x4F, 0xFF]), 4, bits=12),
    "pgm of 12 bits": pgm(np.array([[0, 1250, 2500, 4095]], np.uint16), 4095),
}
"""12 bits: 1,250 / 4,095 x 255 = 77.8 and 2,500 / 4,095 x 255 = 155.7."""


@pytest.mark.parametrize("name", SIXTEEN)
def test_greys_of_more_than_8_bits_are_scaled(name: str) -> None:
    assert read(SIXTEEN[name]) == EIGHT


def test_every_value_of_16_bits_is_rounded_to_the_nearest() -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257).astype(np.uint8)
    for data in (saved(values, "PNG"), saved(values, "PPM"), saved(values, "TIFF")):
        assert np.array_equal(np.asarray(decode(data, "x"))[:, :, 1], expected)


def test_eight_bits_of_a_tiff_whose_white_is_zero_stay_pillows() -> None:
    assert read(tiff(bytes([0, 100, 200, 255]), 4, bits=8, white_is_zero=True)) == [255, 155, 55, 0]


NAMELESS_WHITE = {
    "32-bit integers": tiff(GREYS.astype("<u4").tobytes(), 4, bits=32),
    "signed 32-bit integers": saved(GREYS.astype(np.int32), "TIFF"),
    "signed 16-bit integers": tiff(GREYS.astype("<u2").tobytes(), 4, bits=16, kind=2),
    "floating point": saved((GREYS / 65_535).astype(np.float32), "TIFF"),
    "floating point, portable": saved((GREYS / 65_535).astype(np.float32), "PPM"),
}


@pytest.mark.parametrize("name", NAMELESS_WHITE)
def test_a_file_that_does_not_say_what_is_white_is_named(name: str) -> None:
    kind = "floating-point numbers" if "floating" in name else "32-bit or signed integers"
    problem = f"its pixels are {kind}, which do not say what is white; save it with 8 or 16 bits per pixel"
    assert problem_of(NAMELESS_WHITE[name]) == problem
    with pytest.raises(UserError, match=f"cannot read image a/b.tif: {problem}"):
        decode(NAMELESS_WHITE[name], "a/b.tif")


def test_verify_and_the_start_of_a_sweep_name_it(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "art" / "dog" / "0.png").write_bytes(NAMELESS_WHITE["floating point"])
    (folder / "art" / "dog" / "1.png").write_bytes(SIXTEEN["png"])
    (error,) = verify_benchmark(folder, tiny_benchmark()).errors
    assert error.startswith("1 image cannot be read: art/dog/0.png (its pixels are floating-point numbers")
    with pytest.raises(UserError, match=r"1 image cannot be read: art/dog/0.png: its pixels are floating-point"):
        check_readable(open_benchmark(tiny_benchmark(), tmp_path))


def test_an_earlier_scan_that_called_it_whole_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import trainables.data.formats.manifest as manifest

    (tmp_path / "x.tif").write_bytes(NAMELESS_WHITE["floating point"])
    monkeypatch.setattr(manifest, "READER", 1)
    monkeypatch.setattr(manifest, "problem_of", lambda data: "")
    assert scan(tmp_path, ["x.tif"], cache=tmp_path / "cache")[0].problem == ""
    monkeypatch.undo()
    assert scan(tmp_path, ["x.tif"], cache=tmp_path / "cache")[0].problem.startswith("its pixels are floating-point")


@pytest.mark.parametrize("encoding", ["stored", "pixels"])
def test_a_pack_has_the_folders_pixels(encoding: str, tmp_path: Path) -> None:
    folder = write_tiny(tmp_path)
    (folder / "art" / "dog" / "1.png").write_bytes(SIXTEEN["png"])
    source = open_benchmark(tiny_benchmark(), tmp_path)
    index = list(source.paths("art")).index("art/dog/1.png")
    assert np.asarray(source.read("art", index))[0, :, 0].tolist() == EIGHT
    write_pack(source, tmp_path / "out" / "tiny.pack", settings=PackSettings(encoding=encoding))  # type: ignore[arg-type]
    packed = open_benchmark(tiny_benchmark(), tmp_path / "out")
    assert packed.read("art", index).tobytes() == source.read("art", index).tobytes()


def test_random_images_are_read_as_they_look_or_named() -> None:
    """Of any mode, depth and format; `make fuzz` tries more."""
    assert images.tried(120, seed=0).problems == []
