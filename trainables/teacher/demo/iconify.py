"""The demo teacher's training pictures: captioned icons of npm `@iconify/json` 2.2.535, none of them an emoji.

    npm pack @iconify/json@2.2.535 && tar xzf iconify-json-2.2.535.tgz      # gives package/
    python -m trainables.teacher.demo.iconify package prepared/             # half a minute on two cores

Besides torch it needs resvg-py, pillow and scipy, and writes 0.9 GB.

What is left out, so that the demo benchmark `icons` stays unseen: every set of category "Emoji", every set and every
icon with "emoji" or "emoticon" in its name, and pixel re-drawings of emoji (`dinkie-icons`).  Brand logos, programming
logos and country flags are left out because their names say nothing about what they show.
"""

import argparse
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PICTURE_SIZE = 64
"""Height and width of a picture in pixels."""

PERMITTED_LICENCES = frozenset(
    {"MIT", "Apache-2.0", "ISC", "CC-BY-4.0", "CC-BY-3.0", "CC0-1.0", "OFL-1.1", "BSD-3-Clause", "Unlicense"}
)
"""SPDX names of the licences whose pictures may be trained on and whose weights may be passed on."""

EXCLUDED_CATEGORIES = frozenset({"Emoji", "Logos", "Programming"})
EXCLUDED_SETS = _words("""
    dinkie-icons circle-flags flag flagpack cif line-md svg-spinners token material-symbols-light whh picon
    glyphs-poly bx bxs fa fa-solid fa-regular icon-park-outline icon-park-twotone heroicons-outline
    heroicons-solid
""")
"""Pixel emoji, flags, animations, coins, and older or lighter copies of a set that is taken."""
EMOJI_NAME = re.compile(r"emoji|emoticon")
STYLE_WORDS = _words("""
    outline outlined fill filled bold thin light duotone twotone two tone line linear broken solid sharp round
    rounded regular baseline alt variant o sm lg xs md xl color colored stroke ltr rtl small large medium mini
    flat s f remix duo 16px 20px 24px 32px bw sharped minimalistic simple
""")
"""Words at either end of an icon's name that tell how it is drawn, not what it shows."""

INTERFACE_WORDS = _words("""
    arrow arrows chevron chevrons caret circle square off plus minus add remove check checkmark x cancel slash
    align text format border file folder document user account left right up down top bottom vertical
    horizontal layout panel column list sort filter edit settings search lock letter number alpha code data
    database chart graph logo brand currency git one two three four 2 to in out on multiple double disabled
    dots dot all agent ai no new more split merge view cursor message chat mail comment device network wifi
    signal volume video zoom window screen app badge question alert
""")
"""Words of the controls of a user interface: a caption of several words with one of them shows no thing of its own."""

MAX_CAPTION_WORDS = 3
MAX_DRAWINGS_OF_CAPTION = 40
"""Drawings of one caption taken over all sets (`home` alone has 190)."""

MAX_DRAWINGS_PER_SET = 2
"""Drawings of one caption taken from one set; further ones differ only in stroke or size."""

MAX_REGIONS = 15
"""Enclosed areas of one icon that the augmentation may paint in a colour of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Icon:
    """One drawing to be rendered."""

    icon_set: str
    caption: str
    category: str
    """The set's own category of the icon, such as "Animals", or an empty string."""
    svg: str
    coloured: bool


def permitted_sets(package: Path) -> dict[str, dict[str, Any]]:
    """Name and description of every icon set that may be used, in byte order."""
    collections = json.loads((package / "collections.json").read_text("utf-8"))
    return {
        name: collections[name]
        for name in sorted(collections)
        if collections[name]["license"].get("spdx") in PERMITTED_LICENCES
        and collections[name].get("category") not in EXCLUDED_CATEGORIES
        and name not in EXCLUDED_SETS
        and not EMOJI_NAME.search(name)
    }


def clean_caption(name: str) -> str:
    """`shopping-cart-24-filled` -> `shopping cart`: the words of an icon's name without drawing style and size."""
    words = [word for word in re.split(r"[-_]+", name) if word]
    while len(words) > 1 and (words[-1] in STYLE_WORDS or words[-1].isdigit()):
        words.pop()
    while len(words) > 1 and words[0] in STYLE_WORDS:
        words.pop(0)
    return " ".join(words)


def shows_a_thing(caption: str) -> bool:
    """Whether a caption names a thing, as far as its words tell: not a control, not a long description."""
    words = caption.split()
    if not re.search(r"[a-z]{2}", caption) or len(words) > MAX_CAPTION_WORDS:
        return False
    return len(words) == 1 or not INTERFACE_WORDS.intersection(words)


def read_icons(package: Path) -> Iterator[Icon]:
    """Yield the chosen drawings of all permitted sets; the choice among variants is by a hash of the name."""
    taken_of_all: Counter[str] = Counter()
    sets = permitted_sets(package)
    for set_name in sorted(sets, key=lambda name: hashlib.sha256(name.encode()).digest()):
        icon_set = json.loads((package / "json" / f"{set_name}.json").read_text("utf-8"))
        category_of = {icon: title for title, icons in icon_set.get("categories", {}).items() for icon in icons}
        taken: Counter[str] = Counter()
        for name in sorted(icon_set["icons"], key=lambda name: hashlib.sha256(f"{set_name}:{name}".encode()).digest()):
            icon, caption = icon_set["icons"][name], clean_caption(name)
            drawn_as_emoji = EMOJI_NAME.search(f"{name} {category_of.get(name, '').lower()}")
            if icon.get("hidden") or drawn_as_emoji or not shows_a_thing(caption):
                continue
            if taken[caption] >= MAX_DRAWINGS_PER_SET or taken_of_all[caption] >= MAX_DRAWINGS_OF_CAPTION:
                continue
            taken[caption] += 1
            taken_of_all[caption] += 1
            yield Icon(
                icon_set=set_name,
                caption=caption,
                category=category_of.get(name, ""),
                svg=_svg(icon_set, icon),
                coloured=bool(sets[set_name].get("palette")),
            )


def _svg(icon_set: dict[str, Any], icon: dict[str, Any]) -> str:
    box = {key: icon.get(key, icon_set.get(key, default)) for key, default in _BOX_DEFAULTS.items()}
    view = f'viewBox="{box["left"]} {box["top"]} {box["width"]} {box["height"]}"'
    body = icon["body"].replace("currentColor", "#000")
    return f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {view}>{body}</svg>'


_BOX_DEFAULTS = {"left": 0, "top": 0, "width": 16, "height": 16}


def render(svg: str) -> NDArray[np.uint8] | None:
    """Rasterise, crop to the drawing, pad to a square: RGBA [64, 64, 4], or None if nothing is drawn."""
    import resvg_py
    from PIL import Image

    try:
        png = resvg_py.svg_to_bytes(svg_string=svg, width=96, skip_system_fonts=True)
    except ValueError:
        return None
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    box = picture.getchannel("A").getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < 4:
        return None
    picture = picture.crop(box)
    side = max(picture.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.resize((PICTURE_SIZE, PICTURE_SIZE), Image.Resampling.LANCZOS))


def enclosed_regions(alpha: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Number the areas that a drawing encloses: 0 outside or ink, 1..15 the areas, largest numbers merged; [64, 64]."""
    from scipy import ndimage

    empty = np.pad(alpha < 128, 1, constant_values=True)
    labels, _ = ndimage.label(empty)
    labels = np.where(labels == labels[0, 0], 0, labels)[1:-1, 1:-1]
    _, dense = np.unique(labels, return_inverse=True)
    return np.minimum(dense.reshape(labels.shape), MAX_REGIONS).astype(np.uint8)


def _render_all(icons: list[Icon]) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]] | None]:
    drawn = (render(icon.svg) for icon in icons)
    return [None if rgba is None else (rgba, enclosed_regions(rgba[..., 3])) for rgba in drawn]


def prepare(package: Path, folder: Path, *, num_processes: int = 2) -> None:
    """Render the icons; write `ink`, `regions` [N, 64, 64], `coloured` [M, 64, 64, 4] as .npy, and `icons.json`."""
    icons = list(read_icons(package))
    chunks = [icons[start : start + 500] for start in range(0, len(icons), 500)]
    rows: list[dict[str, Any]] = []
    ink: list[NDArray[np.uint8]] = []
    regions: list[NDArray[np.uint8]] = []
    coloured: list[NDArray[np.uint8]] = []
    with ProcessPoolExecutor(num_processes) as pool:
        for chunk, drawn in zip(chunks, pool.map(_render_all, chunks), strict=True):
            for icon, result in zip(chunk, drawn, strict=True):
                if result is None:
                    continue
                rgba, region = result
                rows.append({"set": icon.icon_set, "caption": icon.caption, "category": icon.category})
                rows[-1]["colour_row"] = len(coloured) if icon.coloured else -1
                ink.append(rgba[..., 3])
                regions.append(region)
                if icon.coloured:
                    coloured.append(rgba)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "ink.npy", np.stack(ink))
    np.save(folder / "regions.npy", np.stack(regions))
    np.save(folder / "coloured.npy", np.stack(coloured))
    (folder / "icons.json").write_text(json.dumps(rows), "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", type=Path, help="the unpacked npm package")
    parser.add_argument("folder", type=Path, help="where the rendered pictures go")
    arguments = parser.parse_args()
    prepare(arguments.package, arguments.folder)
