"""LibreOffice's help, translated by people into dozens of languages, as Debian packages it (MPL-2.0)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

from bareformers.data.corpus import Corpus, Pair, cache_folder
from bareformers.errors import InputError
from bareformers.registry import source

TEXT_TAGS = {"p", "h1", "h2", "h3", "h4", "h5", "h6"}
VOID_TAGS = {"br", "img", "input", "link", "meta", "hr", "col", "wbr"}


@source("libreoffice_help")
@dataclass
class LibreofficeHelp:
    """Sentence pairs from LibreOffice's help, downloaded by apt-get (Debian, Ubuntu) without being installed."""

    source: str = "en-us"  # languages as in the names of the packages libreoffice-help-*
    target: str = "de"
    min_words: int = 3  # of either side
    max_words: int = 60
    validation_share: float = 0.03  # of the help's pages, chosen by hash
    test_share: float = 0.03

    def load(self) -> Corpus:
        folders = [_package(language) for language in (self.source, self.target)]
        joined = list(join_pages(*(_pages_root(folder) for folder in folders)))
        if not joined:
            raise InputError(f"libreoffice_help: no paragraph is in both {self.source} and {self.target}")
        pairs: dict[Pair, str] = {}  # the page that a pair is first on
        untranslated = unfit = 0
        for page, pair in joined:
            if pair[0] == pair[1]:
                untranslated += 1
            elif not all(self.min_words <= len(side.split()) <= self.max_words for side in pair):
                unfit += 1
            else:
                pairs.setdefault(pair, page)
        copies = len(joined) - untranslated - unfit - len(pairs)
        versions = " and ".join(folder.name.replace("%3a", ":") for folder in folders)
        return Corpus.divided(
            "pairs",
            ((page, pair) for pair, page in pairs.items()),
            validation_share=self.validation_share,
            test_share=self.test_share,
            notes=[
                f"Joined {len(joined):,} paragraphs of {versions} (MPL-2.0).",
                f"Of these removed {untranslated:,} untranslated, {unfit:,} with a side outside {self.min_words} to "
                f"{self.max_words} words, and {copies:,} repeated.",
            ],
            languages=(self.source.partition("-")[0], self.target.partition("-")[0]),
        )


def join_pages(source_root: Path, target_root: Path) -> Iterator[tuple[str, Pair]]:
    """Paragraphs that two trees of help pages share, as (page, (source, target)), in the order of the source.

    Pages are joined by their path below the roots, paragraphs by element id and its occurrence on the page.
    """
    for path in sorted(source_root.rglob("*.html")):
        page = path.relative_to(source_root).as_posix()
        other = target_root / page
        if other.is_file():
            targets = paragraphs(other.read_text(encoding="utf-8"))
            for key, text in paragraphs(path.read_text(encoding="utf-8")).items():
                if targets.get(key) and text:
                    yield page, (text, targets[key])


def paragraphs(page: str) -> dict[tuple[str, int], str]:
    """The text of every paragraph and heading with an id, by (id, occurrence), white space squeezed."""
    parser = _Paragraphs()
    _, _, body = page.partition('id="DisplayArea"')  # the rest is navigation, and most of the page
    parser.feed(body or page)
    parser.close()
    return parser.texts


class _Paragraphs(HTMLParser):
    """Collects text below `<p id=...>` and `<h1 id=...>`; of platform switches it reads the default alone."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: dict[tuple[str, int], str] = {}
        self._seen: Counter[str] = Counter()
        self._open: tuple[str, str] | None = None  # tag and id of the element being read
        self._pieces: list[str] = []
        self._hidden = 0  # depth inside a variant that is not the default

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        name = found.get("id") or ""
        if tag in TEXT_TAGS:
            self._close()
            if name.startswith(("par_", "hd_")) and "code" not in (found.get("class") or ""):
                self._open = (tag, name)
        elif self._hidden:
            self._hidden += tag not in VOID_TAGS
        elif "hidden" in found and not name.startswith("default"):
            self._hidden = int(self._open is not None)

    def handle_endtag(self, tag: str) -> None:
        if self._open and tag == self._open[0]:
            self._close()
        elif self._hidden and tag not in VOID_TAGS:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if self._open and not self._hidden:
            self._pieces.append(data)

    def close(self) -> None:
        super().close()
        self._close()

    def _close(self) -> None:
        if self._open:
            name = self._open[1]
            self.texts[name, self._seen[name]] = " ".join("".join(self._pieces).split())
            self._seen[name] += 1
        self._open, self._pieces, self._hidden = None, [], 0


def _package(language: str) -> Path:
    """The folder `<package>_<version>` with the unpacked help of a language; downloads it where it is not cached."""
    package = f"libreoffice-help-{language.lower()}"
    cache = cache_folder() / "libreoffice_help"
    if cached := sorted(cache.glob(f"{package}_*")):
        return cached[-1]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".") as scratch:
        _run(["apt-get", "download", package], scratch, f"cannot download the package {package}")
        archive = next(Path(scratch).glob("*.deb"))
        _run(["dpkg-deb", "-x", archive.name, "unpacked"], scratch, f"cannot unpack {archive.name}")
        folder = cache / archive.stem.removesuffix("_all")
        try:
            os.replace(Path(scratch, "unpacked"), folder)  # whole or not at all
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    return folder


def _run(command: list[str], folder: str, what: str) -> None:
    if shutil.which(command[0]) is None:
        raise InputError(f"libreoffice_help: {what} without {command[0]}, which Debian and Ubuntu have")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
    if done.returncode:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("E: ")] or [done.stderr.strip()]
        raise InputError(f"libreoffice_help: {what} ({reasons[0]}): check the language and the network")


def _pages_root(folder: Path) -> Path:
    """The one folder below `usr/share/libreoffice/help`, named for the language in LibreOffice's spelling."""
    found = [path.parent for path in sorted(folder.glob("usr/share/libreoffice/help/*/text"))]
    if len(found) != 1:
        raise InputError(f"libreoffice_help: {folder} holds no help pages: remove it to have it downloaded again")
    return found[0]
