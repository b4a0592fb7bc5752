"""Which drawings make up each class of the demo benchmark `icons`: pure data and the two rules that read it."""

import re
from typing import Final


def _labels(text: str) -> frozenset[str]:
    return frozenset(text.split(", "))


EMOJI_SUBGROUPS: Final[dict[str, tuple[str, ...]]] = {
    "bird": ("animal-bird",),
    "book": ("book-paper",),
    "bug": ("animal-bug",),
    "building": ("place-building", "place-religious"),
    "clock": ("time",),
    "clothing": ("clothing",),
    "drink": ("drink",),
    "face": (
        "face-smiling",
        "face-affection",
        "face-tongue",
        "face-hand",
        "face-neutral-skeptical",
        "face-sleepy",
        "face-unwell",
        "face-hat",
        "face-glasses",
        "face-concerned",
        "face-negative",
    ),
    "fruit_or_vegetable": ("food-fruit", "food-vegetable"),
    "mammal": ("animal-mammal",),
    "musical_instrument": ("musical-instrument",),
    "plant": ("plant-flower", "plant-other"),
    "vehicle": ("transport-ground", "transport-water", "transport-air"),
}
"""Unicode subgroups of each class."""

EXCLUDED_LABELS: Final[dict[str, frozenset[str]]] = {
    "bird": _labels("feather, front-facing baby chick, hatching chick, phoenix, wing"),
    "book": _labels(
        "newspaper, rolled-up newspaper, bookmark tabs, bookmark, label, scroll, page with curl, "
        "page facing up, receipt"
    ),
    "bug": _labels("spider web, microbe"),
    "building": _labels("house with garden"),
    "clock": _labels("hourglass done, hourglass not done"),
    "clothing": _labels("gem stone, lipstick, ring, prayer beads, folding hand fan, hair pick, glasses, sunglasses"),
    "mammal": _labels("paw prints"),
    "plant": _labels("nest with eggs, empty nest, mushroom"),
    "vehicle": _labels(
        "bus stop, motorway, railway track, oil drum, fuel pump, wheel, police car light, horizontal traffic light, "
        "vertical traffic light, stop sign, construction, anchor, seat, airplane departure, airplane arrival, "
        "ring buoy, skateboard, roller skate"
    ),
}
"""Emoji labels of those subgroups that do not show their class."""

CLIPART_FOLDERS: Final[dict[str, tuple[str, ...]]] = {
    "bird": ("animals/birds",),
    "book": ("education/books",),
    "bug": ("animals/bugs",),
    "building": ("buildings/homes", "buildings/*"),
    "clock": ("signs_and_symbols/clocks",),
    "clothing": ("people/clothing",),
    "drink": ("food/beverages",),
    "face": ("people/smilies",),
    "fruit_or_vegetable": ("food/fruit", "food/vegetables"),
    "mammal": ("animals/mammals",),
    "musical_instrument": ("recreation/music",),
    "plant": ("plants",),
    "vehicle": ("transportation/vehicles", "transportation/boating"),
}
"""Folders of the clip art collection, with their subfolders; a trailing `/*` takes only the files directly inside."""

EXCLUDED_CLIPART: Final[dict[str, str]] = {
    "bird": r"contour_bat|manager_|turkey_on_platter|wing_",
    "book": r"newspaper|squirrel",
    "bug": r"virus",
    "building": r"brick|capitello|wall|old_sign|lighthouse",
    "clock": r"sand_?glass|minute_hand",
    "clothing": r"earring|gold_chain|wedding_rings|sunglasses|shoe_print|straw_tote|magic_hat|jacob_leisler",
    "drink": r"flower-pot|ice_?cube|corks|wooden_barrel|_mateya",
    "face": r"crossbones|portrait|3_faces",
    "fruit_or_vegetable": r"champignon|grenade|turkey|straw_tote|gumnut|juice|tree_|pie_|slate-apple|_mateya",
    "mammal": r"emule_icon|mechorse|cat_scrathing_post",
    "musical_instrument": (
        r"record|cd_player|singing|bach_|clef|beethov|handel|boombox|croche|double_note|jukebox|note|gramophone|"
        r"headphones|microphone|piano_theory|quaver|staff|vinyl|jazz"
    ),
    "plant": r"acorn|pepper|champignon|mushroom|toadstool|potato|human_|bowsaw|pruner|balls|gumnut|fall_scene|cannabis",
    "vehicle": (
        r"boating_rules|knot_|labels|sailing_(capsize|close|heel|jibe|points|reaching|running|tack)|wing_|"
        r"crossroads|curve_ahead|cycle_(lane|route)|lighthouse|parking|quay_sign|blueprint|bluepr|road_runner"
    ),
}
"""Files of those folders, by a pattern in their path, that do not show their class (looked at one by one)."""


def emoji_class(subgroup: str, label: str) -> str | None:
    """The class of an emoji with this Unicode subgroup and English label, or None."""
    for class_name, subgroups in EMOJI_SUBGROUPS.items():
        if subgroup in subgroups:
            return None if label in EXCLUDED_LABELS.get(class_name, frozenset()) else class_name
    return None


def clipart_class(file: str) -> str | None:
    """The class of a clip art file, such as `animals/birds/crow_01.svg`, or None."""
    for class_name, folders in CLIPART_FOLDERS.items():
        for folder in folders:
            inside = file.startswith(folder.removesuffix("*").removesuffix("/") + "/")
            direct = not folder.endswith("/*") or file.count("/") == folder.count("/")
            if inside and direct:
                return None if re.search(EXCLUDED_CLIPART[class_name], file, re.IGNORECASE) else class_name
    return None
