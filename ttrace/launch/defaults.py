"""What ``ttrace check`` does unless told otherwise, on the command line and without."""

OUT = "ttrace-check"
"""Folder for traces, logs, tolerances and the report."""

LOCALIZE_OUT = "ttrace-localize"
"""Folder for what ``ttrace localize`` writes."""

NUM_NOISE_RUNS = 3
"""Noise runs of the reference."""

TIMEOUT_S = 1800.0
"""Seconds after which a command counts as hanging."""

KEEP = "all"
"""Which of its files a check keeps where everything passes."""

KEEP_CHOICES = ("all", "report")
"""``report``: the traces that it recorded are deleted."""

CLOSER_LOOK = "failed"
"""Which tensors a comparison looks at once more."""

CLOSER_LOOK_CHOICES = ("failed", "all", "none")
"""See ``ttrace.judge.closer_look.CloserLook``, which is slower to import."""
