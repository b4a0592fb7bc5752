"""What changes a result (`Hyperparameters`), what must not (`Resources`), and the key that follows from content.

A fold's key is the SHA-256 of everything that changes its result. Workers, paths and GPUs cannot get in, because they
live in `Resources`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from math import inf
from typing import Any, Literal

from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.settings import option

TEACHER_TOKEN_VARIABLE = "VL2V_TEACHER_TOKEN"
"""The environment variable that holds a remote teacher's token, and the only place for it."""

TRAINER_VERSION = "1"
"""Raised whenever the trainer computes other numbers from the same input; part of every key.

`tests/trainables/test_trainer_version.py` pins the numbers of one tiny fold and asks for a new version when they move.
"""

LARGEST_IMAGE_SIZE = 4096
"""Pixels; several times what any published encoder takes."""

MOST_VIEWS = 100_000
"""Stored views of an image: more than the epochs of any schedule."""

SegmentRule = Literal["every_evaluation", "authors", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageHyperparameters:
    """How one stage (align, distill or the single stage of a baseline) is optimised."""

    lr: float = 5e-5
    """Adam's learning rate; constant, no warm-up (the authors' scripts)."""
    weight_decay: float = 0.0
    """Adam's L2 penalty, added to the gradient."""
    num_steps: int | None = None
    """Update steps asked for; None is the benchmark's own number. See `Benchmark.steps`."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < inf:
            raise UserError(f"lr is a number above 0, got {self.lr}")
        if not 0 <= self.weight_decay < inf:
            raise UserError(f"weight_decay is a number, 0 or more, got {self.weight_decay}")
        if self.num_steps is not None and self.num_steps < 1:
            raise UserError(f"num_steps is 1 or more, got {self.num_steps}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Swad:
    """Stochastic weight averaging densely (Cha et al. 2021, LossValley)."""

    segments: SegmentRule = "every_evaluation"
    """When the running average restarts: at every evaluation (standard), as in the authors' scripts outside
    Distill with the ViT-B student (only where step % 1000 == 0 and step > 2500), or `off` for no averaging at all."""
    num_converge: int = 3
    """Evaluations without improvement that make the start of the valley."""
    num_tolerate: int = 6
    """Evaluations looked back over to find the end of the valley."""
    tolerance_ratio: float = 0.3
    """The valley ends where the loss exceeds (1 + ratio) times the mean loss around its start."""

    def __post_init__(self) -> None:
        if self.segments not in ("every_evaluation", "authors", "off"):
            raise UserError(f"swad.segments is every_evaluation, authors or off, got {self.segments!r}")
        if self.num_converge < 1 or self.num_tolerate < 1 or not 0 <= self.tolerance_ratio < inf:
            raise UserError("swad needs num_converge >= 1, num_tolerate >= 1 and tolerance_ratio >= 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Faster arithmetic outside exact mode. Each option moves losses in the last digits, so it is in the key, and what
    was made with one is never called a reproduction. Evaluation and stored features stay exact."""

    compile: bool = False
    """Compile the student's forward and backward pass while it trains (torch.compile); needs a working compiler."""
    channels_last: bool = False
    """Lay images and convolutions out with the channels innermost; for students that convolve."""
    fused_adam: bool = False
    """Adam in one pass over the weights."""

    def __str__(self) -> str:
        return ", ".join(field.name for field in fields(self) if getattr(self, field.name)) or "exact"


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """Everything about a fold that changes its result, apart from the fold, the method and the data."""

    image_weight: float = 0.5
    """Weight of the image term of the loss, in [0, 1]; the text term gets the rest."""
    batch_size_per_domain: int = 32
    """Images per source domain and step, over all workers together."""
    align: StageHyperparameters = field(default_factory=StageHyperparameters)
    """The stage that trains the projection."""
    distill: StageHyperparameters = field(default_factory=StageHyperparameters)
    """The stage that trains the backbone; also the single stage of self-distillation and of the baselines."""
    swad: Swad = field(default_factory=Swad)
    """Weight averaging in the last stage."""
    evaluate_every: int | None = None
    """Steps between evaluations; None is the benchmark's own interval."""
    eval_batch_size: int | None = None
    """Images per evaluation batch; None is the benchmark's own number."""
    image_size: int | None = None
    """Side of the square view in pixels; None is the benchmark's own (224; 64 for icons)."""
    student: str = "vit_base_patch16_224"
    """A timm model name, or `small` (the demo student). VL2V-SD takes the teacher's own image encoder instead."""
    student_weights: str = "pretrained"
    """`pretrained`, `random`, or the path of a .safetensors / weights-only .pt file."""
    teacher: str = field(default="open_clip:ViT-B-16-quickgelu:openai", metadata=option("What is run"))
    """`demo` (which icons bring along), `open_clip:ARCHITECTURE:TAG`, `open_clip:ARCHITECTURE:PATH` of a local
    checkpoint, or `remote:URL`."""
    teacher_mode: str = field(default="live", metadata=option("What is run", metavar="live|views:K|clean"))
    """Ask for every image of every batch (as the authors), or once for K stored views of each image, or for its clean
    view; only `live` may be called a reproduction."""
    dropout: float = 0.0
    """Dropout on the backbone's features while training (the authors search it for ResNets)."""
    kd_temperature: float = 1.0
    """Temperature T of the `kd` baseline's softened probabilities."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32 is exact mode; bf16 is autocast and never called a reproduction."""
    speed: Speed = field(default_factory=Speed)
    """Options outside exact mode; all off is exact mode."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.image_weight <= 1.0:
            raise UserError(f"image_weight lies in [0, 1], got {self.image_weight}")
        for name in ("batch_size_per_domain", "evaluate_every", "eval_batch_size", "image_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"{name} is 1 or more, got {value}")
        if self.image_size is not None and self.image_size > LARGEST_IMAGE_SIZE:
            raise UserError(f"image_size is at most {LARGEST_IMAGE_SIZE:,} pixels, got {self.image_size}")
        if not 0.0 <= self.dropout < 1.0:
            raise UserError(f"dropout lies in [0, 1), got {self.dropout}")
        if not 0 < self.kd_temperature < inf:
            raise UserError(f"kd_temperature is a number above 0, got {self.kd_temperature}")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision is fp32 or bf16, got {self.precision!r}")
        check_teacher_mode(self.teacher_mode)
        check_shows_no_secret(self.teacher)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """How a fold is computed; nothing here may change a result."""

    workers: int = field(default=1, metadata=option("Resources of a fold"))
    """Processes that share one fold (data parallel)."""
    gpus_per_worker: float = field(default=0.0, metadata=option("Resources of a fold"))
    """GPUs for each worker; a fraction lets several one-worker folds share a GPU."""
    cpus_per_worker: float = 1.0
    """CPUs that Ray reserves for each worker."""
    threads_per_worker: int = 1
    """torch threads in each worker. Fixed, because CPU sums depend on it."""
    loader_processes: int = 0
    """Processes that decode and augment ahead of the training loop."""
    decode_cache_mb: int = 512
    """Memory for decoded images per process, in MiB; 0 decodes every time."""
    batch_pieces: int = 1
    """Pieces that a worker's share of a batch is computed in, one after the other; more need less memory. The gradient
    is the sum over the pieces at an equal global batch: equal to rounding."""
    swad_device: Literal["same", "cpu"] = "same"
    """Where SWAD keeps its averages: beside the weights, or in the machine's memory. Their numbers are the same."""
    teacher_requests: int = 4
    """Requests that each process has at work at once at a remote teacher."""
    teacher_timeout_s: float = 60.0
    """For one attempt at a remote teacher: to connect, to send, and each wait for more of the answer."""
    teacher_patience_s: float = 300.0
    """For one request with all its attempts: long enough for a server that is restarted."""

    def __post_init__(self) -> None:
        for name in ("workers", "threads_per_worker", "batch_pieces", "teacher_requests"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is 1 or more, got {getattr(self, name)}")
        for name in ("gpus_per_worker", "cpus_per_worker", "loader_processes", "decode_cache_mb"):
            if not 0 <= getattr(self, name) < inf:
                raise UserError(f"{name} is a number, 0 or more, got {getattr(self, name)}")
        for name in ("teacher_timeout_s", "teacher_patience_s"):
            if not 0 < getattr(self, name) < inf:
                raise UserError(f"{name} is a number of seconds above 0, got {getattr(self, name)}")
        if self.swad_device not in ("same", "cpu"):
            raise UserError(f"swad_device is same or cpu, got {self.swad_device!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class FoldSpec:
    """The unit of work: a fold, the method, its hyperparameters, and fingerprints of what it reads."""

    fold: Fold
    method: str
    """A row of a table: `vl2v_adip`, `vl2v_sd`, `erm`, `kd`, `zero_shot`."""
    hyperparameters: Hyperparameters
    data_manifest: str
    """SHA-256 of the benchmark's manifest: which images, in which order, with which labels."""
    teacher_fingerprint: str = ""
    """Names the teacher's weights by content; empty for a method without a teacher."""
    student_fingerprint: str = ""
    """Names the student's initial weights by content."""
    trainer_version: str = TRAINER_VERSION

    @property
    def key(self) -> str:
        """SHA-256 over every field, with weight files named by content and not by path."""
        return content_key(self._content())

    @property
    def align_key(self) -> str:
        """SHA-256 over what Align depends on: folds that agree on it share one projection."""
        content = self._content()
        for name in ("distill", "swad", "dropout", "kd_temperature"):
            del content["hyperparameters"][name]
        content["method"] = "align"
        return content_key(content)

    def _content(self) -> dict[str, Any]:
        content = asdict(self)
        if self.teacher_fingerprint:
            content["hyperparameters"]["teacher"] = ""
        if self.student_fingerprint:
            content["hyperparameters"]["student_weights"] = ""
        return content

    def to_mapping(self) -> dict[str, Any]:
        """Plain values for JSON, YAML and Ray; `fold_spec_from_mapping` reads them back."""
        return asdict(self)


def fold_spec_from_mapping(mapping: Mapping[str, Any]) -> FoldSpec:
    """Read back what `FoldSpec.to_mapping` wrote."""
    return from_mapping(FoldSpec, mapping)


def content_key(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of plain values."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_teacher_mode(mode: str) -> int:
    """Return K, the stored views per image (0 in `live`, 1 in `clean`), or say which modes there are."""
    if mode == "live":
        return 0
    if mode == "clean":
        return 1
    head, _, count = mode.partition(":")
    # Python refuses to read a number of thousands of digits.
    if head == "views" and count.isdecimal() and len(count) <= len(str(MOST_VIEWS)) and 1 <= int(count) <= MOST_VIEWS:
        return int(count)
    raise UserError(f"unknown teacher mode {mode!r}; allowed: live, clean, views:K with K from 1 to {MOST_VIEWS:,}")


def check_stores_answers(mode: str) -> None:
    """Raises `UserError` for the teacher mode that stores nothing, and for one that is none."""
    if check_teacher_mode(mode) == 0:
        raise UserError("live stores nothing; give --teacher-mode views:K or clean")


def check_shows_no_secret(teacher: str) -> None:
    """Raises `UserError`, which does not repeat it, for a remote teacher whose address has room for a secret: specs,
    records and logs would show it."""
    kind, _, url = teacher.partition(":")
    if kind != "remote":
        return
    if "?" in url or "#" in url:
        raise UserError(
            "the teacher's address holds a query string or a fragment, which records would show; give the address up "
            f"to the '?' or '#' and put a token in {TEACHER_TOKEN_VARIABLE}"
        )
    if "@" in url.partition("://")[2].partition("/")[0]:
        raise UserError(f"the teacher's address holds a password; put a token in {TEACHER_TOKEN_VARIABLE} instead")
