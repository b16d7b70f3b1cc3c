"""Which releases of megatron-core are taken, and that all places name the same ones."""

import re
import subprocess
import tomllib

import pytest

from tests.paths import ROOT

pytest.importorskip("megatron.core")

from packaging.requirements import Requirement  # noqa: E402
from packaging.version import Version  # noqa: E402

from ttrace.errors import UsageError  # noqa: E402
from ttrace.frontends.megatron_parts.meshes import (  # noqa: E402
    TESTED_VERSIONS,
    require_supported_version,
)

PINNED = re.search(
    r"^megatron-core==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
)
OTHER = re.search(
    r"^MEGATRON \?= (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE
)


@pytest.mark.parametrize(
    "version", ["0.9.0", "0.15.2", "0.16.0", "0.17.0", "0.16.1rc0"]
)
def test_a_release_that_was_not_tested_is_refused(version):
    with pytest.raises(UsageError) as caught:
        require_supported_version(version)
    assert str(caught.value).splitlines() == [
        "this version of megatron-core is not supported",
        "  where:    megatron.core",
        f"  expected: megatron-core {' or '.join(TESTED_VERSIONS)}",
        f"  got:      {version}",
        f"  to do:    install megatron-core=={TESTED_VERSIONS[-1]}",
    ]


@pytest.mark.parametrize("version", TESTED_VERSIONS)
def test_tested_releases_are_taken(version):
    require_supported_version(version)


def test_the_releases_that_make_installs_are_the_tested_ones():
    assert PINNED and OTHER
    assert {PINNED[1], OTHER[1]} == set(TESTED_VERSIONS)
    assert TESTED_VERSIONS[-1] == PINNED[1]


@pytest.mark.parametrize("version", [TESTED_VERSIONS[0], "0.16.0"])
def test_make_runs_the_matrix_with_another_release(version):
    printed = subprocess.run(
        ["make", "-n", "--always-make", "matrix-other", f"MEGATRON={version}"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    folder = f".venv-megatron-{version}"
    assert f"megatron-core=={version} einops --editable '.[megatron]'" in printed
    assert f"{folder}/bin/python -m ttrace.examples.layout_matrix" in printed
    assert ".venv-megatron-*/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_extra_asks_for_no_other():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (text,) = (
        requirement
        for requirement in settings["project"]["optional-dependencies"]["megatron"]
        if requirement.startswith("megatron-core")
    )
    allowed = Requirement(text).specifier
    assert all(version in allowed for version in TESTED_VERSIONS)
    oldest, newest = Version(TESTED_VERSIONS[0]), Version(TESTED_VERSIONS[-1])
    assert f"{oldest.major}.{oldest.minor}.{oldest.micro - 1}" not in allowed
    assert f"{newest.major}.{newest.minor}.{newest.micro + 1}" not in allowed


def test_the_docs_name_them():
    page = (ROOT / "docs" / "support.md").read_text()
    assert f"megatron-core {' and '.join(reversed(TESTED_VERSIONS))}" in page
