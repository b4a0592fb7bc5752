"""A store whose finished folds are written by hand, test numbers included."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from orchestrator.plan.plan import make_plan
from orchestrator.report.report import build_report
from orchestrator.store.records import PlannedFold, SelectedTrial
from orchestrator.store.sweep_folder import open_store
from search_spaces.benchmarks import BENCHMARKS, Benchmark, Domain
from search_spaces.fold_groups import FoldGroup
from search_spaces.hyperparameters import Fold, FoldSpec, Hyperparameters
from search_spaces.sweeps import Sweep
from trainables.storage.json_files import write_json

MINE = Benchmark(
    name="mine",
    folder="mine",
    domains=tuple(Domain(name=name, letter=name) for name in ("one", "two")),
    class_names=("x", "y"),
)


KNOWN = {**BENCHMARKS, "mine": MINE}


class Written:
    """A store filled by hand: `ood` of a fold is what the test says it is."""

    def __init__(self, out: Path, sweep: Sweep) -> None:
        self.store, self.sweep = open_store(out), sweep
        self.plan = make_plan(sweep, KNOWN)
        groups = [
            FoldGroup(
                name=group.name,
                benchmark=group.benchmark,
                method=group.method,
                test_domains=group.test_domains,
                trials=group.trials,
                seeds=group.seeds,
            )
            for group in self.plan.groups
        ]
        self.store.claim(sweep, groups, dict.fromkeys(sweep.benchmarks, "manifest"))

    def finish(
        self,
        group: str,
        domain: str,
        seed: int,
        ood: float,
        *,
        trial: int = 0,
        test_images: int | None = None,
        **changes: Any,
    ) -> PlannedFold:
        """Write what a finished fold leaves behind; changes replace hyperparameters or fields of the spec.

        Its test part has as many images as the papers' copy of the benchmark, unless `test_images` says otherwise.
        """
        benchmark, method, _ = group.split("/")
        hyperparameters = self.sweep.hyperparameters_for(benchmark)
        # Trials differ in something, as they do in a search.
        distill = replace(hyperparameters.distill, lr=hyperparameters.distill.lr * (1 + trial))
        hyperparameters = replace(hyperparameters, distill=distill)
        own = {name: changes.pop(name) for name in list(changes) if hasattr(hyperparameters, name)}
        queries = changes.pop("queries", {})
        last_step = changes.pop("last_step", {"accuracy": {domain: ood / 2}, "out_accuracy": {domain: ood}})
        spec = FoldSpec(
            fold=Fold(benchmark=benchmark, test_domains=(domain,), seed=seed),
            method=method,
            hyperparameters=replace(hyperparameters, **own),
            **{
                "data_manifest": f"manifest of {benchmark}",
                "teacher_fingerprint": "" if method == "erm" else "t",
                **changes,
            },
        )
        planned = PlannedFold(fold=spec.fold, key=spec.key)
        folder = self.store.folds.fold(planned.key)
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.journal.write_text("{}\n")
        rule = "zero_shot" if method == "zero_shot" else "swad"
        write_json(folder.spec, spec.to_mapping())
        test = {
            "accuracy": {domain: ood},
            "balanced_accuracy": {domain: max(0.0, ood - 0.1)},
            "out_accuracy": {domain: ood},
        }
        num_images = {domain: images_in_test_part(benchmark, domain) if test_images is None else test_images}
        write_json(folder.test, {**test, "num_images": num_images, "last_step": last_step})
        write_json(
            folder.result,
            {
                "key": planned.key,
                "status": "done",
                "method": method,
                "fold": asdict(planned.fold),
                "source_validation": {"accuracy": 0.9 * ood, "cross_entropy": 1.0, "domains": {}},
                "chosen": {"rule": rule, "step": 4},
                "teacher_queries": {"images": 100, "texts": 7, **queries},
                "seconds": 1.0,
                "started": 0.0,
                "finished": 1.0,
            },
        )
        self._replace(group, planned, trial)
        return planned

    def _replace(self, group: str, planned: PlannedFold, trial: int) -> None:
        """Where the selected trial has this fold already, it has it as it is now."""
        selected = self.store.records.selected(group)
        if selected is not None and selected.number == trial:
            folds = tuple(planned if one.fold == planned.fold else one for one in selected.folds)
            self.store.records.write_selected(replace(selected, folds=folds))

    def select(self, group: str, folds: list[PlannedFold], number: int = 0) -> None:
        self.store.records.write_selected(SelectedTrial(group=group, number=number, folds=tuple(folds)))

    def fill(self, accuracies: dict[str, list[float]], *, apart: float = 0.1, **changes: Any) -> None:
        """Select a trial in every group with one accuracy per seed, by method; domains differ by `apart`, averages not.

        The accuracies are those of the first domain where domains differ by 0.1.
        """
        for group in self.plan.groups:
            known = KNOWN[group.benchmark]
            middle = (len(known.domains) - 1) / 2
            folds = [
                self.finish(
                    group.name,
                    domain,
                    seed,
                    accuracy + 0.1 * middle + apart * (known.domain_index(domain) - middle),
                    **changes,
                )
                for seed, accuracy in enumerate(accuracies[group.method])
                for domain in group.test_domains
            ]
            self.select(group.name, folds)


def images_in_test_part(benchmark: str, domain: str) -> int:
    """Images in the 80% part of a domain of the papers' copy."""
    (images,) = [known.num_images for known in KNOWN[benchmark].domains if known.name == domain]
    return 0 if images is None else images - images // 5


def written_sweep(**changes: Any) -> Sweep:
    settings: dict[str, Any] = {"benchmarks": ("PACS",), "methods": ("vl2v_adip", "erm"), "seeds": 3}
    return Sweep(**{**settings, **changes})


REPRODUCED = {"vl2v_adip": 0.80, "vl2v_sd": 0.817, "erm": 0.753, "kd": 0.765, "zero_shot": 0.815}
"""First domain's accuracies that make each method's average on PACS the published one, within the tolerance."""


def status(tmp_path: Path, method: str, benchmark: str = "PACS", fills: Any = None, **hyperparameters: Any) -> str:
    """What the ledger says of a method whose average is the published one."""
    default = Hyperparameters()
    nested = {name: replace(getattr(default, name), **value) if isinstance(value, dict) else value
              for name, value in hyperparameters.items()}  # fmt: skip
    asked = written_sweep(
        benchmarks=(benchmark,), methods=(method,), zero_shot=False, seeds=1, hyperparameters=replace(default, **nested)
    )
    written = Written(tmp_path, asked)
    written.fill({method: [REPRODUCED[method]]}, apart=0.01, **(fills or {}))
    return next(entry.status for entry in build_report(written.store).claims if entry.verified is not None)
