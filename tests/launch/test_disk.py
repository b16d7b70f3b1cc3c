"""Full disks, as the system tells of them."""

import os
from types import SimpleNamespace

import pytest

from ttrace.launch.disk import is_full


@pytest.mark.parametrize(("available", "full"), [(0, True), (1, False)])
def test_what_the_system_says(tmp_path, monkeypatch, available, full):
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=available))
    assert is_full(tmp_path) is full


def test_a_real_disk_and_none(tmp_path):
    assert not is_full(tmp_path) and not is_full(tmp_path / "none")
