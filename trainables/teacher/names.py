"""What a teacher may be called. Loads without torch.

    demo                                   the teacher that travels with the package
    open_clip:ARCHITECTURE:TAG             weights from the hub, by open_clip's tag
    open_clip:ARCHITECTURE:PATH            a local checkpoint
    open_clip:ARCHITECTURE:random:SEED     random weights, for tests and the smoke sweep
    remote:URL                             a vendor's teacher over HTTP

ARCHITECTURE is one of open_clip's names, `vl2v-tiny`, or the path of an architecture file (.json).
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from search_spaces.errors import UserError, unknown_name

ARCHITECTURES = Path(__file__).parent / "architectures"
"""Architecture files of our own, in open_clip's format."""
KINDS = ("demo", "open_clip:ARCHITECTURE:TAG_OR_PATH", "remote:URL")
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".ckpt", ".npz")

SHARD_ROWS = 1024
"""Rows of a whole shard of the embedding store; what a killed filler was answered of one is kept beside it."""
BATCH_MULTIPLE = 16
"""A local teacher is asked in multiples of this many images: on the CPU the bits of an answer then do not depend on the
batch it was asked in (measured on ViT, ResNet and the demo tower, one and two threads; odd batches differ in the last
bit). The last batch of a filling is filled up with its last image, at most 15 queries more, which the meter counts."""


def batch_multiple(teacher: str) -> int:
    """What the number of images in a query is a multiple of, while a store is filled: a remote teacher's batches are
    its server's matter."""
    return 1 if teacher.startswith("remote:") else BATCH_MULTIPLE


def requests_at_once(teacher: str, wanted: int) -> int:
    """Batches that are asked at once while a store is filled: a local teacher computes one after the other."""
    return wanted if teacher.startswith("remote:") else 1


def another_teacher(teacher: str, *, found: str, planned: str) -> UserError:
    """Says that a teacher is not the one that the work was planned with; both are fingerprints."""
    return UserError(
        f"{teacher} has changed since the work was planned: its fingerprint is {found[:12]}, planned was "
        f"{planned[:12]}; bring the planned one back, or run the command again, which asks the new one for everything"
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenClipName:
    """`open_clip:ARCHITECTURE:WEIGHTS`, taken apart."""

    architecture: str
    weights: str
    """A tag, a path, or `random:SEED`."""

    @property
    def random_seed(self) -> int | None:
        """The seed of random weights, or None for trained ones."""
        head, separator, seed = self.weights.partition(":")
        if head != "random" or not separator:
            return None
        if not seed.isdecimal():
            raise UserError(f"random teacher weights are named random:SEED with a whole number, got {self.weights!r}")
        return int(seed)

    @property
    def weights_file(self) -> Path | None:
        """The local checkpoint, or None for a tag.

        Raises:
            UserError: it reads like a path, but there is no such file.
        """
        if self.random_seed is not None:
            return None
        path = Path(self.weights).expanduser()
        if path.is_file():
            return path
        if path.suffix in WEIGHT_SUFFIXES or "/" in self.weights:
            raise UserError(f"no teacher checkpoint {self.weights}; open_clip:{self.architecture}:PATH wants a file")
        return None

    @property
    def architecture_file(self) -> Path | None:
        """The architecture's own file, or None for one of open_clip's names."""
        path = Path(self.architecture).expanduser()
        if path.suffix == ".json":
            if not path.is_file():
                raise UserError(f"no architecture file {self.architecture}")
            return path
        packaged = ARCHITECTURES / f"{self.architecture}.json"
        return packaged if packaged.is_file() else None


def parse_open_clip(name: str) -> OpenClipName:
    """Take `open_clip:ARCHITECTURE:WEIGHTS` apart; only the first two colons separate."""
    kind, _, rest = name.partition(":")
    architecture, _, weights = rest.partition(":")
    if kind != "open_clip" or not architecture or not weights:
        raise UserError(f"an open_clip teacher is open_clip:ARCHITECTURE:TAG_OR_PATH, got {name!r}")
    return OpenClipName(architecture=architecture, weights=weights)


def check_teacher(name: str) -> None:
    """Raises `UserError` for a teacher that cannot exist, as far as its name and the files of this machine tell."""
    kind = teacher_kind(name)
    if kind == "remote":
        _check_url(name.partition(":")[2])
    if kind != "open_clip":
        return
    wanted = parse_open_clip(name)
    known = open_clip_architectures()
    if wanted.architecture_file is None and known and wanted.architecture not in known:
        raise unknown_name("open_clip architecture", wanted.architecture, known, hint="or the path of a .json file")
    # Raises where it reads like a path and there is no file.
    _ = wanted.weights_file


def open_clip_architectures() -> list[str]:
    """Names of the architectures that the installed open_clip describes, without loading it; ours come beside them."""
    spec = importlib.util.find_spec("open_clip")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return sorted(path.stem for folder in folders for path in Path(folder, "model_configs").glob("*.json"))


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_address = False
    if not is_address:
        raise UserError(f"a remote teacher is remote:http://HOST:PORT or remote:https://HOST, got 'remote:{url}'")


def teacher_kind(name: str) -> str:
    """`demo`, `open_clip` or `remote`.

    Raises:
        UserError: it is none of them.
    """
    kind = name.partition(":")[0]
    if name == "demo" or kind in ("open_clip", "remote"):
        return kind
    raise unknown_name("teacher", name, KINDS)
