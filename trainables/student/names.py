"""What a student may be called, and which weights its name stands for. Loads without torch.

small                    the demo student that travels with the package
NAME or NAME.TAG         any timm model, its weights from the hub
student_weights          `pretrained`, `random`, or the path of a weights file
"""

from __future__ import annotations

from pathlib import Path

from search_spaces.errors import UserError

SMALL = "small"
SMALL_WEIGHTS = Path(__file__).parent / "small" / "small_student.safetensors"

PAPER_WEIGHTS = {
    "vit_base_patch16_224": "augreg_in21k_ft_in1k",
    "vit_small_patch16_224": "augreg_in21k_ft_in1k",
    "deit_small_distilled_patch16_224": "fb_in1k",
    "resnet50": "tv_in1k",
}
"""timm's tag of the weights that the paper starts from (method.md, section 1).

timm's own defaults differ today: `augreg2_in21k_ft_in1k` for ViT-B/16, and `a1_in1k`, not ImageNet-1k V1, for
ResNet-50.
"""


def tagged_name(student: str) -> str:
    """Name with the tag of the paper's weights, in timm's spelling, where the paper has some and no tag is given."""
    tag = PAPER_WEIGHTS.get(student)
    return student if tag is None else f"{student}.{tag}"


def student_weights_file(student: str, weights: str) -> Path | None:
    """The local weights file, or None where the weights are random or come from the hub.

    Raises:
        UserError: `weights` is neither `pretrained` nor `random` nor a file.
    """
    if weights == "random":
        return None
    if weights == "pretrained":
        return SMALL_WEIGHTS if student == SMALL else None
    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"no student weights {weights!r}; allowed: pretrained, random, or the path of a file")
    return path
