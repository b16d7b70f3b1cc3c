"""A transposed convolution whose kernel runs the other way."""

from ttrace.judge.diagnosis import Diagnosis, Findings


def flipped_kernel(findings: Findings) -> Diagnosis | None:
    """Names the kernel, where flipping it explains the output."""
    found = findings.evidence.place.flipped
    if found is None:
        return None
    dims = " and ".join(filter(None, (", ".join(map(str, found.dims[:-1])),
                                      str(found.dims[-1]))))  # fmt: skip
    noun = "dim" if len(found.dims) == 1 else "dims"
    return Diagnosis(
        code="flipped_kernel",
        sentence=f"the output of {found.id.module} is what its {found.kernel.slot} "
        f"gives when it is flipped along {noun} {dims} of the reference's "
        f"({found.id}): flip it along its spatial {noun} where the candidate loads it "
        "(transposed convolutions of torch run their kernels the other way than those "
        "of flax and equinox)",
        evidence={"kernel": str(found.kernel), "dims": dims},
        tensor_ids=(str(found.id), str(found.kernel)),
    )
