"""Random configuration files: each becomes a sweep, or one short line; a name that is written arrives as written."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from orchestrator.cli.sweep_arguments import SweepArguments, build_request
from orchestrator.cluster.cluster_file import check_cluster_file
from search_spaces.errors import UserError
from search_spaces.sweeps import Sweep
from tests.fuzz.tally import Tally, main, tally

GOOD = """\
sweep: &s
  name: {name}
  benchmarks: [icons, PACS]
  methods: [erm, "vl2v_adip"]
  seeds: 2
  zero_shot: off
hyperparameters: {{swad: {{segments: off}}, align: &a {{lr: 1e-4}}, distill: *a}}
benchmark_hyperparameters: {{PACS: {{image_size: 32}}}}
resources: {{workers: 1}}
"""
PIECES = (
    *("*s", "&s ", "<<: *a", "!!int 3", "[", "]", "{", "}", ": ", "- ", "? ", "'", '"', "|", "#", "\t", "\n", "---\n"),
    *("off", "010", "1:30", "2024_01", "null", "~", "1e999", "9" * 5000, "é", "\x00", "\ufeff", "x" * 70_000),
    *("[" * 2000, "seeds: 3\n", "sweep: {}\n", "PACS", "12.5"),
)
NAMES = ("off", "no", "010", "12:30", "2024_01", "1e5", "0o7", ".5", "~x", "2024-01-31", "yes", "=", "0x1f")
ENCODINGS = ("latin-1", "utf-16", "utf-8-sig", "utf-32")
LONGEST = 2000
"""Characters of a line that is still short."""


def tried(inputs: int, *, seed: int) -> Tally:
    """What came of so many files."""
    return tally(_case, inputs, seed=seed)


def _case(chance: random.Random) -> str:
    name = chance.choice(NAMES)
    text, damages = GOOD.format(name=name), chance.randint(0, 3)
    for _ in range(damages):
        text = _damaged(text, chance)
    data = text.encode(errors="replace")
    if chance.random() < 0.1:
        data, damages = text.encode(chance.choice(ENCODINGS), errors="replace"), 1
    elif chance.random() < 0.1:
        data, damages = bytes(chance.randrange(256) for _ in range(chance.randrange(200))), 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "c.yaml")
        file.write_bytes(data)
        told = "".join(finding.text for finding in check_cluster_file(str(file)))
        if "\n" in told:
            return "a cluster file's finding has more than one line"
        try:
            sweep = build_request(SweepArguments(config=str(file))).sweep
        except UserError as error:
            return _wrong_line(str(error), damages)
    return _wrong_sweep(sweep, name, damages)


def _damaged(text: str, chance: random.Random) -> str:
    place = chance.randrange(len(text) + 1)
    kind = chance.randrange(4)
    if kind == 0:
        return text[:place] + chance.choice(PIECES) + text[place:]
    if kind == 1:
        return text[:place] + text[place + chance.randint(1, 9) :]
    if kind == 2:
        return text[:place]
    lines = text.splitlines(keepends=True) or [""]
    lines.insert(chance.randrange(len(lines) + 1), chance.choice(lines))
    return "".join(lines)


def _wrong_line(line: str, damages: int) -> str:
    if not damages:
        return f"a good file is refused: {line}"
    return "" if "\n" not in line and len(line) < LONGEST else f"{len(line)} characters: {line[:200]!r}"


def _wrong_sweep(sweep: Sweep, name: str, damages: int) -> str:
    if damages:
        return ""
    found = (sweep.name, sweep.seeds, sweep.zero_shot, sweep.hyperparameters.swad.segments)
    return "" if found == (name, 2, False, "off") else f"read as {found}"


if __name__ == "__main__":
    main(tried, "configurations")
