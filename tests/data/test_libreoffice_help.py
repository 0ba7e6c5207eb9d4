"""Joining translated HTML pages, and the packages themselves where apt-get can fetch them."""

import os
import shutil

import pytest

from bareformers.data.sources import libreoffice_help
from bareformers.data.sources.libreoffice_help import LibreofficeHelp, join_pages, paragraphs
from bareformers.errors import InputError

PAGE = """<html><body><p id="par_nav">navigation</p><div id="DisplayArea" lang="en">
<h1 id="hd_id1" dir="auto"><a name="x"></a>Big &amp;
   small</h1>
<p id="par_id2">Press <span class="switchinline"><span hidden="true" id="MACx" class="MAC"><b>Command<br></b></span
><span hidden="true" id="defaultx">Ctrl</span></span>+<span class="keycode">F</span>.
<p id="par_id2">Once more.</p>
<p id="par_id3" class="codeintable">print(1)</p>
<p>No id.</p><p id="bm_system">Other id.</p><p id="par_id4"><img src="a.png" alt="b"></p>
</div></body></html>"""


def test_paragraphs_by_id_and_occurrence():
    assert paragraphs(PAGE) == {
        ("hd_id1", 0): "Big & small",
        ("par_id2", 0): "Press Ctrl+F.",
        ("par_id2", 1): "Once more.",
        ("par_id4", 0): "",
    }


def write_help(cache, language, folder, pages):
    for name, texts in pages.items():
        file = (
            cache / f"libreoffice_help/libreoffice-help-{language}_1.0/usr/share/libreoffice/help/{folder}/text/{name}"
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f'<p id="par_{key}">{text}</p>' for key, text in texts.items()), encoding="utf-8")
    return cache


@pytest.fixture
def small_help(tmp_path, monkeypatch):
    monkeypatch.setenv("BAREFORMERS_CACHE", str(tmp_path))
    english = {f"p{page}.html": {"a": f"this is page {page}", "b": "the same everywhere"} for page in range(40)}
    german = {f"p{page}.html": {"a": f"das ist Seite {page}", "b": "überall das Gleiche"} for page in range(40)}
    english["p0.html"] |= {"short": "two words", "kept": "Not at all translated", "only": "only here in English"}
    german["p0.html"] |= {"short": "drei ganze Wörter", "kept": "Not at all translated"}
    write_help(tmp_path, "en-us", "en-US", english | {"alone.html": {"a": "no such page there"}})
    return write_help(tmp_path, "de", "de", german)


def test_pages_are_joined_and_cleaned(small_help):
    corpus = LibreofficeHelp().load()
    pairs = corpus.train + corpus.validation + corpus.test
    expected = {(f"this is page {page}", f"das ist Seite {page}") for page in range(40)}
    assert set(pairs) == expected | {("the same everywhere", "überall das Gleiche")} and len(pairs) == 41
    assert corpus.languages == ("en", "de")
    assert "Joined 82 paragraphs of libreoffice-help-en-us_1.0 and libreoffice-help-de_1.0 (MPL-2.0)." in corpus.notes
    assert any("1 untranslated, 1 with a side outside 3 to 60 words, and 39 repeated" in note for note in corpus.notes)


def test_both_directions_have_the_same_sides(small_help):
    there, back = LibreofficeHelp().load(), LibreofficeHelp(source="de", target="en-us").load()
    assert back.test == tuple((target, source) for source, target in there.test)
    assert back.languages == ("de", "en")


def test_join_is_by_path_and_id(small_help):
    roots = [next(small_help.glob(f"libreoffice_help/*/usr/share/libreoffice/help/{name}")) for name in ("en-US", "de")]
    pages = dict(join_pages(*roots))
    assert "text/p7.html" in pages and "text/alone.html" not in pages


def test_a_half_extracted_folder_is_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("BAREFORMERS_CACHE", str(tmp_path))

    def run(command, folder, what):
        if command[0] == "apt-get":
            (tmp_path / "libreoffice_help" / folder / "libreoffice-help-de_1%3a2_all.deb").write_text("")
        else:
            (tmp_path / "libreoffice_help" / folder / "unpacked").mkdir()
            if fails:
                raise InputError("killed")

    monkeypatch.setattr(libreoffice_help, "_run", run)
    fails = True
    with pytest.raises(InputError, match="killed"):
        libreoffice_help._package("de")
    assert list((tmp_path / "libreoffice_help").iterdir()) == []
    fails = False
    assert libreoffice_help._package("de").name == "libreoffice-help-de_1%3a2"


def test_without_apt_get(tmp_path, monkeypatch):
    monkeypatch.setenv("BAREFORMERS_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match="cannot download the package libreoffice-help-en-us without apt-get"):
        LibreofficeHelp().load()


@pytest.mark.skipif(shutil.which("apt-get") is None, reason="there is no apt-get here")
@pytest.mark.skipif(bool(os.environ.get("BAREFORMERS_OFFLINE")), reason="BAREFORMERS_OFFLINE is set")
def test_the_packages_themselves(tmp_path, monkeypatch):
    monkeypatch.setenv("BAREFORMERS_CACHE", str(tmp_path))
    try:
        folder = libreoffice_help._package("en-us")
    except InputError as error:
        pytest.skip(f"apt-get cannot fetch here: {error}")
    root = libreoffice_help._pages_root(folder)
    page = next(root.glob("text/swriter/main0000.html")).read_text(encoding="utf-8")
    assert len([text for text in paragraphs(page).values() if text]) > 3
    with pytest.raises(InputError, match="cannot download the package libreoffice-help-xx"):
        libreoffice_help._package("xx")
