"""Links that lead back are not followed and are named; files of other endings are left out and counted."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from search_spaces.errors import UserError
from tests.support.folders import DOMAINS, encoded, tiny_benchmark, write_tiny
from trainables.data.formats.folder import list_class
from trainables.data.formats.open import benchmark_from_folder, open_benchmark
from trainables.data.formats.verify import verify_benchmark


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny(tmp_path, images_per_class=3)


def counts(folder: Path) -> dict[str, int]:
    """Images per domain, as training has them."""
    source = open_benchmark(tiny_benchmark(), folder.parent)
    return {domain: len(source.paths(domain)) for domain in DOMAINS}


WHOLE = dict.fromkeys(DOMAINS, 6)


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "../dog", "/", "absolute"])
def test_a_link_back_is_not_followed_and_named(target: str, folder: Path) -> None:
    target = str(folder / "art") if target == "absolute" else target
    (folder / "art" / "dog" / "again").symlink_to(target, target_is_directory=True)
    assert list_class(folder, "art/dog").images == ("art/dog/0.png", "art/dog/1.png", "art/dog/2.png")
    assert counts(folder) == WHOLE
    found = verify_benchmark(folder, tiny_benchmark())
    assert (found.errors, found.num_images, found.accepted) == ((), 18, True)
    assert "1 link not followed, back to a folder that it stands in: art/dog/again" in found.notes


def test_links_that_meet_in_a_circle_end(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "deep" / "x.png").write_bytes(encoded(3))
    (outside / "deep" / "home").symlink_to(folder / "art" / "dog")
    (outside / "deep" / "up").symlink_to(outside)
    (folder / "art" / "dog" / "out").symlink_to(outside)
    assert counts(folder) == WHOLE | {"art": 7}
    notes = verify_benchmark(folder, tiny_benchmark()).notes
    assert (
        "2 links not followed, back to a folder that it stands in: art/dog/out/deep/home, art/dog/out/deep/up" in notes
    )


def test_a_domain_that_is_a_link_does_not_lead_back_either(folder: Path, tmp_path: Path) -> None:
    (folder / "art").rename(tmp_path / "elsewhere")
    (folder / "art").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "dog" / "root").symlink_to(folder)
    assert counts(folder) == WHOLE
    assert verify_benchmark(folder, tiny_benchmark()).notes[-1].endswith("art/dog/root")


def test_a_link_back_is_no_domain_and_no_class(folder: Path) -> None:
    (folder / "loop").symlink_to(".")
    for domain in DOMAINS:
        (folder / domain / "up").symlink_to("..")
    assert counts(folder) == WHOLE
    assert benchmark_from_folder("tiny", folder.parent).domain_names == DOMAINS
    found = verify_benchmark(folder, tiny_benchmark())
    assert found.errors == ()
    assert found.notes[-1] == (
        "4 links not followed, back to a folder that it stands in: loop, art/up, photo/up, sketch/up"
    )


def test_a_link_to_itself_is_an_image_that_cannot_be_read(folder: Path) -> None:
    (folder / "art" / "dog" / "9.png").symlink_to("9.png")
    assert verify_benchmark(folder, tiny_benchmark()).errors == (
        "1 image cannot be read: art/dog/9.png (Too many levels of symbolic links)",
    )


def test_other_endings_are_counted(folder: Path) -> None:
    place = folder / "art" / "dog"
    for name in ("x.gif", "Y.GIF", "z.jfif", "README", "t.txt", "a.jpg.1", ".hidden", "._0.png"):
        (place / name).write_bytes(encoded(1))
    (place / "deep").mkdir()
    (place / "deep" / "w.heic").write_bytes(b"x")
    assert counts(folder) == WHOLE
    found = verify_benchmark(folder, tiny_benchmark())
    assert (found.errors, found.num_images) == ((), 18)
    assert found.notes[-1] == (
        "7 files left out because of the ending (2 .gif, 1 no ending, 1 .1, 1 .txt, 1 .jfif, 1 .heic): "
        "art/dog/README, art/dog/Y.GIF, art/dog/a.jpg.1 and 4 more; "
        "an image ends in .jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp"
    )


def test_a_class_of_other_endings_alone_says_so(folder: Path) -> None:
    for file in (folder / "photo" / "dog").iterdir():
        file.rename(file.with_suffix(".gif"))
    message = (
        r"photo has no image in the class folder dog; left out because of the ending: photo/dog/0.gif, photo/dog/1"
    )
    with pytest.raises(UserError, match=message):
        open_benchmark(tiny_benchmark(), folder.parent)
    found = verify_benchmark(folder, tiny_benchmark())
    assert found.errors == ("photo/dog has no image",)
    assert found.notes[-1].startswith("3 files left out because of the ending (3 .gif): photo/dog/0.gif, ")


@pytest.mark.parametrize("seed", range(40))
def test_any_tree_ends_and_without_links_back_is_image_folders(seed: int, tmp_path: Path) -> None:
    """Folders, endings and links that a seed draws: each image once for each way to it that does not go back."""
    generator = random.Random(seed)
    folder = write_tiny(tmp_path, images_per_class=1)
    places = [folder / domain / name for domain in DOMAINS for name in ("cat", "dog")]
    aside = tmp_path / "aside"
    aside.mkdir()
    for number in range(generator.randint(3, 12)):
        place = generator.choice([*places, aside])
        kind = generator.choice(["folder", "file", "file", "link"])
        if kind == "folder":
            inside = place / generator.choice([f"n{number}", f"b {number}", f".h{number}", f"é{number}"])
            inside.mkdir()
            places.append(inside)
        elif kind == "file":
            ending = generator.choice([".png", ".JPG", ".gif", ".jfif", "", ".webp", ".tif.bak"])
            (place / f"f{number}{ending}").write_bytes(encoded(number))
        else:
            (place / f"l{number}").symlink_to(generator.choice([*places, aside, folder, place.parent]))
    source = open_benchmark(tiny_benchmark(), tmp_path)
    listed = [path for domain in DOMAINS for path in source.paths(domain)]
    assert len(set(listed)) == len(listed) < 5000
    named = [
        link
        for domain in DOMAINS
        for name in ("cat", "dog")
        for link in list_class(folder, f"{domain}/{name}").links_back
    ]
    assert all(os.path.islink(folder / link) for link in named)
    if named:
        return
    for domain in DOMAINS:
        hidden = f"{os.sep}."
        found = [path for path, _ in ImageFolder(str(folder / domain)).samples]
        assert [str(folder / path) for path in source.paths(domain)] == [path for path in found if hidden not in path]
