"""The processes among which a command's comparison is divided, as its options say."""

import argparse
import contextlib
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ttrace.cli.terminal import progress_bar
from ttrace.compare.processes import Processes
from ttrace.launch.local_processes import local_processes


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedWork:
    """What a command needs to share its work.

    Attributes:
        processes: All that share it; None if there is but this one.
        progress: To be called with elements done and in total.
    """

    processes: Processes | None
    progress: Callable[[int, int], None]

    @property
    def is_reported_here(self) -> bool:
        """Whether this process prints and writes what came out."""
        return self.processes is None or self.processes.index == 0


@contextlib.contextmanager
def shared_work(args: argparse.Namespace, what: str) -> Iterator[SharedWork]:
    """Joins the processes that the options ask for.

    Args:
        args: With the options of ``add_processes``, and the whole command line.
        what: Is done, for the progress bar.

    Raises:
        UsageError: Processes of a launcher were asked for, and there are none.
    """
    with contextlib.ExitStack() as stack:
        if args.distributed:
            module = importlib.import_module("ttrace.backends.jax_processes")
            processes = module.joined_processes()
        else:
            processes = stack.enter_context(local_processes(args.processes, args.argv))
        draw = stack.enter_context(progress_bar(what, quiet=args.quiet))

        def progress(done: int, total: int) -> None:
            draw(done, total)
            if processes is not None:
                processes.report_progress(done, total)

        yield SharedWork(processes=processes, progress=progress)
