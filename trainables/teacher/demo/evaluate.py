"""Zero-shot accuracy of the demo teacher on the demo benchmark `icons`: the numbers of `MODEL_CARD.md`.

python -m trainables.teacher.demo.evaluate
"""

import io
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from trainables.data.icons import CLASSES, DOMAINS, ICONS_PARQUET, Half
from trainables.teacher.demo import CLASS_PROMPTS, TEACHER_WEIGHTS
from trainables.teacher.demo.augment import normalised_drawings
from trainables.teacher.demo.network import DemoImageTower


@dataclass(frozen=True, kw_only=True, slots=True)
class Accuracy:
    """Two fractions in [0, 1]."""

    plain: float
    balanced: float
    """Mean over classes of the accuracy within the class."""


def load_pictures(domain: str, half: Half | Literal["all"]) -> tuple[Tensor, Tensor]:
    """Normalised pictures [N, 3, 64, 64] and class numbers [N] of one domain."""
    import pyarrow.parquet as pq
    from PIL import Image

    rows = pq.read_table(ICONS_PARQUET, filters=[("domain", "=", domain)]).to_pylist()
    rows = [row for row in rows if half in ("all", row["split_half"])]
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB")) for row in rows])
    labels_N = torch.tensor([CLASSES.index(row["class"]) for row in rows])
    return normalised_drawings(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255), labels_N


def load_demo_tower() -> DemoImageTower:
    """The trained image tower in fp32 and eval mode."""
    tower = DemoImageTower()
    tower.load_state_dict({name: value.float() for name, value in load_file(TEACHER_WEIGHTS).items()})
    return tower.eval()


@torch.inference_mode()
def zero_shot_accuracy(tower: DemoImageTower, domain: str, half: Half | Literal["all"] = "all") -> Accuracy:
    """Accuracy of the nearest class prompt on one domain of the benchmark."""
    images, labels_N = load_pictures(domain, half)
    embeddings_ND = F.normalize(torch.cat([tower(chunk) for chunk in torch.split(images, 128)]), dim=-1)
    predicted_N = (embeddings_ND @ load_file(CLASS_PROMPTS)["text_embeddings"].T).argmax(dim=1)
    correct_N = (predicted_N == labels_N).float()
    per_class = [correct_N[labels_N == label].mean() for label in torch.unique(labels_N)]
    return Accuracy(plain=correct_N.mean().item(), balanced=torch.stack(per_class).mean().item())


if __name__ == "__main__":
    demo_tower = load_demo_tower()
    print("| domain | all | all, balanced | half `test` | half `test`, balanced |\n|---|---|---|---|---|")
    for name in DOMAINS:
        whole, test = (zero_shot_accuracy(demo_tower, name, half) for half in ("all", "test"))
        print(f"| {name} | {whole.plain:.3f} | {whole.balanced:.3f} | {test.plain:.3f} | {test.balanced:.3f} |")
