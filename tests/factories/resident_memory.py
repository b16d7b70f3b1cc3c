"""What a process holds of a file in its memory."""

from pathlib import Path


def resident_bytes(path: Path) -> int:
    """What this process has mapped of a file and counts as its memory."""
    total, within = 0, False
    with open("/proc/self/smaps") as lines:
        for line in lines:
            if "-" in line.split(" ", 1)[0]:
                within = line.rstrip().endswith(str(path))
            elif within and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
    return total
