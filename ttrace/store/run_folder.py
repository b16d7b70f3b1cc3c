"""Finds the ranks of a trace and checks that they belong to one run."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ttrace.errors import TraceError, TraceNotFoundError
from ttrace.ir.trace import RankInfo
from ttrace.store.files import (
    MANIFEST,
    RANK_FOLDER,
    rank_folder_name,
    reading_error,
)
from ttrace.store.ranks import read_manifest


def find_ranks(path: Path) -> tuple[dict[Path, RankInfo], list[str]]:
    """Finds the rank folders of a trace.

    Whatever has a manifest is a rank's folder, so that copies of one are noticed.

    Returns:
        What each rank says about the run, by folder, sorted by rank; and what
        folders lack a manifest, in words.

    Raises:
        TraceNotFoundError: There is no rank's folder.
        TraceError: Two folders hold one rank, or one has the name of another rank.
    """
    try:
        folders = sorted(child for child in path.iterdir() if child.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        raise _not_found(path, ()) from None
    except OSError as error:
        raise reading_error(error, path) from error
    with_manifest: list[Path] = []
    without: list[Path] = []
    for folder in folders:
        if (folder / MANIFEST).exists():
            with_manifest.append(folder)
        elif RANK_FOLDER.fullmatch(folder.name):
            without.append(folder)
    if not with_manifest and not without:
        raise _not_found(path, folders)
    infos: dict[Path, RankInfo] = {}
    by_rank: dict[int, Path] = {}
    for folder in with_manifest:
        info = read_manifest(folder)
        if info.rank in by_rank:
            raise TraceError(
                "two folders of a trace hold the same rank",
                where=path,
                expected="one folder per rank",
                got=f"rank {info.rank} in {by_rank[info.rank].name} and {folder.name}",
                remedy="move the one that does not belong there out of the trace",
            )
        by_rank[info.rank] = folder
        infos[folder] = info
    for folder, info in infos.items():
        if folder.name != rank_folder_name(info.rank):
            raise TraceError(
                "a folder of a trace has the name of another rank",
                where=folder / MANIFEST,
                expected=f"rank {info.rank} in {rank_folder_name(info.rank)}",
                got=f"rank {info.rank} in {folder.name}",
                remedy="give the folder its own name again, or record again",
            )
    infos = {by_rank[rank]: infos[by_rank[rank]] for rank in sorted(by_rank)}
    return infos, [f"{folder.name} has no {MANIFEST} yet" for folder in without]


def check_same_run(infos: Mapping[Path, RankInfo]) -> None:
    """Checks that the ranks describe one and the same run.

    Raises:
        TraceError: They do not.
    """
    first = next(iter(infos.values()), None)
    for folder, info in infos.items():
        for name in ("run_id", "world_size", "recorded_ranks"):
            expected, got = getattr(first, name), getattr(info, name)
            if got != expected:
                raise TraceError(
                    "the ranks of a trace are not of one run",
                    where=f"rank {info.rank}, {folder / MANIFEST}",
                    expected=f"{name} {_stated(expected)}, as on the first rank",
                    got=f"{name} {_stated(got)}",
                    remedy="record each run to a folder of its own",
                )
        if info.rank not in info.recorded_ranks:
            raise TraceError(
                "a rank recorded that was not meant to",
                where=folder / MANIFEST,
                expected=f"one of ranks {_ranks(info.recorded_ranks)}",
                got=f"rank {info.rank}",
                remedy="check --ranks, and record again",
            )


def missing_ranks(infos: Mapping[Path, RankInfo]) -> list[str]:
    """Says which recorded ranks have no folder, in words."""
    present = {info.rank for info in infos.values()}
    expected = next((info.recorded_ranks for info in infos.values()), ())
    missing = [rank for rank in expected if rank not in present]
    if not missing:
        return []
    return [f"nothing from rank {_ranks(missing)} of the recorded {_ranks(expected)}"]


def _stated(value: object) -> str:
    return _ranks(value) if isinstance(value, tuple) else str(value)


def _ranks(ranks: Iterable[int]) -> str:
    """E.g. ``0, 1, 5``; a consecutive run as ``0..7``."""
    ranks = sorted(ranks)
    if len(ranks) > 2 and ranks == list(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}..{ranks[-1]}"
    return ", ".join(map(str, ranks))


def _not_found(path: Path, folders: Sequence[Path]) -> TraceNotFoundError:
    traces = [folder.name for folder in folders if _holds_ranks(folder)]
    if not path.exists():
        got, remedy = "no such folder", "check the path, or record a run there"
    elif not path.is_dir():
        got, remedy = "a file", "give the folder of the trace"
    elif (path / MANIFEST).exists():
        got, remedy = "the folder of one rank", f"give the trace: {path.parent}"
    elif traces:
        got = f"a folder of traces: {', '.join(traces)}"
        remedy = f"give one of them, e.g. {path / traces[0]}"
    elif not any(path.iterdir()):
        got, remedy = "an empty folder", "record a run there"
    else:
        got = "a folder without rank00000 or the like"
        remedy = "check the path, or record a run there"
    return TraceNotFoundError(
        "there is no trace here",
        where=path,
        expected=f"a folder that holds {rank_folder_name(0)}",
        got=got,
        remedy=remedy,
    )


def _holds_ranks(folder: Path) -> bool:
    try:
        return any((child / MANIFEST).exists() for child in folder.iterdir())
    except OSError:
        return False
