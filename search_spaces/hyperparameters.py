"""What changes a result (`Hyperparameters`), what must not (`Resources`), and the key that follows from content.

A fold's key is the SHA-256 of everything that changes its result. Workers, paths and GPUs cannot get in, because they
live in `Resources`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from search_spaces.configuration import from_mapping
from search_spaces.errors import UserError
from search_spaces.folds import Fold
from search_spaces.settings import check_bounds, option, within

TEACHER_TOKEN_VARIABLE = "VL2V_TEACHER_TOKEN"
"""The environment variable that holds a remote teacher's token, and the only place for it."""

TRAINER_VERSION = "1"
"""Raised whenever the trainer computes other numbers from the same input; part of every key.

`tests/trainables/test_trainer_version.py` pins the numbers of one tiny fold and asks for a new version when they move.
"""

NOT_READ_BY_ALIGN = ("distill", "swad", "dropout", "kd_temperature")
"""Hyperparameters that Align does not depend on: folds that differ in these alone share one."""

SegmentRule = Literal["every_evaluation", "authors", "off"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StageHyperparameters:
    """How one stage (align, distill or the single stage of a baseline) is optimised."""

    lr: float = field(default=5e-5, metadata=within(0, holds_low=False))
    """Adam's learning rate; constant, no warm-up (the authors' scripts)."""
    weight_decay: float = field(default=0.0, metadata=within(0))
    """Adam's L2 penalty, added to the gradient."""
    num_steps: int | None = field(default=None, metadata=within(1))
    """Update steps asked for; where nothing is given, the benchmark's own number."""

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Swad:
    """Stochastic weight averaging densely (Cha et al. 2021, LossValley)."""

    segments: SegmentRule = "every_evaluation"
    """When the running average restarts. `every_evaluation` is standard SWAD. `authors` is the rule of the authors'
    scripts outside Distill with ViT-B: where step % 1000 == 0 and step > 2500. `off` averages nothing."""
    num_converge: int = field(default=3, metadata=within(1))
    """Evaluations without improvement that make the start of the valley."""
    num_tolerate: int = field(default=6, metadata=within(1))
    """Evaluations looked back over to find the end of the valley."""
    tolerance_ratio: float = field(default=0.3, metadata=within(0))
    """The valley ends where the loss exceeds (1 + ratio) times the mean loss around its start."""

    def __post_init__(self) -> None:
        if self.segments not in ("every_evaluation", "authors", "off"):
            raise UserError(f"swad.segments is every_evaluation, authors or off, got {self.segments!r}")
        check_bounds(self)


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

    image_weight: float = field(default=0.5, metadata=within(0, 1))
    """Weight of the image term of the loss, in [0, 1]; the text term gets the rest."""
    batch_size_per_domain: int = field(default=32, metadata=within(1))
    """Images per source domain and step, over all workers together."""
    align: StageHyperparameters = field(default_factory=StageHyperparameters)
    """The stage that trains the projection."""
    distill: StageHyperparameters = field(default_factory=StageHyperparameters)
    """The stage that trains the backbone; also the single stage of self-distillation and of the baselines."""
    swad: Swad = field(default_factory=Swad)
    """Weight averaging in the last stage."""
    evaluate_every: int | None = field(default=None, metadata=within(1))
    """Steps between evaluations; where nothing is given, the benchmark's own interval."""
    eval_batch_size: int | None = field(default=None, metadata=within(1))
    """Images per evaluation batch; where nothing is given, the benchmark's own number."""
    image_size: int | None = field(default=None, metadata=within(1))
    """Side of the square view in pixels; where nothing is given, the benchmark's own."""
    student: str = "vit_base_patch16_224"
    """A timm model name, or `small` (the demo student). VL2V-SD takes the teacher's own image encoder instead."""
    student_weights: str = "pretrained"
    """`pretrained`, `random`, or the path of a .safetensors / weights-only .pt file."""
    teacher: str = field(default="open_clip:ViT-B-16-quickgelu:openai", metadata=option("What is run"))
    """`demo` (which icons bring along), `open_clip:ARCHITECTURE:TAG`, `open_clip:ARCHITECTURE:PATH` of a local
    checkpoint, or `remote:URL`."""
    teacher_mode: str = field(default="live", metadata=option("What is run", metavar="live|views:K|clean"))
    """Ask for every image of every batch (as the authors), once for K stored views of each image, or for its clean
    view. Only `live` may be called a reproduction."""
    dropout: float = field(default=0.0, metadata=within(0, 1, holds_high=False))
    """Dropout on the backbone's features while training (the authors search it for ResNets)."""
    kd_temperature: float = field(default=1.0, metadata=within(0, holds_low=False))
    """Temperature T of the `kd` baseline's softened probabilities."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """fp32 is exact mode; bf16 is autocast and never called a reproduction."""
    speed: Speed = field(default_factory=Speed)
    """Options outside exact mode; all off is exact mode."""

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"precision is fp32 or bf16, got {self.precision!r}")
        check_teacher_mode(self.teacher_mode)
        check_shows_no_secret(self.teacher)


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """How a fold is computed; nothing here may change a result."""

    workers: int = field(default=1, metadata=option("Resources of a fold") | within(1))
    """Processes that share one fold (data parallel)."""
    gpus_per_worker: float = field(default=0.0, metadata=option("Resources of a fold") | within(0))
    """GPUs for each worker; a fraction lets several one-worker folds share a GPU."""
    cpus_per_worker: float = field(default=1.0, metadata=within(0))
    """CPUs that Ray reserves for each worker."""
    threads_per_worker: int = field(default=1, metadata=within(1))
    """torch threads in each worker. Fixed, because CPU sums depend on it."""
    loader_processes: int = field(default=0, metadata=within(0))
    """Processes that decode and augment ahead of the training loop."""
    decode_cache_mb: int = field(default=512, metadata=within(0))
    """Memory for decoded images per process, in MiB; 0 decodes every time."""
    batch_pieces: int = field(default=1, metadata=within(1))
    """Pieces that a worker's share of a batch is computed in, one after the other; more need less memory. The gradient
    is the sum over the pieces at an equal global batch: equal to rounding."""
    swad_device: Literal["same", "cpu"] = "same"
    """Where SWAD keeps its averages: beside the weights, or in the machine's memory. Their numbers are the same."""
    teacher_requests: int = field(default=4, metadata=within(1))
    """Requests that each process sends to a remote teacher at the same time."""
    teacher_timeout_s: float = field(default=60.0, metadata=within(0, holds_low=False))
    """For one attempt at a remote teacher: to connect, to send, and each wait for more of the answer."""
    teacher_patience_s: float = field(default=300.0, metadata=within(0, holds_low=False))
    """For one request with all its attempts: long enough for a server that is restarted."""

    def __post_init__(self) -> None:
        check_bounds(self)
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
        for name in NOT_READ_BY_ALIGN:
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
    if head == "views" and count.isdecimal() and int(count) >= 1:
        return int(count)
    raise UserError(f"unknown teacher mode {mode!r}; allowed: live, clean, views:K with K >= 1")


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
