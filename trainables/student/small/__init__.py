"""The small pre-trained student of the demo benchmark: `network.SmallStudent` and where its weights lie.

Importing this package loads no torch.  `MODEL_CARD.md` says how the weights were made.
"""

from pathlib import Path
from typing import Final

STUDENT_WEIGHTS: Final[Path] = Path(__file__).parent / "small_student.safetensors"
"""State dict of `network.SmallStudent` in fp16; the pre-training's classifier is not in it."""
