"""``python -m ttrace.examples.layout_matrix [PATTERN...]``: correct layouts must pass.

With ``--observer`` tracing is tested instead: every run computes the same bits with it
and without it. Prints one row per case; exit code 0 if all pass, 1 if any does not, 2
if no case has a name that matches.
"""

import argparse
import fnmatch
import importlib.metadata
import importlib.util
import itertools
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ttrace.compare.backend import load_backend
from ttrace.examples.layout_matrix.cases import Case, all_cases
from ttrace.examples.layout_matrix.huggingface_cases import huggingface_cases
from ttrace.examples.layout_matrix.native_cases import native_cases
from ttrace.examples.layout_matrix.observer import Observation, observe, observed_runs
from ttrace.examples.layout_matrix.releases import left_out_reason
from ttrace.examples.layout_matrix.runner import CaseResult, run_case
from ttrace.examples.main_job import MainJob
from ttrace.examples.worker_pool import WorkerPools


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the cases whose names match, and prints as it goes."""
    parser = argparse.ArgumentParser(prog="python -m ttrace.examples.layout_matrix")
    parser.add_argument(
        "patterns",
        nargs="*",
        metavar="PATTERN",
        help="of case names, model/layout/precision/samples, e.g. 'moe*/*/fp32/*'",
    )
    parser.add_argument(
        "--observer",
        action="store_true",
        help="run each layout, and each reference, with and without tracing: loss, "
        "gradients, parameters and number of collectives must be the same bits",
    )
    args = parser.parse_args(argv)
    patterns = args.patterns or ["*"]
    cases = [
        case
        for case in (*all_cases(), *huggingface_cases(), *native_cases())
        if any(fnmatch.fnmatchcase(case.name, pattern) for pattern in patterns)
    ]
    cases = _runnable(cases) if cases else []
    if not cases:
        print(f"no case matches {' '.join(patterns)}", file=sys.stderr)
        return 2
    return _observe_all(cases) if args.observer else _compare_all(cases)


def _runnable(cases: Sequence[Case]) -> list[Case]:
    """The cases that the installed packages can pass; says which they cannot."""
    version = importlib.metadata.version("megatron-core")
    runnable = []
    for case in cases:
        reason = left_out_reason(case.name, version)
        if reason is not None:
            print(f"left out: {case.name}; megatron-core {version} {reason}")
        elif case.needs and importlib.util.find_spec(case.needs) is None:
            print(f"left out: {case.name}; {case.needs} is not installed")
        else:
            runnable.append(case)
    return runnable


def _by_package(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    """Together what shares processes: Megatron-Core changes those that import it."""
    for _, group in itertools.groupby(cases, lambda case: case.package):
        yield list(group)


def _compare_all(cases: Sequence[Case]) -> int:
    started = time.monotonic()
    print(f"{'case':<45} {'verdict':<9} compared skipped unmatched margin seconds")
    results = []
    backend = load_backend("numpy")
    for group in _by_package(cases):
        with MainJob(backend) as job:
            for case in group:
                results.append(run_case(case, job))
                print(row(results[-1]), flush=True)
    for result in results:
        if not result.passed:
            print(f"\n{result.name}: {result.reason}")
    print(f"\n{summary(results)}, {time.monotonic() - started:.0f} s")
    return 0 if all(result.passed for result in results) else 1


def _observe_all(cases: Sequence[Case]) -> int:
    started = time.monotonic()
    print(f"{'run':<45} {'tracing':<9} ranks checks collectives tensors seconds")
    results = []
    for group in _by_package(cases):
        with WorkerPools() as pools, tempfile.TemporaryDirectory() as folder:
            for number, run in enumerate(observed_runs(group)):
                trace = Path(folder) / f"run-{number}"
                results.append(observe(run, pools.of_size(run.world_size), trace))
                print(observer_row(results[-1]), flush=True)
                shutil.rmtree(trace, ignore_errors=True)
    for result in results:
        if not result.passed:
            print(f"\n{result.name}: {result.reason}")
    print(f"\n{observer_summary(results)}, {time.monotonic() - started:.0f} s")
    return 0 if all(result.passed for result in results) else 1


def observer_row(result: Observation) -> str:
    """One line of the observer test."""
    return (
        f"{result.name:<45} {'neutral' if result.passed else 'CHANGES':<9} "
        f"{result.num_ranks:>5} {result.num_checks:>6} {result.num_collectives:>11} "
        f"{result.num_tensors:>7} {result.seconds:>7.1f}"
    )


def observer_summary(results: Sequence[Observation]) -> str:
    """The figures in one line."""
    num_passed = sum(result.passed for result in results)
    num_checks = sum(result.num_checks for result in results)
    return (
        f"{num_passed} of {len(results)} runs are the same with and without tracing; "
        f"{num_checks} checksums, counts and losses compared"
    )


def row(result: CaseResult) -> str:
    """One line of the table."""
    margin = "-" if result.margin is None else f"{result.margin:.3f}"
    return (
        f"{result.name:<45} {result.verdict:<9} {result.num_compared:>8} "
        f"{result.num_skipped:>7} {result.num_unmatched:>9} {margin:>6} "
        f"{result.seconds:>7.1f}"
    )


def summary(results: Sequence[CaseResult]) -> str:
    """The figures in one line."""
    passed = sum(result.passed for result in results)
    text = f"{passed} of {len(results)} layouts pass"
    largest = max(
        (result for result in results if result.margin is not None),
        key=lambda result: result.margin or 0.0,
        default=None,
    )
    if largest is not None:
        text += f"; largest margin {largest.margin:.3f} ({largest.name}, {largest.at})"
    return text


if __name__ == "__main__":
    sys.exit(main())
