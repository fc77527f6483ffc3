"""A release as it is downloaded: a tar archive, gzipped or not, whole or in numbered parts.

It is read through once for its list of files; gzip's state is noted every 32 MiB meanwhile. From
there any typhoon's files can be had without what lies before them: each process unpacks one typhoon
at a time and removes it again, so that no tree of 190,000 files is ever on the disk. No name in the
archive decides where anything is written.
"""

from __future__ import annotations

import atexit
import io
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import IO, Any, NoReturn, cast

from pipeline.errors import UsageError, UserError
from pipeline.progress import progress, say
from pipeline.reporting.words import size as in_bytes
from pipeline.sources import FrameError, RawFrame, RawTrack, filelist

NAME = re.compile(
    r"(?P<stem>.+\.(?:tar\.gz|tgz|tar))(?P<part>[-._]?\d+|[-_]?[a-z]{2,3})?",
    re.ASCII | re.IGNORECASE,
)
RAW = (".h5", ".nc", ".nc4", ".png", ".json.gz")  # a folder with such files is no mere download
TABLES = re.compile(r"(\d{6}\.csv|aux_data\.csv|metadata\.json)", re.ASCII | re.IGNORECASE)
SUMS = (".md5", ".sha1", ".sha256", ".sha512", ".asc", ".sig", ".txt")  # beside what they are of
GZIP = b"\x1f\x8b"
SPACING = 32 << 20  # unpacked bytes between two places where reading can begin; each takes 32 KiB
LARGEST = 256 << 20  # bytes of one member; an image has 2 MiB at most
MIXED = 8  # times its own size that a typhoon is spread over; more, and it is said
MiB, MB = 1 << 20, 10**6  # how much is read at once; how it is told


@dataclass(frozen=True)
class Archive:
    """Where an archive lies, and where reading it can begin."""

    parts: tuple[Path, ...]  # absolute, in order
    index: Path | None  # of its gzip stream, for this machine; None: it is not compressed


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    archive: Archive
    offset: int  # of its first byte in the unpacked archive
    size: int
    mtime_ns: int  # as `tar x` would restore it


@dataclass(frozen=True)
class Listing:
    """What one pass through an archive found."""

    images: dict[Path, Member]  # by archive/name, in the archive's order
    tables: Path | None  # a folder with its best track as a tree has it; None: it holds none
    problems: tuple[str, ...]
    held: str = ""  # what else, by endings, for a sentence


def belongs(path: Path) -> bool:
    """Whether a name is of a part of an archive, or of its sums."""
    return bool(NAME.fullmatch(path.name)) or path.suffix.lower() in SUMS


def is_archive(path: Path) -> bool:
    """Whether a file is an archive or a part of one by its name, or a folder holds nothing else."""
    return bool(names_at(path))


def names_at(path: Path) -> list[Path]:
    """The files that are parts of archives by their names: `path` itself, or those in it."""
    if path.is_file():
        return [path] if NAME.fullmatch(path.name) else []
    if not path.is_dir():
        return []
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    if any(e.name.lower().endswith(RAW) or (e.is_dir() and e.name != "metadata") for e in inside):
        return []
    return sorted(entry for entry in inside if NAME.fullmatch(entry.name))


def one_source(paths: Sequence[Path]) -> Path:
    """The source that is meant where a shell has made many words of an unquoted WP.tar.gz*.

    The first part of an archive, where all are parts of it; one path alone as it is. Raises
    UsageError for anything else.
    """
    paths = list(dict.fromkeys(paths))
    paths = [path for path in paths if path.suffix.lower() not in SUMS] or paths
    if not paths:
        raise UsageError("no source: give a folder, a file, or the first part of an archive")
    if len(paths) == 1:
        return paths[0]
    found = [(path, NAME.fullmatch(path.name)) for path in paths]
    parts = sorted((number(m["part"]), path) for path, m in found if m and m["part"])
    archives = {path.absolute().parent / m["stem"]: path for path, m in found if m}
    if strange := [path for path, match in found if not match]:
        told = f"{strange[0]} is no part of an archive"
    elif len(archives) > 1:
        told = "{} and {} are of two archives".format(*list(archives.values())[:2])
    elif len(parts) < len(paths):
        whole = next(path for path, match in found if match and not match["part"])
        told = f"{whole} is whole, and others are parts"
    else:
        return parts[0][1]
    first = f", and of an archive in parts the first alone: {parts[0][1]}" if parts else ""
    raise UsageError(f"{len(paths)} sources, but {told}; give one of them{first}")


def parts_of(path: Path) -> tuple[Path, ...]:
    """All parts of the archive at `path`: its file, any of its parts, or a folder with one archive.

    Raises UserError for a gap in their numbers and for several archives.
    """
    found = [(file, NAME.fullmatch(file.name)) for file in names_at(path)]
    stems = sorted({match["stem"] for _, match in found if match})
    if len(stems) != 1:
        raise UserError(
            f"{path}: holds the archives {', '.join(stems)}; name one of them, "
            "or unpack them into one folder and give that"
        )
    folder = path if path.is_dir() else path.parent
    beside = {file: NAME.fullmatch(file.name) for file in folder.iterdir() if file.is_file()}
    family = {f: m["part"] or "" for f, m in beside.items() if m and m["stem"] == stems[0]}
    whole = [file for file, part in family.items() if not part]
    if whole and (path.is_dir() or path in whole):
        return (whole[0].absolute(),)
    parts = sorted((number(part), file) for file, part in family.items() if part)
    numbers = [n for n, _ in parts]
    first = numbers[0] if numbers[0] in (0, 1) else 0
    for expected, (n, file) in enumerate(parts, first):
        if n != expected:
            raise UserError(
                f"{file}: the part before it is missing: of {stems[0]}* there are "
                f"{', '.join(f.name for _, f in parts[:4])}{' ...' if len(parts) > 4 else ''}; "
                "download the missing one into the same folder"
            )
    return tuple(file.absolute() for _, file in parts)


def number(part: str) -> int:
    """00, .01, -1 as they say; aa, ab, ba as `split` counts."""
    bare = part.lstrip("-._").lower()
    if bare.isdigit():
        return int(bare)
    return sum((ord(c) - ord("a")) * 26**i for i, c in enumerate(reversed(bare)))


class Parts(io.RawIOBase):
    """The parts as one file, of which one is open at a time."""

    def __init__(self, parts: Sequence[Path]) -> None:
        self.parts = parts
        self.sizes = [part.stat().st_size for part in parts]
        self.at = 0
        self.open_part: tuple[int, IO[bytes]] | None = None

    @cached_property
    def total(self) -> int:
        return sum(self.sizes)

    def part_at(self, place: int) -> tuple[int, int]:
        """Number of the part that holds this byte, and the byte's place in it."""
        for i, size in enumerate(self.sizes):
            if place < size:
                return i, place
            place -= size
        return len(self.sizes) - 1, self.sizes[-1]

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = max(0, offset + (0, self.at, self.total)[whence])
        return self.at

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view) and self.at < self.total:
            i, inside = self.part_at(self.at)
            if self.open_part is None or self.open_part[0] != i:
                self.close_part()
                self.open_part = i, self.parts[i].open("rb", buffering=0)
            file = self.open_part[1]
            file.seek(inside)
            count = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not count:
                raise UserError(f"{self.parts[i]}: is shorter than a moment ago; run this again")
            done, self.at = done + count, self.at + count
        return done

    def close_part(self) -> None:
        if self.open_part is not None:
            self.open_part[1].close()
            self.open_part = None

    def close(self) -> None:
        self.close_part()
        super().close()


class Onward:
    """A stream in which going on a little is to read on, as tarfile and `content` need it.

    indexed-gzip forgets its buffer at a seek, and begins anew at a noted place.
    """

    def __init__(self, stream: Any, compressed: bool) -> None:
        self.stream, self.compressed = stream, compressed
        self.at = 0

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int) -> None:
        ahead = offset - self.at
        if not self.compressed or not 0 <= ahead <= SPACING:
            self.at = self.stream.seek(offset)
            return
        while ahead > 0 and (data := self.stream.read(min(ahead, MiB))):
            ahead, self.at = ahead - len(data), self.at + len(data)

    def read(self, size: int) -> bytes:
        data = bytes(self.stream.read(size))
        self.at += len(data)
        return data


def listed(path: Path) -> Listing:
    """The files of the archive at `path`; every byte of it is unpacked once, and kept nowhere.

    Raises UserError for an archive that is damaged, cut off or lacks a part, saying which.
    """
    parts = parts_of(path)
    return looked_through(parts, tuple((p.stat().st_size, p.stat().st_mtime_ns) for p in parts))


@lru_cache(maxsize=4)
def looked_through(parts: tuple[Path, ...], _: tuple[tuple[int, int], ...]) -> Listing:
    folder = Path(tempfile.mkdtemp(prefix="eddy-archive-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with Parts(parts) as chain:
        compressed = chain.read(len(GZIP)) == GZIP
        chain.seek(0)
        archive = Archive(parts, folder / "index" if compressed else None)
        plain: Any = gunzip(chain, parts[0]) if compressed else io.BufferedReader(chain, MiB)
        stream = Onward(plain, compressed)
        try:
            with progress("look through the archive", chain.total // MB, "MB") as advance:
                told = 0
                images, tables, problems = [], None, []
                trees = set()
                others: list[str] = []
                for member in members(stream, chain):
                    advance(chain.tell() // MB - told)
                    told = chain.tell() // MB
                    name = PurePosixPath(member.name)
                    is_table = TABLES.fullmatch(name.name) and member.size <= LARGEST
                    if filelist.is_litter(member.name):
                        continue
                    if not name.name.lower().endswith(".h5") and not is_table:
                        if member.isreg():
                            others.append(name.name)
                        continue
                    if told_of := unfit(member, name):
                        problems.append(f"{parts[0] / name.as_posix().lstrip('/')}: {told_of}")
                    elif is_table:
                        trees.add(name.parent.parent if is_beside_image(name) else name.parent)
                        tables = put_table(folder, name, stream, member)
                    else:
                        at = Member(archive, member.offset_data, member.size, mtime_ns(member))
                        images.append((name, at))
                advance(chain.total // MB - told)
            if archive.index is not None:
                plain.export_index(str(archive.index))
        finally:
            plain.close()
    if len(trees) > 1:  # V3's channels and basins
        raise UserError(
            f"{parts[0]}: holds several trees, {' and '.join(sorted(map(str, trees))[:2])}, whose "
            "tables have the same names; unpack it, and convert the folder"
        )
    below_image = [(name, at) for name, at in images if "image" in name.parts[:-1]]
    found = {parts[0] / name: at for name, at in below_image or images}
    return Listing(found, tables, tuple(problems), filelist.counted(others))


def gunzip(chain: Parts, named: Path, index: Path | None = None) -> Any:
    """The unpacked stream, in which one may seek. Raises UserError without the library for it."""
    try:
        from indexed_gzip import IndexedGzipFile  # type: ignore
    except ImportError:
        stem = NAME.fullmatch(named.name)
        raise UserError(
            f"{named}: to read a gzipped archive in place, `pip install indexed-gzip`; "
            f"or unpack it: cat {stem['stem'] if stem else named.name}* | tar xz"
        ) from None
    return IndexedGzipFile(
        fileobj=chain,
        spacing=SPACING,
        readbuf_size=MiB,
        buffer_size=2 * SPACING,  # every read of the stream begins anew at the place before it
        **({"index_file": str(index)} if index else {}),
    )


def members(stream: Onward, chain: Parts) -> Iterator[tarfile.TarInfo]:
    """Each member of the archive, which is read to its end. Raises UserError for a damaged one."""
    tar = None
    try:
        tar = tarfile.TarFile(fileobj=cast(Any, stream))
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]  # else hundreds of megabytes
            yield member
        stream.seek(tar.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        while stream.read(MiB):  # to the end, where gzip has its checksum
            pass
    except tarfile.TarError as error:
        if tar is None:
            raise UserError(
                f"{chain.parts[0]}: is no archive, or not the first part of one ({error}); "
                "download it again, and all parts into one folder"
            ) from None
        refuse(chain, ended=not stream.read(1), told=str(error))
    except OSError as error:
        if error.errno is not None:
            raise  # the disk's
        refuse(chain, ended=chain.tell() >= chain.total, told=str(error))
    if end != tarfile.NUL * tarfile.BLOCKSIZE:
        refuse(chain, ended=len(end) < tarfile.BLOCKSIZE, told="no end of archive")


def refuse(chain: Parts, *, ended: bool, told: str) -> NoReturn:
    """Say which part is at fault. ended: the data ended too early, else they make no sense."""
    usual = max(chain.sizes)
    for part, size in zip(chain.parts[:-1], chain.sizes[:-1], strict=True):
        if size < usual:
            raise UserError(
                f"{part}: is cut off: {size} bytes, other parts have {usual}; download it again"
            )
    if ended:
        raise UserError(
            f"{chain.parts[-1]}: the archive ends in the middle: this part is cut off or damaged"
            + (", or those after it are missing" if len(chain.parts) > 1 else "")
            + "; download it again"
        )
    i, place = chain.part_at(max(0, chain.tell() - 1))
    raise UserError(f"{chain.parts[i]}: is damaged before byte {place} ({told}); download it again")


def unfit(member: tarfile.TarInfo, name: PurePosixPath) -> str:
    """Why a member is not read; "" where it is."""
    if name.is_absolute() or ".." in name.parts:
        return "its name leads out of the archive; left out"
    if not member.isreg() or member.issparse():
        return "is a link or no plain file; left out"
    if member.size > LARGEST:
        return f"has {member.size} bytes, no image has; left out"
    return ""


def mtime_ns(member: tarfile.TarInfo) -> int:
    with suppress(ArithmeticError, ValueError):
        return int(Decimal(member.pax_headers.get("mtime", str(int(member.mtime)))) * 10**9)
    return 0


def is_beside_image(name: PurePosixPath) -> bool:
    """Whether a table lies in metadata/, which lies beside image/."""
    return name.parent.name.lower() == "metadata"


def put_table(folder: Path, name: PurePosixPath, stream: Onward, member: tarfile.TarInfo) -> Path:
    """Lay one table out as a tree has it; returns that tree.

    Three folders deep: the best track is looked for two folders above a tree, too.
    """
    tree = folder / "tables" / "of" / "release"
    place = tree / "metadata" if is_beside_image(name) else tree
    place.mkdir(parents=True, exist_ok=True)
    stream.seek(member.offset_data)
    (place / name.name).write_bytes(stream.read(member.size))
    return tree


def holds(path: Path) -> str:
    """What is in an archive without an image, for a sentence, and the way out."""
    listing = listed(path)
    if listing.held:
        return f"it holds {listing.held}: unpack it, and give the folder"
    if listing.tables:
        return "it holds best-track tables: give the archive that holds image/"
    return "it is empty: download it again"


def home_of_tables(path: Path) -> Path:
    """Where the best track of a source is to be looked for."""
    return (is_archive(path) and listed(path).tables) or path


def say_how(path: Path, tracks: Sequence[RawTrack]) -> None:
    """What reading in place takes beside the store, before it is done."""
    sizes, spans = [], []
    for raw in tracks:
        held = [member for frame in raw.frames for member in frame.packed]
        sizes.append(sum(member.size for member in held))
        spans.append(max(m.offset + m.size for m in held) - min(m.offset for m in held))
    say(
        f"{path} is read in place: each process unpacks one typhoon at a time, at most "
        f"{in_bytes(max(sizes))}, beside the store, and removes it"
    )
    if sum(spans) > MIXED * sum(sizes) and sum(spans) > SPACING * len(spans):
        say(
            f"The typhoons' files lie mixed in {path}: {sum(spans) / sum(sizes):.0f} times as much "
            "as they hold must be unpacked to reach them; unpack the archive whole if it is slow"
        )


@contextmanager
def unpacked(raw: RawTrack, folder: Path | None) -> Iterator[RawTrack]:
    """The track with its files on the disk, in `folder`, which is made and removed; or as it was.

    folder: None: one of the system's for temporary files. Raises UserError for an archive that has
    changed, OSError: the disk refuses.
    """
    if not any(frame.packed for frame in raw.frames):
        yield raw
        return
    place = Path(tempfile.mkdtemp(prefix="eddy-")) if folder is None else folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        for member in sorted({m for f in raw.frames for m in f.packed}, key=lambda m: m.offset):
            (place / f"{member.offset}.h5").write_bytes(content(member))
        yield replace(raw, frames=tuple(laid_out(frame, place) for frame in raw.frames))
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def at_hand(frame: RawFrame) -> Iterator[RawFrame]:
    """One frame with its files on the disk; what is wrong with them names the archive's."""
    if not frame.packed:
        yield frame
        return
    with unpacked(RawTrack("", (frame,)), None) as raw:
        try:
            yield raw.frames[0]
        except FrameError as error:
            raise named_as(error, raw.frames[0], frame) from None


def laid_out(frame: RawFrame, place: Path) -> RawFrame:
    paths = tuple(place / f"{member.offset}.h5" for member in frame.packed)
    return replace(frame, paths=paths, packed=())


def named_as(error: FrameError, there: RawFrame, named: RawFrame) -> FrameError:
    return FrameError(renamed(str(error), there, named))


def renamed(told: str, there: RawFrame, named: RawFrame) -> str:
    """A sentence about a frame on the disk, with the names that a person knows."""
    for path, name in zip(there.paths, named.paths, strict=True):
        told = told.replace(str(path), str(name))
    return told


_reading = Lock()


def content(member: Member) -> bytes:
    """Of one file. Raises UserError for an archive that has changed since it was looked through."""
    with _reading:
        try:
            stream = reader(member.archive)
            stream.seek(member.offset)
            data = stream.read(member.size)
        except OSError as error:
            if error.errno is not None:
                raise
            data = b""
    if len(data) != member.size:
        first = member.archive.parts[0]
        raise UserError(f"{first}: has changed since it was looked through; run this again")
    return data


@lru_cache(maxsize=1)
def reader(archive: Archive) -> Onward:
    """The unpacked archive, open in this process."""
    chain = Parts(archive.parts)
    if archive.index is None:
        return Onward(io.BufferedReader(chain, MiB), False)
    return Onward(gunzip(chain, archive.parts[0], archive.index), True)
