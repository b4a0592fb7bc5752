"""Two workers that share every batch unevenly, in two processes over gloo, without Ray."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.support.plain_data import mean
from tests.support.plain_fold import PlainFold
from tests.support.two_workers import run_in_two_goes, shared_job
from trainables.storage.fold_folder import FoldFolder

ROOT = Path(__file__).resolve().parent.parent.parent
ROUNDING = {"rel": 2e-4, "abs": 2e-5}


# torch 2.13 renames an argument of DistributedDataParallel that older ones do not know by the new name.
@pytest.mark.filterwarnings("ignore:`broadcast_buffers` is deprecated:FutureWarning")
def test_uneven_shares_make_the_whole_batch_and_stop_at_the_dead_valley_for_good(tmp_path: Path) -> None:
    job = shared_job(tmp_path)
    plain = PlainFold(job, workers=2).run()
    align, distill = plain.stages
    dead = distill.evaluated[-1]
    assert plain.valley.died is not None
    assert dead < 18, "there would be more steps"

    arguments = ("-m", "tests.support.two_workers", str(tmp_path), str(dead))
    other = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        result = run_in_two_goes(0, tmp_path, dead)
        _, complaint = other.communicate(timeout=60)
        assert other.returncode == 0, complaint
    finally:
        other.kill()
        other.communicate()

    lines = list(FoldFolder(job.folder).read_journal())
    losses = [line["loss"] for line in lines if line["kind"] == "step"]
    assert losses == pytest.approx([*align.losses, *distill.losses], **ROUNDING)
    entropies = [line["cross_entropy"] for line in lines if line["kind"] == "evaluation"]
    assert entropies == pytest.approx([*align.cross_entropies, *distill.cross_entropies], **ROUNDING)
    assert [stage["steps"] for stage in result["stages"]] == [len(align.losses), len(distill.losses)]
    assert result["chosen"] == pytest.approx(plain.chosen)

    plain.student.load(load_file(FoldFolder(job.folder).student))
    validation, (test, _) = plain.validation(), plain.test()
    assert result["source_validation"]["cross_entropy"] == pytest.approx(mean(validation.cross_entropy), **ROUNDING)
    told = FoldFolder(job.folder).read_test()
    assert told is not None
    assert told["balanced_accuracy"] == pytest.approx(test.balanced_accuracy)
    assert told["num_images"] == test.num_images
    shown = sum(len(images) for stage in plain.stages for images in stage.images)
    assert result["teacher_queries"]["images"] == shown
