"""The losses, one equation each.

Shapes: N images, D embedding dimensions, C classes. Teacher embeddings and text embeddings are L2-normalised.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def vl2v_loss(student_ND: Tensor, image_ND: Tensor, text_ND: Tensor, image_weight: float) -> Tensor:
    """Pull the student towards the teacher's image and text embeddings (arXiv 2310.08255, L_ADiP).

    `text_ND` holds the text embedding of each image's true class. There is no temperature and no cross-entropy.
    """
    image = F.cosine_similarity(student_ND, image_ND, dim=-1).mean()
    text = F.cosine_similarity(student_ND, text_ND, dim=-1).mean()
    return -(image_weight * image + (1.0 - image_weight) * text)


def distillation_loss(logits_NC: Tensor, teacher_logits_NC: Tensor, labels_N: Tensor, temperature: float) -> Tensor:
    """Cross-entropy on the labels plus T^2 KL(teacher || student) at temperature T (Hinton et al. 2015, 1503.02531).

    Deviation: the authors' code feeds probabilities where `kl_div` wants log-probabilities; this is the textbook form.
    """
    teacher = torch.log_softmax(teacher_logits_NC / temperature, dim=-1)
    student = torch.log_softmax(logits_NC / temperature, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return F.cross_entropy(logits_NC, labels_N) + temperature**2 * divergence
