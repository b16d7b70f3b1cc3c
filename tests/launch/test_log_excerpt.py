"""What of a failed command's output stands in the error."""

import pytest

from ttrace.launch.log_excerpt import log_excerpt

ERROR = """\
{0}Traceback (most recent call last):
{0}  File "/home/me/train.py", line 25, in forward
{0}    x = x + attention(x)
{0}  File "/v/lib/python3.11/site-packages/torch/_ops.py", line 875, in __call__
{0}    return self._op(*args)
{0}RuntimeError: The size of tensor a (8) must match"""
LAUNCHER = (
    """\
Traceback (most recent call last):
  File "/v/bin/torchrun", line 8, in <module>
    sys.exit(main())
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
"""
    + "====\n" * 45
)


def excerpt(tmp_path, text: str) -> list[str]:
    path = tmp_path / "run.log"
    path.write_text(text)
    return log_excerpt(path).splitlines()


@pytest.mark.parametrize("prefix", ["", "[rank1]: "])
def test_the_first_error_comes_before_what_a_launcher_adds(tmp_path, prefix):
    lines = excerpt(tmp_path, f"step 0\n{ERROR.format(prefix)}\n{LAUNCHER}")
    assert lines[:4] == [
        f'    | {prefix}  File "/home/me/train.py", line 25, in forward',
        f"    | {prefix}    x = x + attention(x)",
        f"    | {prefix}RuntimeError: The size of tensor a (8) must match",
        "    | ...",
    ]
    assert len(lines) == 24 and lines[-1] == "    | ===="


def test_lines_of_several_processes_may_be_mixed(tmp_path):
    one, other = (ERROR.format(f"[rank{n}]: ").splitlines() for n in range(2))
    mixed = [line for pair in zip(one, other, strict=True) for line in pair]
    lines = excerpt(tmp_path, "\n".join([*mixed, LAUNCHER]))
    assert lines[0].endswith('train.py", line 25, in forward')
    assert lines[1] == "    | [rank0]:     x = x + attention(x)"
    assert (
        lines[2] == "    | [rank0]: RuntimeError: The size of tensor a (8) must match"
    )


def test_a_long_line_is_cut(tmp_path):
    assert excerpt(tmp_path, "x" * 1000) == [
        f"    | {'x' * 400}... (600 more characters)"
    ]


def test_an_error_at_the_end_is_said_once(tmp_path):
    lines = excerpt(tmp_path, ERROR.format(""))
    assert len(lines) == 6 and lines[-1].startswith("    | RuntimeError")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", ["    | (none)"]), ("out of memory\n", ["    | out of memory"])],
)
def test_without_a_traceback_there_is_the_end(tmp_path, text, expected):
    assert excerpt(tmp_path, text) == expected
