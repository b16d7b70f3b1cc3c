"""A user's own Megatron script needs fewer than ten changed lines to be traced.

The two scripts of ``examples/megatron_quickstart`` are compared line by line. The
traced one then runs under torchrun: tensor parallelism passes; without the reduction of
gradients, which Megatron-LM's own quick start once lacked (#1685), data parallelism
does not.
"""

import difflib
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

pytest.importorskip("megatron.core")

from ttrace.cli.main import main  # noqa: E402
from ttrace.ir.kinds import Kind  # noqa: E402
from ttrace.report.model import Outcome, Report  # noqa: E402
from ttrace.store.reader import open_trace  # noqa: E402

EXAMPLE = ROOT / "examples" / "megatron_quickstart"
PLAIN = (EXAMPLE / "plain.py").read_text()
TRACED = (EXAMPLE / "traced.py").read_text()

REDUCTION = "    config.finalize_model_grads_func = finalize_model_grads\n"
TP2 = ("--tensor-model-parallel-size", "2")
OPTIMIZER = "get_megatron_optimizer(OptimizerConfig(lr=1e-3), [chunk])"
LAST_LINE = "    torch.distributed.destroy_process_group()\n"


def torchrun(script: str | Path, *options: str, num_processes: int) -> list[str]:
    launcher = ["-m", "ttrace.examples.megatron_gpt.cpu_launcher", str(script)]
    run = ["-m", "torch.distributed.run", "--standalone"]
    number = ["--nproc-per-node", str(num_processes)]
    return [sys.executable, *run, *number, *launcher, *options]


def changed(folder: Path, old: str, new: str) -> Path:
    """The traced script, with one more change."""
    assert TRACED.count(old) == 1
    script = folder / "script.py"
    script.write_text(TRACED.replace(old, new))
    return script


def test_fewer_than_ten_lines_are_changed():
    def code(text: str) -> list[str]:
        return text.split('"""\n', 2)[2].splitlines()  # after the docstring

    changes = [
        line
        for line in difflib.ndiff(code(PLAIN), code(TRACED))
        if line.startswith(("- ", "+ "))
    ]
    assert "ttrace" not in PLAIN.split('"""\n', 2)[2]
    assert 0 < len(changes) < 10, changes


@pytest.fixture(scope="module")
def checked(tmp_path_factory) -> tuple[int, Path]:
    """Exit code and folder of ``ttrace check``: one process, and two of tp."""
    out = tmp_path_factory.mktemp("check") / "out"
    script = EXAMPLE / "traced.py"
    code = main(
        [
            *("check", "--out", str(out), "--backend", "numpy"),
            *("--reference", shlex.join(torchrun(script, num_processes=1))),
            *("--candidate", shlex.join(torchrun(script, *TP2, num_processes=2))),
        ]
    )
    return code, out


def read_report(path: Path) -> Report:
    return Report.from_json(json.loads(path.read_text()))


def test_tensor_parallelism_passes(checked):
    code, out = checked
    report = read_report(out / "report.json")
    assert (code, report.verdict) == (0, Outcome.PASS), report.summary
    assert report.counts.failed == report.counts.unmatched == 0
    assert report.counts.passed > 1500
    ids = {tensor.id for tensor in report.tensors if tensor.status == "passed"}
    last = "step1/decoder.layers.1.mlp.linear_fc2"
    assert {f"{last}/main_grad/weight", f"{last}/updated_param/weight"} <= ids


def test_gradients_that_nobody_reduces_are_found(ttrace, checked, tmp_path):
    _, out = checked
    script = changed(tmp_path, REDUCTION, "")
    trace, path = tmp_path / "dp2", tmp_path / "report.json"
    command = torchrun(script, num_processes=2)
    assert ttrace("record", "--out", trace, "--", *command).code == 0
    answer = ttrace(
        *("compare", out / "reference", trace, "--backend", "numpy"),
        *("--tolerance", out / "tolerance.json", "--json", path),
    )
    assert answer.code == 1, answer.out + answer.err
    report = read_report(path)
    first = report.first_divergence
    assert first is not None and first.kind == "main_grad"
    assert first.id.startswith("step0/embedding.word_embeddings")
    assert report.diagnosis[0].code == "replicas_differ"
    # What comes before the reduction is right, in the step that comes first.
    before = {"param", "output", "loss", "grad_output", "grad_input", "param_grad"}
    failed = {t.kind for t in report.tensors if t.status == "failed"}
    first_step = [t for t in report.tensors if t.id.startswith("step0/")]
    assert not {t.kind for t in first_step if t.status == "failed"} & before, failed


def test_a_plain_torch_optimizer_computes_the_same_bits(tmp_path):
    """With Adam of torch, which finds no gradients: traced and not, and it is said."""
    script = changed(tmp_path, OPTIMIZER, "torch.optim.Adam(chunk.parameters())")
    checksum = (
        "    print(*(p.double().sum().item().hex() for p in chunk.parameters()))\n"
    )
    script.write_text(script.read_text().replace(LAST_LINE, checksum + LAST_LINE))
    command = torchrun(script, num_processes=1)
    untraced = subprocess.run(command, capture_output=True, text=True, check=True)
    record = [sys.executable, "-m", "ttrace.cli.main", "record", "--out"]
    subprocess.run([*record, str(tmp_path / "trace"), "--", *command], check=True)
    printed = untraced.stdout.splitlines()
    assert len(printed) == 3 and printed[-1].count("0x") > 20
    recorded = (tmp_path / "trace.log").read_text().splitlines()
    assert set(printed) <= set(recorded)
    assert any("Adam of torch updates nothing" in line for line in recorded)
    info = open_trace(tmp_path / "trace").info
    kinds = {id_.kind for id_ in info.tensors}
    assert {Kind.MAIN_GRAD, Kind.UPDATED_PARAM} <= kinds
    assert Kind.OPTIMIZER_STATE in {id_.kind for id_ in info.skipped}
