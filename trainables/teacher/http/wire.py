"""What travels between a remote teacher and its clients (protocol 1).

    GET  /v1/teacher -> JSON: protocol, name, embedding_dim, logit_scale, fingerprint, image_size, max_images
    POST /v1/images     body: safetensors {"images": float32 [N, 3, S, S], ImageNet-normalised}
                        answer: safetensors {"embeddings": float32 [N, D], L2-normalised}
    POST /v1/texts      body: JSON {"prompts": [...]}; answer: safetensors {"embeddings": float32 [C, D]}
    GET  /v1/ledger  -> JSON: images, texts, requests (what the server counts as paid)

An answer may carry `Teacher-Fingerprint`: the fingerprint of /v1/teacher, of the very model that made this answer. A
client that opened another one refuses the answer. It is printable ASCII.

Every POST carries `Idempotency-Key`: a repeated key with the same body is answered again and not paid again. With
another body it is refused (422), also while the first is being answered. A request has at most `max_images` images or
MAX_PROMPTS prompts (413 otherwise). `Authorization: Bearer TOKEN` on every request, where the server asks for one (401
otherwise). 429 and 503 may carry `Retry-After` (seconds or an HTTP date). Errors are JSON {"error": one line}.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from search_spaces.hyperparameters import TEACHER_TOKEN_VARIABLE

if TYPE_CHECKING:
    from torch import Tensor

PROTOCOL = 1
TOKEN_VARIABLE = TEACHER_TOKEN_VARIABLE
SAFETENSORS = "application/x-safetensors"
IDEMPOTENCY_KEY = "Idempotency-Key"
FINGERPRINT = "Teacher-Fingerprint"
MAX_IMAGES = 512
"""Most images in one request, unless the server says otherwise."""
MAX_PROMPTS = 4096
"""Most prompts in one request."""
MAX_HEADER_BYTES = 2**16
"""Of a safetensors body, which names one tensor in some hundred bytes."""
_FLOATS = ("float32", "float16", "bfloat16", "float64")


class WireError(ValueError):
    """A body that is not what the protocol wants; the message is one line."""


def pack_arrays(name: str, tensor: Tensor) -> bytes:
    """One named tensor as a safetensors body."""
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous()})


def unpack_arrays(name: str, body: bytes) -> Tensor:
    """The named tensor of a safetensors body, of floating-point numbers.

    Raises:
        WireError: the body is not safetensors, or lacks the tensor.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if int.from_bytes(body[:8], "little") > MAX_HEADER_BYTES:
        raise WireError(f"the body is not safetensors with a header of at most {MAX_HEADER_BYTES:,} bytes")
    try:
        tensors = load(body)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        # Beside its own error: numbers that torch has no type for, shapes that it cannot count.
        raise WireError(f"the body is not safetensors ({type(error).__name__})") from None
    if name not in tensors:
        found = ", ".join(map(repr, sorted(tensors)))[:100]
        raise WireError(f"the body lacks the tensor {name!r}; it has {found or 'none'}")
    if (kind := str(tensors[name].dtype).removeprefix("torch.")) not in _FLOATS:
        raise WireError(f"the tensor {name!r} is {kind}; {', '.join(_FLOATS)} are allowed")
    return tensors[name]
