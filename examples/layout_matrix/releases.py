"""Cases that an older release of megatron-core is left out of, each with the reason."""

import fnmatch
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """Something that megatron-core does rightly only from some release on.

    Attributes:
        cases: Shell patterns over the names of the cases that need it.
        since: The first release that does it, as (major, minor).
        before: What the releases before it do instead.
    """

    cases: tuple[str, ...]
    since: tuple[int, int]
    before: str


LIMITS = (
    Limit(
        cases=("mqa/*", "llama-mqa/*", "llama-gqa/*"),
        since=(0, 16),
        before="refuses fewer key and value heads than tensor-parallel ranks",
    ),
    Limit(
        cases=("moe-aux/*cp*",),
        since=(0, 16),
        before="leaves the factor of context parallelism out of the auxiliary loss "
        "(Megatron-LM #2237)",
    ),
    Limit(
        cases=("gdn*/*", "dsa/*", "gated-attention/*", "latent-experts/*"),
        since=(0, 16),
        before="does not have these modules",
    ),
    Limit(
        cases=("shared*/*", "sigmoid/*", "*-moe/*"),
        since=(0, 16),
        before="has no setting for the gate of shared experts",
    ),
    Limit(
        cases=("padded*/*",),
        since=(0, 16),
        before="tells no router which tokens are padding",
    ),
)
"""What a release itself does not do, as its refusal or its source says. A false alarm
of ttrace does not belong here."""


def left_out_reason(case: str, version: str) -> str | None:
    """Why a release cannot be expected to pass a case, or None.

    Args:
        case: Name of the case.
        version: Version of megatron-core, e.g. ``0.16.1``.
    """
    major, minor, *_ = version.split(".")
    for limit in LIMITS:
        is_older = (int(major), int(minor)) < limit.since
        if is_older and any(fnmatch.fnmatchcase(case, name) for name in limit.cases):
            return limit.before
    return None
