"""Whose data a picture shows and under which licence: drawn in it, and in its file's own fields.

What is drawn goes wherever the picture goes; fields are lost in a screenshot and in a chat, but
hold all of it, and programs find them.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline import software

if TYPE_CHECKING:  # matplotlib and reports bring it
    from PIL.Image import Exif

# Of a store's attributes, what whoever passes its data on must pass on too.
RIGHTS = ("title", "license", "attribution", "references", "acknowledgement")
WHO = ("attribution", "acknowledgement", "references", "source")  # the first that says something
CREATIVE_COMMONS = re.compile(r"CC[ -](BY(?:-(?:NC|ND|SA))*)[ -](\d\.\d)", re.IGNORECASE)
ARTIST, COPYRIGHT, DESCRIPTION, SOFTWARE = 0x013B, 0x8298, 0x010E, 0x0131  # EXIF 2.32, table 4


@dataclass(frozen=True)
class Credit:
    """Texts; "" is what nobody said."""

    title: str = ""  # of what is shown
    author: str = ""  # of the data: who is to be named
    source: str = ""  # what they were seen or made by
    rights: str = ""  # author and licence of each data set
    licence: str = ""  # where the licences' texts are

    @classmethod
    def of(cls, *attrs: Mapping[str, Any], title: str = "") -> Credit:
        """attrs: of each store that went into it. title: of what is shown, if not the data's."""
        licences = [text(each, "license") for each in attrs]
        return cls(
            title or joined(text(each, "title") for each in attrs),
            joined(who(each) for each in attrs),
            joined(text(each, "source") for each in attrs),
            joined(
                joined([who(each), licence], ", ")
                for each, licence in zip(attrs, licences, strict=True)
            ),
            joined(map(link, licences), " "),
        )

    @property
    def line(self) -> str:
        """For a small line below a picture; "" where nobody is to be named."""
        return f"Data: {self.rights}; processed by {software()}" if self.rights else ""

    def lines(self, letters: int) -> list[str]:
        """That line, broken into two at most; of a longer one all is in the file's fields."""
        return textwrap.wrap(self.line, letters, max_lines=2, placeholder=" ...")

    @property
    def copyright(self) -> str:
        return joined([self.rights, self.licence], ", ")

    def png(self, about: str = "") -> dict[str, str]:
        """Text chunks by the keywords that the PNG specification has. about: of this picture."""
        return spoken(
            {
                "Title": self.title,
                "Description": about,
                "Author": self.author,
                "Source": self.source,
                "Copyright": self.copyright,
                "Software": software(),
            }
        )

    def exif(self) -> Exif:
        """Of a JPEG or a WebP."""
        from PIL import Image

        made = Image.Exif()
        told = {
            DESCRIPTION: self.title,
            ARTIST: self.author,
            COPYRIGHT: self.copyright,
            SOFTWARE: software(),
        }
        for tag, value in told.items():
            if value:
                made[tag] = value.encode()  # of a str PIL keeps ASCII alone
        return made

    def comment(self) -> bytes:
        """Of a GIF, which has no other field."""
        return "\n".join(f"{name}: {value}" for name, value in self.png().items()).encode()

    def ffmpeg(self) -> list[str]:
        """Arguments for the fields of an MP4."""
        told = spoken(
            {
                "title": self.title,
                "artist": self.author,
                "copyright": self.copyright,
                "comment": joined([self.source, f"made by {software()}"]),
            }
        )
        return [word for name, value in told.items() for word in ("-metadata", f"{name}={value}")]


NOBODY = Credit()


def rights(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a store's attributes that go with its data, as far as it has them."""
    return {**spoken({name: text(attrs, name) for name in RIGHTS})}


def who(attrs: Mapping[str, Any]) -> str:
    return next((said for name in WHO if (said := text(attrs, name))), "")


def link(licence: str) -> str:
    """Where the text of a Creative Commons licence is; "" for others."""
    if found := CREATIVE_COMMONS.search(licence):
        return f"https://creativecommons.org/licenses/{found[1].lower()}/{found[2]}/"
    return ""


def text(attrs: Mapping[str, Any], name: str) -> str:
    """An attribute on one line; "" where it is not there."""
    return " ".join(str(attrs.get(name) or "").split())


def spoken(texts: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in texts.items() if value}


def joined(texts: Iterable[str], between: str = "; ") -> str:
    """Different texts one after the other."""
    return between.join(dict.fromkeys(value for value in texts if value))
