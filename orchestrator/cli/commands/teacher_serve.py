"""`teacher serve`: a vendor's side of a remote teacher, over HTTP."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from orchestrator.cli.commands.teacher import teacher
from search_spaces.errors import UserError
from search_spaces.hyperparameters import LARGEST_IMAGE_SIZE

LOOPBACK = ("127.0.0.1", "localhost", "::1")


@teacher.command("serve")
def serve_command(
    name: Annotated[
        str,
        typer.Option("--teacher", metavar="NAME", help="What is served: demo or open_clip:ARCHITECTURE:TAG_OR_PATH."),
    ],
    host: Annotated[
        str, typer.Option("--host", metavar="HOST", help="Address to listen on; another than loopback wants a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", help="Port; 0 takes a free one and prints it.")] = 8000,
    image_size: Annotated[
        int, typer.Option("--image-size", metavar="N", help="Side of the images that are taken, in pixels.")
    ] = 224,
    threads: Annotated[
        int,
        typer.Option("--threads", metavar="N", help="torch threads; the last bits of a CPU's answers depend on them."),
    ] = 1,
    ledger: Annotated[
        str | None,
        typer.Option(
            "--ledger", metavar="FILE", help="Keep what was paid, so that nothing is paid twice after a restart."
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            metavar="NAME",
            help="Name by which requests may address it, beside localhost; on loopback no other is taken.",
        ),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="NAME=X",
            help="For tests: go wrong on purpose (drop, too_many, error: shares of the queries; nan, extra_dim: 1).",
        ),
    ] = None,
) -> None:
    """Serve a teacher over HTTP until Ctrl-C; a token, where one is wanted, is read from VL2V_TEACHER_TOKEN."""
    from trainables.teacher.fingerprint import teacher_fingerprint
    from trainables.teacher.http.wire import TOKEN_VARIABLE
    from trainables.teacher.names import check_teacher, teacher_kind

    token = os.environ.get(TOKEN_VARIABLE)
    if host not in LOOPBACK and not token:
        raise UserError(f"a teacher that is served on {host} wants a token in {TOKEN_VARIABLE}")
    if not 0 <= port <= 65535:
        raise UserError(f"--port is 0 to 65535, got {port}")
    if threads < 1 or image_size < 1:
        raise UserError(f"--threads and --image-size are 1 or more, got {min(threads, image_size)}")
    if image_size > LARGEST_IMAGE_SIZE:
        raise UserError(f"--image-size is at most {LARGEST_IMAGE_SIZE:,} pixels, got {image_size}")
    if teacher_kind(name) == "remote":
        raise UserError("a remote teacher is served elsewhere already; give demo or an open_clip teacher")
    faults, hosts = _faults(fault or []), allowed_host or []
    if wrong := [name for name in hosts if re.fullmatch(r"(\*\.)?[\w.-]+|\[[0-9a-fA-F:.]+\]", name) is None]:
        raise UserError(f"--allowed-host is a host's name, *.DOMAIN or [ADDRESS], without a port; got {wrong[0]!r}")
    place = Path(ledger).expanduser() if ledger else None
    if place is not None:
        _check_file("--ledger", place)
    check_teacher(name)
    fingerprint = teacher_fingerprint(name)
    from trainables.teacher.http.server import ANY_HOST, LOOPBACK_HOSTS, Faults, serve
    from trainables.teacher.open import open_teacher

    opened = open_teacher(name, image_size=image_size)
    serve(
        opened,
        host=host,
        port=port,
        fingerprint=fingerprint,
        token=token,
        image_size=None if name == "demo" else image_size,
        ledger=place,
        faults=Faults(**faults),
        # Elsewhere a token keeps strangers away, and names of this machine are not known here.
        hosts=(*LOOPBACK_HOSTS, *hosts) if host in LOOPBACK or hosts else ANY_HOST,
        threads=threads,
    )


def _check_file(option: str, file: Path) -> None:
    """Raises `UserError` where a file cannot be made or written; a look."""
    folder = file.absolute().parent
    if file.is_dir() or not folder.is_dir():
        raise UserError(f"{option} is a file in a folder that is there, got {file}")
    if not os.access(file if file.exists() else folder, os.W_OK):
        raise UserError(f"{option} {file} cannot be written")


def _faults(given: list[str]) -> dict[str, Any]:
    names: dict[str, Callable[[str], Any]] = {
        "drop": float,
        "too_many": float,
        "error": float,
        "seed": int,
        "nan": _yes,
        "extra_dim": _yes,
    }
    faults: dict[str, Any] = {}
    for item in given:
        name, _, value = item.partition("=")
        if name not in names:
            raise UserError(f"--fault is one of {', '.join(names)} as NAME=X, got {item!r}")
        try:
            faults[name] = names[name](value)
        except ValueError:
            raise UserError(f"--fault {name} wants a number, got {value!r}") from None
    return faults


def _yes(value: str) -> bool:
    return bool(int(value))
