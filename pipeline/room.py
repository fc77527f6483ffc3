"""Room on a disk: what a file or folder takes, and what is free beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")  # Linux alone has it
# File systems of this machine that hold what they are given as it is. Others may pack it, here or,
# behind a network's or a container's, where nobody sees it.
PLAIN = frozenset({"exfat", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "vfat", "xfs"})


def taken(path: Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is nothing."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def free(path: Path) -> int | None:
    """Bytes that may be written at `path`, which may be missing; None where the disk has no number.

    A quota of one user does not show in it.
    """
    try:
        usage = shutil.disk_usage(nearest(path))
    except OSError:
        return None
    return usage.free if usage.total else None  # some network disks say that they hold nothing


def bounds(path: Path) -> bool:
    """Whether nothing larger than what is free fits; elsewhere nobody knows what does."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    kinds = {
        Path(place.replace("\\040", " ")): kind for _, place, kind, *_ in map(str.split, lines)
    }
    here = nearest(path).resolve()
    return next((kinds[p] for p in (here, *here.parents) if p in kinds), "") in PLAIN


def nearest(path: Path) -> Path:
    """The path, or the folder above it that is there."""
    whole = path.absolute()
    return next(p for p in (whole, *whole.parents) if p.exists())
