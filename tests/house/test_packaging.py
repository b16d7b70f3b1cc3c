"""The built wheel: its contents, and the program installed from it elsewhere.

The environment is new and holds nothing but the wheel; the dependencies are borrowed
from the running one through a path file, which does not activate this checkout's own
editable install (path files are read in site folders only).
"""

import json
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.paths import ROOT
from ttrace.report.model import Outcome, Report

ROOMS = {
    "ttrace": "ttrace",
    "frontends": "ttrace.frontends",
    "backends": "ttrace.backends",
    "examples": "ttrace.examples",
}


def _package_folders() -> dict[str, Path]:
    """Every package of the checkout by its installed name."""
    found = {}
    for folder, name in ROOMS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            found[".".join((name, *parts))] = init.parent
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    source = out / "source"  # a copy, so that no stale build folder gets in
    for room in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / room, source / room, ignore=ignored)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    done = subprocess.run(
        [*command, "--outdir", out, source],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """The bin folder of an environment that holds the wheel."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    site = sysconfig.get_path("purelib", vars={"base": str(folder)})
    borrowed = sysconfig.get_path("purelib")
    Path(site, "borrowed.pth").write_text(borrowed + "\n")
    python = folder / "bin" / "python"
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--ignore-installed"]
    done = subprocess.run(
        [python, *install, "--prefix", folder, wheel],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bin"


def test_pyproject_names_every_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(settings["tool"]["setuptools"]["packages"]) == set(_package_folders())


def test_wheel_holds_every_module_and_nothing_else(wheel):
    expected = {
        f"{name.replace('.', '/')}/{file.name}"
        for name, folder in _package_folders().items()
        for file in folder.glob("*.py")
    }
    names = set(zipfile.ZipFile(wheel).namelist())
    installed = {name for name in names if ".dist-info/" not in name}
    maps = {
        f"ttrace/examples/jax_port/maps/{file.name}"
        for file in (ROOT / "examples" / "jax_port" / "maps").glob("*.toml")
    }
    page = {
        f"ttrace/report/html/{folder}/{file.name}"
        for folder in ("script", "style", "template")
        for file in (ROOT / "ttrace" / "report" / "html" / folder).iterdir()
    }
    assert maps and page
    assert installed == expected | maps | page | {"ttrace/py.typed"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_installed_program_runs_from_the_wheel(environment, tmp_path):
    done = subprocess.run(
        [environment / "ttrace", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "check" in done.stdout
    probe = "import ttrace.pipeline, ttrace.examples.demo as d; print(d.__file__)"
    done = subprocess.run(
        [environment / "python", "-c", probe],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(ROOT) + "/" not in done.stdout


def test_demo_runs_from_the_wheel(environment, tmp_path):
    done = subprocess.run(
        [environment / "ttrace", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    bug, clean = (
        Report.from_json(json.loads((tmp_path / "demo" / name).read_text()))
        for name in ("bug/report.json", "clean/report.json")
    )
    assert bug.verdict is Outcome.DIVERGED
    assert clean.verdict is Outcome.PASS
    assert clean.counts.failed == clean.counts.unmatched == 0

    # The experts' main gradients are wrong and their replicas differ; everything
    # before them agrees, the loss included.
    failed = [tensor for tensor in bug.tensors if tensor.status == "failed"]
    assert {tensor.kind for tensor in failed} == {
        *("main_grad", "grad_norm", "optimizer_state", "updated_param")
    }
    assert all("local_experts" in t.id for t in failed if t.kind == "main_grad")
    assert bug.first_divergence is not None
    assert bug.first_divergence.kind == "main_grad"
    assert [item.code for item in bug.diagnosis][:1] == ["replicas_differ"]
    assert bug.diagnosis[0].evidence["axes"] == "edp"
    losses = [tensor.status for tensor in bug.tensors if tensor.kind == "loss"]
    assert losses == ["passed", "passed"]

    closing = done.stdout.splitlines()[-3:]
    assert closing[0] == "bug: diverged (demo/bug/report.json)"
    assert closing[1].startswith("  first divergence: step 0: main_grad weight of ")
    assert closing[2] == "clean: pass (demo/clean/report.json)"
