"""Build `icons.parquet` from five downloaded packages; the result depends on nothing else.

In an empty folder, on a machine that reaches npm and Debian:

    npm pack @lobehub/fluent-emoji-3d@1.1.0 @iconify-json/twemoji@1.2.5 openmoji@17.0.0 emojibase-data@17.0.0
    for f in *.tgz; do mkdir "${f%.tgz}" && tar xzf "$f" -C "${f%.tgz}"; done
    apt-get download openclipart-svg=1:0.18+dfsg-19 && dpkg-deb -x openclipart-svg_*.deb openclipart-svg
    python -m trainables.data.icons.build .       # needs resvg-py 0.5.0 and pillow; about a minute and a half

Each drawing is rasterised, put on white, cropped to what is not white, padded to a square and resized with Lanczos to
64 x 64 pixels.  Pixel-identical copies within a domain are dropped; the first path stays.
"""

import argparse
import hashlib
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops

from trainables.data.icons import ICONS_PARQUET, PARQUET_COLUMNS, PICTURE_SIZE, concept_half
from trainables.data.icons.classes import clipart_class, emoji_class

CLIPART_FOLDER = Path("openclipart-svg/usr/share/openclipart/svg")
RENDER3D_FOLDER = Path("lobehub-fluent-emoji-3d-1.1.0/package/assets")
FLAT_FOLDER = Path("iconify-json-twemoji-1.2.5/package")
LINE_FOLDER = Path("openmoji-17.0.0/package/black/svg")
NAMES_FOLDER = Path("emojibase-data-17.0.0/package")

RENDER_WIDTH = 256
"""Width in pixels at which a vector drawing is rasterised before it is cropped and made small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A package of drawings and the terms of its pictures."""

    package: str
    licence: str


SOURCES = {
    "clipart": Source(package="Debian openclipart-svg 1:0.18+dfsg-19", licence="public domain"),
    "flat": Source(package="npm @iconify-json/twemoji 1.2.5", licence="CC-BY-4.0"),
    "line": Source(package="npm openmoji 17.0.0", licence="CC-BY-SA-4.0"),
    "render3d": Source(package="npm @lobehub/fluent-emoji-3d 1.1.0", licence="MIT"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """One drawing before it is rasterised."""

    domain: str
    class_name: str
    concept: str
    """Emoji hexcode, or the file of a clip art drawing."""
    name: str
    """What the drawing shows, in words."""
    data: bytes
    """An SVG document, or a bitmap file that Pillow reads."""

    @property
    def path(self) -> str:
        """Where the picture would lie in a folder of the DomainBed layout."""
        words = self.concept.removesuffix(".svg") if self.domain == "clipart" else f"{self.concept} {self.name}"
        file = re.sub(r"[^a-z0-9-]+", "_", words.lower()).strip("_")
        return f"{self.domain}/{self.class_name}/{file}.png"


def hexcode(text: str) -> str:
    """One spelling for an emoji's code points: lower case, no variation selector (`2615-FE0F` -> `2615`)."""
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


def emoji_drawings(downloads: Path) -> Iterator[Drawing]:
    """The three emoji domains: only the concepts that all three draw, so each has the same."""
    subgroups = json.loads((downloads / NAMES_FOLDER / "meta/groups.json").read_text("utf-8"))["subgroups"]
    flat = flat_svgs(downloads / FLAT_FOLDER)
    line = {hexcode(file.stem): file for file in (downloads / LINE_FOLDER).glob("*.svg")}
    render3d = {hexcode(file.stem): file for file in (downloads / RENDER3D_FOLDER).glob("*.webp")}
    for emoji in json.loads((downloads / NAMES_FOLDER / "en/data.json").read_text("utf-8")):
        concept, label = hexcode(emoji["hexcode"]), emoji["label"]
        class_name = emoji_class(subgroups.get(str(emoji.get("subgroup")), ""), label)
        if class_name is None or not (concept in flat and concept in line and concept in render3d):
            continue
        files = {"line": line[concept], "render3d": render3d[concept]}
        pictures = {"flat": flat[concept]} | {domain: file.read_bytes() for domain, file in files.items()}
        for domain, data in pictures.items():
            yield Drawing(domain=domain, class_name=class_name, concept=concept, name=label, data=data)


def flat_svgs(package: Path) -> dict[str, bytes]:
    """SVG documents of an Iconify package by emoji hexcode."""
    icon_set = json.loads((package / "icons.json").read_text("utf-8"))
    names = json.loads((package / "chars.json").read_text("utf-8"))
    icons = icon_set["icons"]
    names = {code: icon_set["aliases"][name]["parent"] if name not in icons else name for code, name in names.items()}
    view = f'viewBox="0 0 {icon_set["width"]} {icon_set["height"]}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view}>'
    return {hexcode(code): f"{head}{icons[name]['body']}</svg>".encode() for code, name in names.items()}


def clipart_drawings(downloads: Path) -> Iterator[Drawing]:
    """The domain `clipart`: every drawing is a concept of its own."""
    root = downloads / CLIPART_FOLDER
    for file in sorted(root.rglob("*.svg"), key=lambda file: file.as_posix().encode()):
        relative = file.relative_to(root).as_posix()
        class_name = clipart_class(relative)
        if class_name is not None:
            yield Drawing(
                domain="clipart", class_name=class_name, concept=relative, name=file.stem, data=file.read_bytes()
            )


def rasterise(data: bytes) -> Image.Image | None:
    """An RGB picture [64, 64] on white, or None when nothing is drawn or the file is broken."""
    import resvg_py

    if b"<svg" in data[:4096] or data.lstrip().startswith(b"<?xml"):
        text = data.decode("utf-8", errors="replace")
        try:
            data = bytes(resvg_py.svg_to_bytes(svg_string=text, width=RENDER_WIDTH, dpi=96, skip_system_fonts=True))
        except ValueError:
            return None
    picture = Image.open(io.BytesIO(data)).convert("RGBA")
    on_white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    box = ImageChops.invert(on_white).convert("L").point(lambda value: 255 if value > 8 else 0).getbbox()
    if box is None:
        return None
    content = on_white.crop(box)
    side = max(content.size)
    square = Image.new("RGB", (side, side), "white")
    square.paste(content, ((side - content.width) // 2, (side - content.height) // 2))
    return square.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS)


def rows(downloads: Path) -> list[dict[str, str | bytes]]:
    """All rows of the file, sorted by path in byte order, without pixel-identical copies."""
    drawings = sorted([*clipart_drawings(downloads), *emoji_drawings(downloads)], key=lambda d: d.path.encode())
    seen: set[tuple[str, str]] = set()
    result: list[dict[str, str | bytes]] = []
    for drawing in drawings:
        picture = rasterise(drawing.data)
        if picture is None:
            print(f"not drawn: {drawing.concept}")
            continue
        pixels = (drawing.domain, hashlib.sha256(picture.tobytes()).hexdigest())
        if pixels not in seen:
            seen.add(pixels)
            result.append(row(drawing, picture))
    return result


def row(drawing: Drawing, picture: Image.Image) -> dict[str, str | bytes]:
    """One row of the file: the columns `PARQUET_COLUMNS`."""
    png = io.BytesIO()
    picture.save(png, format="PNG", optimize=True)
    source = SOURCES[drawing.domain]
    return {
        "path": drawing.path,
        "image": png.getvalue(),
        "domain": drawing.domain,
        "class": drawing.class_name,
        "concept": drawing.concept,
        "split_half": concept_half(drawing.concept),
        "name": drawing.name,
        "source": source.package,
        "licence": source.licence,
    }


def build(downloads: Path, destination: Path = ICONS_PARQUET) -> int:
    """Write the Parquet file aside, then rename; returns the number of pictures."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures = rows(downloads)
    schema = pa.schema([(column, pa.binary() if column == "image" else pa.string()) for column in PARQUET_COLUMNS])
    aside = destination.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(pictures, schema=schema), aside, compression="zstd", row_group_size=256)
    aside.replace(destination)
    return len(pictures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("downloads", type=Path, help="the folder with the unpacked packages")
    parser.add_argument("--destination", type=Path, default=ICONS_PARQUET)
    arguments = parser.parse_args()
    print(f"{build(arguments.downloads, arguments.destination)} pictures in {arguments.destination.name}")
