"""Pre-train the small student without language: which of 500 words stand in an icon's name?

    python -m trainables.teacher.demo.iconify package prepared      # the same emoji-free pictures as the demo teacher's
    python -m trainables.student.small.pretrain prepared            # about six CPU minutes

It stands for ImageNet pre-training in the paper: the words are mere class numbers, no text embedding is involved and no
teacher is asked.  Left out are the words of the benchmark's own class names, so the classes themselves are not trained.
"""

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.data.icons import CLASSES
from trainables.student.small import STUDENT_WEIGHTS
from trainables.student.small.network import FEATURE_WIDTH, SmallStudent
from trainables.teacher.demo.augment import PreparedIcons, training_batch

NUM_WORDS = 500
BATCH_SIZE = 256
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.05


def frequent_words(captions: list[str]) -> list[str]:
    """The 500 most frequent words of the captions, ties in byte order, without those of the class names."""
    excluded = {word for name in CLASSES for word in name.split("_")}
    counts = Counter(word for caption in captions for word in set(caption.split()) if len(word) > 1)
    return sorted(counts.keys() - excluded, key=lambda word: (-counts[word], word))[:NUM_WORDS]


def word_targets(captions: list[str], words: list[str]) -> NDArray[np.bool_]:
    """Which words stand in which caption, [N, 500]."""
    number = {word: index for index, word in enumerate(words)}
    targets_NW = np.zeros((len(captions), len(words)), dtype=np.bool_)
    for row, caption in enumerate(captions):
        targets_NW[row, [number[word] for word in caption.split() if word in number]] = True
    return targets_NW


def pretrain(icons: PreparedIcons, targets_NW: NDArray[np.bool_], *, num_steps: int, seed: int = 0) -> SmallStudent:
    """Softmax over the words of a name (each with an equal share), AdamW, one-cycle learning rate, bfloat16."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    student, classifier = SmallStudent(), nn.Linear(FEATURE_WIDTH, targets_NW.shape[1])
    parameters = [*student.parameters(), *classifier.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=num_steps, pct_start=0.1)
    weights_N, started = drawing_weights(targets_NW), time.monotonic()
    for step in range(num_steps):
        rows = torch.multinomial(weights_N, BATCH_SIZE, generator=generator).numpy()
        shares_NW = torch.from_numpy(targets_NW[rows]).float()
        shares_NW = shares_NW / shares_NW.sum(dim=1, keepdim=True)
        images = training_batch(icons, rows, generator)
        with torch.autocast("cpu", torch.bfloat16):
            logits_NW = classifier(student(images))
        loss = F.cross_entropy(logits_NW.float(), shares_NW)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 50 == 0:
            print(f"step {step} of {num_steps}, loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return student


def drawing_weights(targets_NW: NDArray[np.bool_]) -> Tensor:
    """How often a picture is drawn: never without a word, else 1 / sqrt(count of its rarest word), [N]."""
    counts_W = targets_NW.sum(axis=0)
    rarest_N = np.where(targets_NW, counts_W, np.inf).min(axis=1)
    return torch.from_numpy(rarest_N**-0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("prepared", type=Path, help="the folder that trainables.teacher.demo.iconify wrote")
    parser.add_argument("--num-steps", type=int, default=1600)
    arguments = parser.parse_args()
    described = json.loads((arguments.prepared / "icons.json").read_text("utf-8"))
    all_captions = [row["caption"] for row in described]
    prepared = PreparedIcons.load(arguments.prepared, np.array([row["colour_row"] for row in described]))
    trained = pretrain(
        prepared, word_targets(all_captions, frequent_words(all_captions)), num_steps=arguments.num_steps
    )
    save_file({name: value.half().contiguous() for name, value in trained.state_dict().items()}, STUDENT_WEIGHTS)
