"""What the package's documentation shows runs, and needs no pytest to be imported."""

import re
import subprocess
import sys
import textwrap

import ttrace.testing

PRELUDE = """
import os
import numpy as np
from tests.testing.numpy_frontend import NumpyFrontend

def my_small_training(layout, num_steps):
    # In the environment that the suite has set: no other way to ask for a trace.
    class Inner(NumpyFrontend):
        layouts = ("one", "two halves")

    asked = {k: v for k, v in os.environ.items() if k.startswith("TTRACE")}
    training = Inner().train("one" if layout == "one" else "halves", asked)
    return training.parameters, training.losses
"""


def test_the_example_of_the_documentation_is_collected_and_can_fail(tmp_path):
    assert ttrace.testing.__doc__ is not None
    (example,) = re.findall(r"::\n\n((?:    .*\n|\n)+)", ttrace.testing.__doc__)
    (tmp_path / "test_my_frontend.py").write_text(
        PRELUDE + textwrap.dedent(example), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ttrace.testing.__path__[0] + "/../..",
    )
    # The example excuses no kind, and this training has no gradients of activations.
    assert "is recorded or skipped in layout one" in done.stdout
    failed = re.findall(r"^FAILED .*::(\w+)", done.stdout, re.MULTILINE)
    assert set(failed) <= {
        "test_every_kind_is_recorded_or_skipped_with_a_reason",
        "test_a_full_disk_does_not_reach_the_training",
    }
    assert re.search(r"\d\d passed", done.stdout)


def test_pytest_is_not_imported():
    probe = "import sys, ttrace.testing; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)
