"""What the main job costs at a real size: GPT-2 124M, FSDP2 on two against one process.

Run ``python -m tests.benchmarks.bench_real_size``: each stage of ``ttrace check`` by
itself, with its time, bytes on disk and memory, then what fewer kinds and modules cost.
It takes minutes, 12 GiB of memory and 20 GB of disk, which are freed at the end.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import rich.console
import rich.table

from tests.benchmarks import training_clock

SCRIPT = "ttrace.examples.torch_native.train"
NUM_NOISE_RUNS = 3
FILTERS = {
    "gradients and updates": "--kinds main_grad,grad_norm,updated_param",
    "activations": "--kinds input,output,loss",
    "what the layers return": "--kinds output --modules 'transformer.h.*'",
    "one layer": "--modules 'transformer.h.0*'",
}
"""Options of ``ttrace record`` that a user tries where everything is too much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One row.

    Attributes:
        name: What ran.
        wall_s: Seconds of the whole command.
        cpu_s: Seconds of all its processors, which other programs disturb less.
        traced_s: Seconds of the block that is traced, of the slowest rank; None where
            nothing was trained.
        num_bytes: On disk.
        peak_bytes: Memory of the largest process; of a command on traces without the
            files that it maps, which the system takes back where it needs room.
        status: Exit status of the command.
    """

    name: str
    wall_s: float
    cpu_s: float
    traced_s: float | None = None
    num_bytes: int = 0
    peak_bytes: int = 0
    status: int = 0


class Bench:
    """Runs stages in a folder, and keeps their rows.

    Args:
        folder: For the traces.
        model: Options of the training.
    """

    def __init__(self, folder: Path, model: Sequence[str]):
        self._folder = folder
        self._model = list(model)
        self.stages: list[Stage] = []

    def train(
        self,
        name: str,
        *,
        num_processes: int = 1,
        trace: str | None = None,
        options: str = "",
    ) -> Stage:
        """Trains, and records it.

        Args:
            name: Of the row.
            num_processes: FSDP2 on so many; 1 for plain torch.
            trace: Folder of the trace; None for a training without ttrace.
            options: Of ``ttrace record``.
        """
        training = [sys.executable, "-m", SCRIPT, *self._model]
        if num_processes > 1:
            launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node"]
            training[1:2] = ["-m", *launcher, str(num_processes), "-m"]
            training += ["--dp", "fsdp2"]
        training += ["--patch", training_clock.__file__]
        out = None if trace is None else self._folder / trace
        if out is not None:
            recording = _ttrace("record", "--out", out, *shlex.split(options), "--")
            training = [*recording, *training]
        return self._run(name, training, out)

    def command(self, name: str, *arguments: str | Path) -> Stage:
        """Runs a command of ttrace on the traces."""
        return self._run(name, _ttrace(*arguments), None)

    def drop(self, traces: Iterable[str]) -> None:
        """Deletes traces."""
        for trace in traces:
            shutil.rmtree(self._folder / trace)

    def path(self, name: str) -> Path:
        return self._folder / name

    def _run(self, name: str, command: Sequence[str], out: Path | None) -> Stage:
        log, clock = self._folder / "log.txt", self._folder / "clock.txt"
        clock.write_text("")
        environment = {**os.environ, training_clock.FILE: str(clock)}
        started = time.perf_counter()
        with log.open("w") as file:
            process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
            own_peak = _Peak(process.pid)
            _, code, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(code)
        clocks = [line.split() for line in clock.read_text().splitlines()]
        stage = Stage(
            name=name,
            wall_s=wall_s,
            cpu_s=usage.ru_utime + usage.ru_stime,
            traced_s=max((float(seconds) for seconds, _ in clocks), default=None),
            num_bytes=0 if out is None else _size(out),
            peak_bytes=max((int(peak) for _, peak in clocks), default=own_peak.end()),
            status=process.returncode,
        )
        if stage.status != 0:
            lines = log.read_text().splitlines()[-30:]
            print(f"{name}: exit status {stage.status}", *lines, sep="\n")
        self.stages.append(stage)
        return stage


class _Peak(threading.Thread):
    """Looks at what memory a process has of its own, until it is gone.

    Args:
        process_id: The process.
    """

    def __init__(self, process_id: int):
        super().__init__(daemon=True)
        self._status = Path(f"/proc/{process_id}/status")
        self._peak_kb = 0
        self.start()

    def run(self) -> None:
        while True:
            try:
                lines = self._status.read_text().splitlines()
            except OSError:
                return
            own = [line.split()[1] for line in lines if line.startswith("RssAnon")]
            if not own:  # it has ended
                return
            self._peak_kb = max(self._peak_kb, int(own[0]))
            time.sleep(0.02)

    def end(self) -> int:
        """The largest number of bytes that was seen."""
        self.join()
        return self._peak_kb * 1024


def run(
    model: Sequence[str], folder: Path, filters: dict[str, str] = FILTERS
) -> list[Stage]:
    """All stages; the first two are the trainings without ttrace.

    Args:
        model: Options of the training.
        folder: For the traces.
        filters: Options of ``ttrace record`` for a row each, by its name.
    """
    bench = Bench(folder, model)
    bench.train("one process, not traced")
    bench.train("two processes, not traced", num_processes=2)
    bench.train("reference", trace="reference")
    noise = [f"noise-{seed}" for seed in range(1, 1 + NUM_NOISE_RUNS)]
    for seed, name in enumerate(noise, start=1):
        bench.train(f"noise run {seed}", trace=name, options=f"--perturb {seed}")
    tolerances = bench.path("tolerance.json")
    reference = bench.path("reference")
    bench.command(
        "tolerances",
        *("tolerance", reference, *map(bench.path, noise), "--out", tolerances),
    )
    bench.drop(noise)
    bench.train("candidate", num_processes=2, trace="candidate")
    bench.command(
        "compare",
        *("compare", reference, bench.path("candidate"), "--tolerance", tolerances),
    )
    bench.drop(["candidate", "reference"])
    for name, options in filters.items():
        bench.train(
            f"candidate, {name}", num_processes=2, trace="filtered", options=options
        )
        bench.drop(["filtered"])
    return bench.stages


def table(stages: Sequence[Stage]) -> rich.table.Table:
    """The rows; ratios are to the training without ttrace on as many processes."""
    shown = rich.table.Table(
        *("stage", "command", "CPU", "traced", "ratio", "MB", "memory")
    )
    one, two, *_ = stages
    for stage in stages:
        plain = two if stage.name.startswith(("two", "candidate")) else one
        seconds = stage.traced_s
        ratio = None
        if seconds is not None and plain.traced_s is not None:
            ratio = seconds / plain.traced_s
        shown.add_row(
            stage.name,
            f"{stage.wall_s:.1f} s",
            f"{stage.cpu_s:.1f} s",
            "" if seconds is None else f"{seconds:.1f} s",
            "" if ratio is None else f"{ratio:.1f}",
            f"{stage.num_bytes / 1e6:.0f}" if stage.num_bytes else "",
            f"{stage.peak_bytes / 1e9:.1f} GB",
        )
    return shown


def _ttrace(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "ttrace", *map(str, arguments)]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="hf-gpt2-124m")
    parser.add_argument("--batch", type=int, default=2, help="samples of a step")
    parser.add_argument("--folder", type=Path, help="for the traces, removed again")
    args = parser.parse_args()
    options = f"--model {args.model} --train-iters 1 --micro-batch-size 1"
    options += f" --global-batch-size {args.batch}"
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        stages = run(options.split(), Path(folder))
    rich.console.Console(width=100).print(table(stages))
    return 0 if all(stage.status == 0 for stage in stages) else 1


if __name__ == "__main__":
    sys.exit(main())
