"""Changes that cannot change what the code does, each with its reason; they are never drawn.

`line` and `becomes` are a line of the source and the same line with the change, without indentation.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Equivalent:
    """One change that no test could notice."""

    area: str
    operator: str
    line: str
    becomes: str
    reason: str


EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "swad",
        "comparison",
        "if surplus < 0:",
        "if (surplus <= 0):",
        "of a surplus of 0 the slice below is as empty as the answer after it",
    ),
    Equivalent(
        "stage",
        "comparison",
        "if self.next_step < self.inputs.num_steps and not self.ended_early:",
        "if (self.next_step <= self.inputs.num_steps) and not self.ended_early:",
        "the batches from `num_steps` on are none",
    ),
    Equivalent(
        "backbones",
        "constant + 1",
        "features_1W = backbone(torch.zeros(1, 3, image_size, image_size))",
        "features_1W = backbone(torch.zeros(2, 3, image_size, image_size))",
        "the width of a feature does not depend on the number of images",
    ),
    Equivalent(
        "speed",
        "keyword dropped",
        "torch.compile(_one_line, dynamic=False)(torch.ones(2, device=device))",
        "torch.compile(_one_line)(torch.ones(2, device=device))",
        "one line is compiled for one shape, which says whether there is a compiler",
    ),
    Equivalent(
        "speed",
        "True / False",
        "torch.compile(_one_line, dynamic=False)(torch.ones(2, device=device))",
        "torch.compile(_one_line, dynamic=True)(torch.ones(2, device=device))",
        "one line is compiled for one shape, which says whether there is a compiler",
    ),
    Equivalent(
        "update",
        "constant + 1",
        "return value - 2**64 if value >= 2**63 else value",
        "return value - 2**64 if value >= 3**63 else value",
        "torch of today takes an unsigned number for the signed one of the same bits; others refuse it",
    ),
    Equivalent(
        "batches",
        "constant + 1",
        "decode_cache_mb: float = 512",
        "decode_cache_mb: float = 513",
        "how many decoded images are kept changes no number",
    ),
    Equivalent(
        "views",
        "comparison",
        "elif width / height > max(CROP_RATIO):",
        "elif (width / height >= max(CROP_RATIO)):",
        "of exactly this shape the widest crop is the whole image",
    ),
    Equivalent(
        "splits",
        "keyword dropped",
        "order = np.arange(num_images, dtype=np.int64)",
        "order = np.arange(num_images)",
        "on Linux a plain arange holds int64; other systems may not",
    ),
)
