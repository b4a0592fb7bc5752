"""The views are torchvision's on PIL images, number for number, and draw from no global generator."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from trainables.data.loading.views import IMAGENET_MEAN, IMAGENET_STD, EvalView, TrainView

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BILINEAR = transforms.InterpolationMode.BILINEAR


def _picture(seed: int, size: tuple[int, int]) -> Image.Image:
    noise = np.random.RandomState(seed).randint(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(64, 64), (227, 227), (300, 41), (41, 300), (90, 120), (3, 2)])
def test_the_train_view_is_torchvisions(size: tuple[int, int]) -> None:
    official = transforms.Compose(
        [
            transforms.RandomResizedCrop(48, scale=(0.7, 1.0), ratio=(3 / 4, 4 / 3), interpolation=BILINEAR),
            transforms.RandomHorizontalFlip(0.5),
            transforms.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.3),
            transforms.RandomGrayscale(0.1),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    view = TrainView(48)
    for seed in range(40):
        image = _picture(seed, size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            expected = official(image)
        assert torch.equal(view(image, seed), expected), seed


@pytest.mark.parametrize("size", [(48, 48), (227, 150), (20, 31)])
def test_the_eval_view_is_torchvisions(size: tuple[int, int]) -> None:
    squashed = transforms.Resize((48, 48), interpolation=BILINEAR)
    official = transforms.Compose([squashed, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    image = _picture(1, size)
    assert torch.equal(EvalView(48)(image), official(image))


def test_a_view_is_a_function_of_image_and_seed_and_leaves_global_generators_alone() -> None:
    image, view = _picture(0, (80, 70)), TrainView(32)
    torch.manual_seed(1)
    first = view(image, 5)
    torch.manual_seed(2)
    states = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())  # type: ignore[index,union-attr]
    again = view(image, 5)
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # type: ignore[index]
    assert random.getstate() == states[2]
    assert not torch.equal(first, view(image, 6))


def test_the_image_itself_stays_as_it_was() -> None:
    image = _picture(0, (48, 48))
    before = image.tobytes()
    for seed in range(20):
        TrainView(48)(image, seed)
        EvalView(48)(image).zero_()
    assert image.tobytes() == before


def test_normalisation_is_imagenets_by_hand() -> None:
    image = Image.new("RGB", (4, 4), (255, 0, 51))
    pixel = EvalView(4)(image)[:, 0, 0]
    assert pixel.tolist() == pytest.approx([(1 - 0.485) / 0.229, -0.456 / 0.224, (0.2 - 0.406) / 0.225], rel=1e-6)
    assert (IMAGENET_MEAN, IMAGENET_STD) == (MEAN, STD)
