"""The launcher of scripts for GPUs: they run as they are, as Python would run them."""

import subprocess
import sys

import pytest

pytest.importorskip("megatron.core")

LAUNCHER = "ttrace.examples.megatron_gpt.cpu_launcher"

SCRIPT = """
import os, sys
import torch
import torch.distributed as dist
assert __name__ == "__main__"
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
moved = torch.zeros(2).to("cuda", torch.float64)
moved = moved.to(device=torch.device("cuda", 0)).to(0)
model = torch.nn.Linear(1, 1).to(torch.device("cuda"))
print(dist.get_backend(), moved.device, moved.dtype, model.weight.device)
print(sys.argv[1:], torch.zeros(2).to(torch.float16).dtype)
dist.destroy_process_group()
"""


def launch(*arguments: str, cwd) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", LAUNCHER, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("how", ["script.py", "-m script"])
def test_a_script_for_gpus_runs_on_a_cpu(tmp_path, how):
    if __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU, and nothing to redirect")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = launch(*how.split(), "--lr", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "gloo cpu torch.float64 cpu",
        "['--lr', '1'] torch.float16",
    ]


def test_a_script_finds_the_modules_beside_it(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "script.py").write_text("import beside")
    (tmp_path / "there" / "beside.py").write_text("print('found')")
    assert launch("there/script.py", cwd=tmp_path).stdout == "found\n"


def test_the_exit_status_is_the_script_s(tmp_path):
    (tmp_path / "script.py").write_text("raise SystemExit(3)")
    assert launch("script.py", cwd=tmp_path).returncode == 3


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "got:      nothing"),
        (("-m",), "got:      -m"),
        (("--lr", "1"), "got:      --lr 1"),
        (("no.py",), "there is no such script"),
    ],
)
def test_without_a_script_it_says_what_to_name(tmp_path, arguments, expected):
    done = launch(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr and "to do:" in done.stderr
