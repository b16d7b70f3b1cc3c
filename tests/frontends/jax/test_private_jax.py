import re

import jax
import pytest
from jax.sharding import PartitionSpec

from ttrace.errors import UsageError
from ttrace.frontends.jax_parts.private_jax import (
    TESTED_VERSIONS,
    require_tested_version,
    spec_entries,
)


def test_the_installed_version_is_one_of_the_tested_ones():
    require_tested_version()
    require_tested_version(jax.__version__)


@pytest.mark.parametrize("version", ["0.10.0", "0.9.2", "0.10.3.dev20260101"])
def test_versions_within_the_range(version):
    require_tested_version(version)


@pytest.mark.parametrize("version", ["0.8.3", "0.11.0", "1.0", "0.4.38", "unknown"])
def test_other_versions_are_refused(version):
    with pytest.raises(
        UsageError, match="this version of JAX was not tested"
    ) as caught:
        require_tested_version(version)
    first, last = (".".join(map(str, number)) for number in TESTED_VERSIONS)
    assert caught.value.expected == f"jax {first} to {last}"
    assert caught.value.got == f"jax {version}"
    assert re.match(r"install jax 0\.\d+", caught.value.remedy)


def test_the_entries_of_a_spec_are_without_its_sums():
    assert spec_entries(PartitionSpec("dp", None)) == ("dp", None)
    assert spec_entries(PartitionSpec(None, unreduced=frozenset({"tp"}))) == (None,)
