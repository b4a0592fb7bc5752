"""Open a teacher by its name; what names there are is in `trainables.teacher.names`."""

from __future__ import annotations

import torch

from trainables.teacher.names import teacher_kind
from trainables.teacher.protocol import Teacher


def open_teacher(name: str, *, image_size: int, device: torch.device | str = "cpu") -> Teacher:
    """Open `demo`, `open_clip:ARCHITECTURE:TAG_OR_PATH` or `remote:URL` for square images of the given side.

    Raises:
        UserError: there is no such teacher, its weights cannot be had or do not fit, or it cannot take this image size.
    """
    kind = teacher_kind(name)
    if kind == "demo":
        from trainables.teacher.demo_teacher import DemoTeacher

        return DemoTeacher(device=device)
    if kind == "remote":
        from trainables.teacher.remote import RemoteTeacher

        return RemoteTeacher(name.partition(":")[2], image_size=image_size, device=device)
    from trainables.teacher.clip import open_clip_teacher

    return open_clip_teacher(name, image_size=image_size, device=device)
