"""One fold by itself: its images and weights are checked, and it gets its key and its folder (`execution.one_fold`)."""

from __future__ import annotations

from orchestrator.execution.fold_jobs import FoldJobs
from orchestrator.execution.preflight import check_data
from orchestrator.plan.asked import check_steps
from orchestrator.run_options import RunOptions, absolute_data_root
from orchestrator.search.specs import fold_spec
from orchestrator.store.sweep_folder import SweepFolder
from search_spaces.folds import Fold
from search_spaces.hyperparameters import Hyperparameters
from trainables.jobs import FoldJob


def prepare_fold(
    fold: Fold,
    *,
    method: str,
    hyperparameters: Hyperparameters,
    store: SweepFolder,
    options: RunOptions | None = None,
) -> FoldJob:
    """Check a fold's images and weights, and give it its key and its folder.

    Raises:
        UserError: the benchmark, the domain, the images or the weights are not there; fewer steps than an interval.
    """
    options = options or RunOptions()
    root, benchmark = absolute_data_root(options.data_root), options.benchmark(fold.benchmark)
    for name in fold.test_domains:
        benchmark.check_domain(name)
    check_steps(benchmark, hyperparameters, method)
    store.check_writable()
    manifests = check_data({benchmark.name: benchmark}, store=store, data_root=root)
    spec = fold_spec(fold, method=method, hyperparameters=hyperparameters, data_manifest=manifests[benchmark.name])
    jobs = FoldJobs(
        store=store,
        benchmarks={fold.benchmark: benchmark},
        data_root=root,
        resources=options.resources,
        query_budget=options.query_budget,
    )
    if options.query_budget is not None:
        store.mirrors.fetch(store.folds.embeddings_folder)
    return jobs.job(spec)
