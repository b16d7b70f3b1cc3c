"""A file that is cut while it is read, when nothing can look at it first."""

import subprocess
import sys
import textwrap

import pytest

CUT = """
    import os, sys
    import numpy as np
    from ttrace.store.cut_files import exit_where_files_are_cut
    from ttrace.store.mapped_files import map_file
    path = sys.argv[1]
    values = map_file(path, 1 << 20)
    exit_where_files_are_cut(7)
    os.truncate(path, 4096)
    {read}
    print("read on")
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    "read",
    [
        "values.max()",  # numpy lets other threads run meanwhile
        "bytes(values[-8:].data)",  # and here it does not
        "import threading as t; x = t.Thread(target=values.max); x.start(); x.join()",
    ],
)
def test_the_program_ends_with_a_sentence(tmp_path, read):
    path = tmp_path / "values"
    path.write_bytes(bytes(1 << 20))
    ended = run(CUT.format(read=read), str(path))
    assert (ended.returncode, ended.stdout) == (7, "")
    assert ended.stderr == (
        "ttrace: a file has become shorter since it was opened\n"
        f"  where:    {path}\n"
        "  expected: at least 1048576 bytes\n"
        "  got:      4096 bytes\n"
        "  to do:    leave the file alone while it is compared; record or copy it "
        "again\n"
    )


def test_what_no_file_explains_ends_it_as_ever():
    ended = run(
        """
        import os, signal
        from ttrace.store.cut_files import exit_where_files_are_cut
        exit_where_files_are_cut(7)
        os.kill(os.getpid(), signal.SIGBUS)
        os.kill(os.getpid(), signal.SIGBUS)
        """
    )
    assert ended.returncode == -7
