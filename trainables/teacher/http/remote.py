"""A teacher behind HTTP: a vendor's black box. The wire format is in `trainables.teacher.http.wire`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search_spaces.errors import UserError
from trainables.teacher.http.connection import Connection, Patience
from trainables.teacher.http.wire import (
    MAX_HEADER_BYTES,
    MAX_PROMPTS,
    SAFETENSORS,
    WireError,
    pack_arrays,
    unpack_arrays,
)

NUMBER_BYTES = 8
"""Of the longest floating-point numbers that an answer may hold."""


class RemoteTeacher:
    """Asks a server; every answer is checked for shape, numbers and length before anybody trains on it.

    A pickled one connects again where it is unpickled, to the same model: the token never travels.

    Args:
        fingerprint: of the model that is wanted; whatever the server serves where it is empty.

    Raises:
        UserError: the server cannot be reached, refuses the token, answers what is no embedding, or serves another
            model than is wanted or than it served before.
    """

    def __init__(
        self,
        url: str,
        *,
        image_size: int | None = None,
        device: torch.device | str = "cpu",
        patience: Patience | None = None,
        fingerprint: str = "",
    ) -> None:
        self._connection = Connection(url, patience, fingerprint=fingerprint)
        self._device, self._image_size = torch.device(device), image_size
        self.url = self._connection.url
        self.name = f"remote:{self.url}"
        try:
            facts = self._connection.facts()
        except BaseException:
            self._connection.close()
            raise
        self.embedding_dim = facts.embedding_dim
        self.logit_scale = facts.logit_scale
        self.fingerprint = facts.fingerprint
        self.max_images = facts.max_images
        if image_size is not None and facts.image_size is not None and facts.image_size != image_size:
            raise UserError(
                f"the teacher at {self.url} takes images of {facts.image_size} px, not {image_size}; "
                f"set image_size={facts.image_size}"
            )

    def __reduce__(self) -> tuple[object, ...]:
        return _again, (self.url, self._image_size, str(self._device), self._connection.patience, self.fingerprint)

    def __repr__(self) -> str:
        return f"RemoteTeacher({self.url!r})"

    def embed_images(self, images_N3HW: Tensor) -> Tensor:
        """L2-normalised image embeddings [N, D], float32; several requests at once where N is large."""
        parts = list(torch.split(images_N3HW, self.max_images)) if len(images_N3HW) else []
        if not parts:
            return torch.zeros(0, self.embedding_dim, device=self._device)
        if len(parts) == 1:
            return self._ask_images(images_N3HW).to(self._device)
        with ThreadPoolExecutor(min(len(parts), self._connection.patience.concurrency)) as pool:
            return torch.cat(list(pool.map(self._ask_images, parts))).to(self._device)

    def embed_texts(self, prompts: Sequence[str]) -> Tensor:
        """L2-normalised text embeddings [len(prompts), D], float32."""
        parts = [prompts[start : start + MAX_PROMPTS] for start in range(0, len(prompts), MAX_PROMPTS)]
        if not parts:
            return torch.zeros(0, self.embedding_dim, device=self._device)
        return torch.cat([self._ask_texts(part) for part in parts]).to(self._device)

    def image_encoder(self) -> tuple[nn.Module, int]:
        """A remote teacher is a black box."""
        raise UserError(f"vl2v_sd trains the teacher's own image encoder, which {self.name} does not give away")

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _ask_images(self, images_N3HW: Tensor) -> Tensor:
        return self._ask("/v1/images", pack_arrays("images", images_N3HW.float()), SAFETENSORS, rows=len(images_N3HW))

    def _ask_texts(self, prompts: Sequence[str]) -> Tensor:
        body = json.dumps({"prompts": list(prompts)}).encode()
        return self._ask("/v1/texts", body, "application/json", rows=len(prompts))

    def _ask(self, path: str, body: bytes, content_type: str, *, rows: int) -> Tensor:
        longest = rows * self.embedding_dim * NUMBER_BYTES + MAX_HEADER_BYTES + 8
        return self._checked(self._connection.post(path, body, content_type=content_type, max_bytes=longest), rows)

    def _checked(self, body: bytes, rows: int) -> Tensor:
        try:
            embeddings_ND = unpack_arrays("embeddings", body)
        except WireError as error:
            raise UserError(f"the teacher at {self.url} answers nonsense: {error}") from None
        if embeddings_ND.shape != (rows, self.embedding_dim) or not embeddings_ND.is_floating_point():
            raise UserError(
                f"the teacher at {self.url} answers {embeddings_ND.dtype} {list(embeddings_ND.shape)[:8]}; "
                f"float [{rows}, {self.embedding_dim}] is wanted"
            )
        embeddings_ND = embeddings_ND.float()
        broken = int((~torch.isfinite(embeddings_ND)).any(dim=1).sum())
        empty = int((embeddings_ND == 0).all(dim=1).sum())
        if broken or empty:
            kind = "NaN or infinite" if broken else "all zero"
            raise UserError(
                f"the teacher at {self.url} answers {kind} embeddings for {broken or empty} of {rows} queries"
            )
        lengths_N1 = embeddings_ND.norm(dim=1, keepdim=True)
        if torch.allclose(lengths_N1, torch.ones_like(lengths_N1), rtol=0, atol=1e-5):
            # Already normalised: the very bits that the server sent.
            return embeddings_ND
        return F.normalize(embeddings_ND, dim=-1)


def _again(url: str, image_size: int | None, device: str, patience: Patience, fingerprint: str) -> RemoteTeacher:
    return RemoteTeacher(url, image_size=image_size, device=device, patience=patience, fingerprint=fingerprint)
