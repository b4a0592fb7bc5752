"""What the orchestrator must know of each method: a row of a table. The losses live in `trainables/methods`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from search_spaces.errors import UserError, unknown_name

StageName = Literal["align", "distill"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodFacts:
    """A method as data: which stages it runs and what it asks of the teacher."""

    name: str
    title: str
    """How a table's footnote calls it."""
    stages: tuple[StageName, ...]
    """What is trained, in order; the single stage of self-distillation and of the baselines is `distill`."""
    uses_teacher_images: bool
    """Every training image is embedded by the teacher: the queries that cost."""
    uses_teacher_texts: bool
    """The class prompts are embedded by the teacher, once."""
    uses_image_weight: bool = False
    """The loss mixes an image and a text term by `image_weight`."""
    uses_temperature: bool = False
    """The loss has `kd_temperature`."""
    student_is_teacher: bool = False
    """The student is a copy of the teacher's image encoder; `student` in the hyperparameters is not read."""

    @property
    def aligns(self) -> bool:
        """A projection learns first, in a stage that folds may share."""
        return "align" in self.stages

    @property
    def asks(self) -> bool:
        """The teacher is asked, for images or for texts."""
        return self.uses_teacher_images or self.uses_teacher_texts

    @property
    def trains(self) -> bool:
        """False for the teacher itself, which is only evaluated."""
        return bool(self.stages)


METHODS: dict[str, MethodFacts] = {
    facts.name: facts
    for facts in (
        MethodFacts(
            name="vl2v_adip",
            title="VL2V-ADiP: align, distill, predict (arXiv 2310.08255)",
            stages=("align", "distill"),
            uses_teacher_images=True,
            uses_teacher_texts=True,
            uses_image_weight=True,
        ),
        MethodFacts(
            name="vl2v_sd",
            title="VL2V-SD: self-distillation of the teacher's image encoder (arXiv 2310.08255)",
            stages=("distill",),
            uses_teacher_images=True,
            uses_teacher_texts=True,
            uses_image_weight=True,
            student_is_teacher=True,
        ),
        MethodFacts(
            name="erm",
            title="ERM: cross-entropy, everything trains",
            stages=("distill",),
            uses_teacher_images=False,
            uses_teacher_texts=False,
        ),
        MethodFacts(
            name="kd",
            title="KD: cross-entropy and the teacher's zero-shot probabilities (Hinton et al. 2015)",
            stages=("distill",),
            uses_teacher_images=True,
            uses_teacher_texts=True,
            uses_temperature=True,
        ),
        MethodFacts(
            name="zero_shot",
            title="the teacher itself, text embeddings as classifier",
            stages=(),
            uses_teacher_images=True,
            uses_teacher_texts=True,
        ),
    )
}


def method_facts(name: str) -> MethodFacts:
    """Look a method up; raises `UserError` with the nearest names."""
    if name not in METHODS:
        raise unknown_name("method", name, METHODS)
    return METHODS[name]


def parse_methods(text: str) -> tuple[str, ...]:
    """Read `vl2v_adip,erm` into method names, each once, in the order given."""
    names = tuple(method_facts(item.strip()).name for item in text.split(",") if item.strip())
    if not names:
        raise UserError(f"no method named; allowed: {', '.join(sorted(METHODS))}")
    return tuple(dict.fromkeys(names))
