"""README.md and README.zh-CN.md say the same, and what they name exists."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import models

ROOT = Path(__file__).parents[1]
ENGLISH, CHINESE = "README.md", "README.zh-CN.md"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"\w+(\.py|/)")  # what the house list has a line for
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(text: str) -> str:
    return FENCED.sub("", text)


def headings(text: str) -> list[int]:
    """Their levels, in order."""
    return [len(marks) for marks in re.findall(r"^(#+) ", prose(text), re.MULTILINE)]


def code(text: str) -> list[tuple[str, list[tuple[str, bool]]]]:
    """Of each block its language, and each line without its comment, and whether it had one."""
    return [
        (language, [(line.partition("#")[0].rstrip(), "#" in line) for line in body.splitlines()])
        for language, body in FENCED.findall(text)
        if language  # the house list has none
    ]


def inline_code(text: str) -> Counter[str]:
    """Commands, options and files named in a sentence, wherever its lines were broken."""
    return Counter(" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(text)))


def links(text: str) -> set[str]:
    return set(re.findall(r"\]\(([^)\s]+)\)", prose(text)))


def links_but_to_each_other(text: str) -> set[str]:
    """A page in the README's own language counts as that page."""
    return {link.replace(".zh-CN.", ".") for link in links(text) - {ENGLISH, CHINESE}}


def tables(text: str) -> list[tuple[int, Counter[str]]]:
    """Of each row its columns and numbers."""
    rows = [line for line in prose(text).splitlines() if line.startswith("|")]
    return [(row.count("|"), Counter(NUMBER.findall(row))) for row in rows]


def numbers(text: str) -> list[set[str]]:
    """Those of each section, tables and sentences alike."""
    sections = re.split(r"^#+ ", re.sub(r"\]\([^)]*\)", "]", prose(text)), flags=re.MULTILINE)
    return [set(NUMBER.findall(section)) for section in sections]


def house(text: str) -> dict[str, str]:
    """Path -> what the house list says of it: names and descriptions in turn, two spaces apart."""
    (body,) = [body for language, body in FENCED.findall(text) if not language]
    room, path = "", ""
    said: dict[str, str] = {}
    for line in body.splitlines():
        indent = len(line) - len(line.lstrip())
        if indent > 2:  # goes on about the last one
            said[path] += " " + line.strip()
            continue
        cells = re.split(" {2,}", line.strip())
        while cells:
            name, _, about = cells.pop(0).partition(" ")
            assert NAME.fullmatch(name), f"{line!r}: expected a file or folder, found {name!r}"
            if not about and cells and not NAME.fullmatch(cells[0]):
                about = cells.pop(0)
            path = f"{room if indent else ''}{name}"
            assert path not in said, f"{path} is listed twice"
            said[path] = about
        if not indent:
            room = path
    return said


def files_of(said: dict[str, str]) -> set[str]:
    """The list's paths, and the files that the description of a package names."""
    inside = {
        f"{path}{file}"
        for path, about in said.items()
        if path.count("/") == 2  # pipeline/sources/
        for file in re.findall(r"\w+\.py", about)
    }
    return {*said, *inside}


def house_files(text: str) -> tuple[list[str], list[str]]:
    return list(house(text)), sorted(files_of(house(text)))


def unlisted(text: str) -> set[str]:
    """What exists and is not in the house list."""
    listed = files_of(house(text))
    here = {
        f"pipeline/{file.name}" for file in ROOT.glob("pipeline/*.py") if file.name != "__init__.py"
    }
    for folder in ROOT.glob("pipeline/[!_.]*/"):
        inside = {file.name for file in folder.iterdir() if file.is_file()}
        path = f"pipeline/{folder.name}/"
        here |= {path} if inside else set()  # else what another commit's __pycache__ left
        if any(name.startswith(path) and name != path for name in listed):  # it names its files
            here |= {path + name for name in inside if name != "__init__.py"}
    return (here | {f"models/{name}.py" for name in models.names()}) - listed


def absent(text: str) -> set[str]:
    """What is in the house list and does not exist."""
    is_there = {True: Path.is_dir, False: Path.is_file}
    return {p for p in files_of(house(text)) if not is_there[p.endswith("/")](ROOT / p)}


def dead(text: str) -> set[str]:
    """Links to files of this repository that are not there."""
    relative = {link.partition("#")[0] for link in links(text) if not re.match(r"\w+:|#", link)}
    return {link for link in relative if not (ROOT / link).is_file()}


SAME = [headings, code, inline_code, links_but_to_each_other, tables, numbers, house_files]


@pytest.mark.parametrize("of", SAME, ids=lambda of: of.__name__)
def test_both_languages_have_the_same(of: Callable[[str], object]) -> None:
    english = of(read(ENGLISH))
    assert english  # a pattern that finds nothing would agree with everything
    assert of(read(CHINESE)) == english


def test_each_language_leads_to_the_other() -> None:
    assert CHINESE in links(read(ENGLISH))
    assert ENGLISH in links(read(CHINESE).splitlines()[0])


def test_the_house_list_is_the_house() -> None:
    assert not unlisted(read(ENGLISH))
    assert not absent(read(ENGLISH))


@pytest.mark.parametrize("name", [ENGLISH, CHINESE])
def test_relative_links_lead_somewhere(name: str) -> None:
    assert not dead(read(name))


@pytest.mark.parametrize(
    ("of", "was", "becomes"),
    [
        (headings, "\n## ", "\n### "),
        (code, "cli report runs/first  ", "cli report runs/last  "),
        (code, "make test    # ", "make test    "),
        (inline_code, "`--quick`", "`--fast`"),
        (links_but_to_each_other, "(docs/CLUSTER.md)", "(docs/CLOUD.md)"),
        (tables, "| 3.48 |", "| 3.84 |"),
        (tables, "| 3.48 |", "3.48 |"),
        (numbers, "180 K", "170 K"),
        (house_files, "\n  shard.py ", "\n  shards.py "),
        (house_files, "synthetic.py", "invented.py"),
    ],
)
def test_a_slip_is_noticed(of: Callable[[str], object], was: str, becomes: str) -> None:
    text = read(CHINESE)
    assert was in text
    assert of(text.replace(was, becomes, 1)) != of(text)


def test_a_renamed_file_is_noticed() -> None:
    for was, becomes in [
        ("pipeline/shard.py", "pipeline/shards.py"),
        ("pipeline/metrics/", "pipeline/metric/"),
        ("pipeline/sources/census.py", "pipeline/sources/count.py"),
        ("models/tempogan.py", "models/tempo.py"),
    ]:
        last = {name: re.findall(r"[^/]+/?$", name)[0] for name in (was, becomes)}
        text = re.sub(rf"(?<=[ ]){last[was]}(?= )", last[becomes], read(ENGLISH))
        assert unlisted(text) == {was}
        assert absent(text) == {becomes}


def test_a_dead_link_is_noticed() -> None:
    text = read(ENGLISH).replace("(docs/CLUSTER.md)", "(docs/CLOUD.md#slurm)")
    assert dead(text) == {"docs/CLOUD.md"}
