"""Open a teacher by its name; what names there are is in `trainables.teacher.names`."""

from __future__ import annotations

import torch

from trainables.teacher.fingerprint import teacher_fingerprint
from trainables.teacher.http.connection import Patience
from trainables.teacher.names import another_teacher, teacher_kind
from trainables.teacher.protocol import Teacher


def open_teacher(
    name: str,
    *,
    image_size: int,
    device: torch.device | str = "cpu",
    fingerprint: str = "",
    patience: Patience | None = None,
) -> Teacher:
    """Open `demo`, `open_clip:ARCHITECTURE:TAG_OR_PATH` or `remote:URL` for square images of the given side.

    Args:
        fingerprint: what `teacher_fingerprint` said of it when the work was planned; not compared where it is empty.
        patience: with a remote teacher.

    Raises:
        UserError: there is no such teacher, its weights cannot be had or do not fit, it cannot take this image size,
            or it is no longer the one that was planned.
    """
    kind = teacher_kind(name)
    if kind != "remote" and fingerprint and (found := teacher_fingerprint(name)) != fingerprint:
        raise another_teacher(name, found=found, planned=fingerprint)
    if kind == "demo":
        from trainables.teacher.demo_teacher import DemoTeacher

        return DemoTeacher(device=device)
    if kind == "remote":
        from trainables.teacher.http.remote import RemoteTeacher

        url = name.partition(":")[2]
        return RemoteTeacher(url, image_size=image_size, device=device, fingerprint=fingerprint, patience=patience)
    from trainables.teacher.clip import open_clip_teacher

    return open_clip_teacher(name, image_size=image_size, device=device)
