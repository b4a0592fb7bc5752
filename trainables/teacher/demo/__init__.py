"""The demo teacher: a real, small image-text model for drawings; how it was made and how good it is: `MODEL_CARD.md`.

Importing this package loads no torch; the weights load through `network` and safetensors.
"""

from pathlib import Path
from typing import Final

TEACHER_WEIGHTS: Final[Path] = Path(__file__).parent / "demo_teacher.safetensors"
"""State dict of `network.DemoImageTower` in fp16, with CLIP's `logit_scale` (a natural logarithm)."""

CLASS_PROMPTS: Final[Path] = Path(__file__).parent / "class_prompts.safetensors"
"""`text_embeddings` [13, 384], L2-normalised, in the order of the metadata's JSON list `prompts`."""


def class_prompt(class_name: str) -> str:
    """`fruit_or_vegetable` -> `a photo of a fruit or vegetable`: the one prompt of a class."""
    return f"a photo of a {class_name.replace('_', ' ')}"
