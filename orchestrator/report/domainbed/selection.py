"""DomainBed's three methods of model selection over its records.

DomainBed's record is a mapping with `step`, `args` (`trial_seed`, `dataset`, `algorithm`, `test_envs`, `hparams_seed`)
and `env{i}_in_acc`, `env{i}_out_acc` for every domain i: "in" is the 80% part, "out" the 20% part. Its "trial seed" is
our seed, its "hparams seed" our trial. Ties, NaN, missing pairs and duplicates go as in its `model_selection.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, NamedTuple

from orchestrator.search.selection import mean, nan_last

Record = Mapping[str, Any]


class Accuracies(NamedTuple):
    """What a selection method makes of one run."""

    validation: float
    """What the selection goes by."""
    test: float
    """Accuracy on the test domain's 80% part at the selected step."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectionMethod:
    """One of DomainBed's three ways to choose a step and a configuration."""

    key: str
    title: str
    """How DomainBed's tables call it."""
    run_accuracies: Callable[[Sequence[Record]], Accuracies | None]
    """Accuracies of one run: all records of one hparams seed, pair records among them. None: nothing to choose."""

    def ranking(self, records: Iterable[Record]) -> list[tuple[Any, Accuracies]]:
        """(hparams seed, accuracies) from best to worst, over the records of one seed, dataset, algorithm, domain."""
        runs: dict[Any, list[Record]] = {}
        for record in records:
            runs.setdefault(record["args"]["hparams_seed"], []).append(record)
        ranked = [(seed, self.run_accuracies(runs[seed])) for seed in sorted(runs)]
        chosen = [(seed, accuracies) for seed, accuracies in ranked if accuracies is not None]
        return sorted(chosen, key=lambda item: nan_last(item[1].validation))[::-1]

    def sweep_accuracy(self, records: Iterable[Record]) -> float | None:
        """Test accuracy of the best configuration; None where there is nothing to choose."""
        ranked = self.ranking(records)
        return ranked[0][1].test if ranked else None


def _training_domain(records: Sequence[Record]) -> Accuracies | None:
    """The step with the best mean accuracy on the source domains' 20% parts; the first of equals."""
    steps = [_training_domain_step(record) for record in _single_test_domain(records)]
    return max(steps, key=lambda step: step.validation) if steps else None


def _training_domain_step(record: Record) -> Accuracies:
    test = record["args"]["test_envs"][0]
    sources = [_accuracy(record, domain, "out") for domain in range(_num_domains(record)) if domain != test]
    return Accuracies(validation=mean(sources), test=_accuracy(record, test, "in"))


def _leave_one_domain_out(records: Sequence[Record]) -> Accuracies | None:
    """The step with the best mean accuracy on each source domain in turn left out too (pair records)."""
    by_step: dict[Any, list[Record]] = {}
    for record in records:
        by_step.setdefault(record["step"], []).append(record)
    steps = [_leave_one_domain_out_step(by_step[step]) for step in sorted(by_step)]
    known = [step for step in steps if step is not None]
    return max(known, key=lambda step: step.validation) if known else None


def _leave_one_domain_out_step(records: Sequence[Record]) -> Accuracies | None:
    singles = _single_test_domain(records)
    if len(singles) != 1:
        return None
    test = singles[0]["args"]["test_envs"][0]
    left_out: dict[int, float] = {}
    for record in records:
        if len(record["args"]["test_envs"]) == 2:
            (domain,) = set(record["args"]["test_envs"]) - {test}
            left_out[domain] = _accuracy(record, domain, "in")
    sources = [domain for domain in range(_num_domains(records[0])) if domain != test]
    if any(domain not in left_out for domain in sources):
        return None
    validation = mean([left_out[domain] for domain in sources])
    return Accuracies(validation=validation, test=_accuracy(singles[0], test, "in"))


def _oracle(records: Sequence[Record]) -> Accuracies | None:
    """The last step, judged by the test domain's own 20% part; the later of two records of that step."""
    singles = _single_test_domain(records)
    if not singles:
        return None
    test = singles[0]["args"]["test_envs"][0]
    last = sorted(singles, key=lambda record: nan_last(record["step"]))[-1]
    return Accuracies(validation=_accuracy(last, test, "out"), test=_accuracy(last, test, "in"))


SELECTION_METHODS: dict[str, SelectionMethod] = {
    method.key: method
    for method in (
        SelectionMethod(
            key="source_validation", title="training-domain validation set", run_accuracies=_training_domain
        ),
        SelectionMethod(
            key="leave_one_domain_out",
            title="leave-one-domain-out cross-validation",
            run_accuracies=_leave_one_domain_out,
        ),
        SelectionMethod(key="oracle", title="test-domain validation set (oracle)", run_accuracies=_oracle),
    )
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordGroup:
    """Records that bear on one cell and seed; a pair record bears on two."""

    trial_seed: Any
    dataset: str
    algorithm: str
    test_env: int
    records: tuple[Record, ...]


def group_records(records: Iterable[Record]) -> list[RecordGroup]:
    """Group records by (trial seed, dataset, algorithm, test domain), in order of first appearance."""
    groups: dict[tuple[Any, str, str, int], list[Record]] = {}
    for record in records:
        settings = record["args"]
        for domain in settings["test_envs"]:
            key = (settings["trial_seed"], settings["dataset"], settings["algorithm"], domain)
            groups.setdefault(key, []).append(record)
    return [
        RecordGroup(trial_seed=seed, dataset=dataset, algorithm=algorithm, test_env=domain, records=tuple(members))
        for (seed, dataset, algorithm, domain), members in groups.items()
    ]


def _single_test_domain(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if len(record["args"]["test_envs"]) == 1]


def _num_domains(record: Record) -> int:
    return next(domain for domain in count() if f"env{domain}_out_acc" not in record)


def _accuracy(record: Record, domain: int, part: str) -> float:
    return float(record[f"env{domain}_{part}_acc"])
