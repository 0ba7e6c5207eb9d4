"""README, the other pages and the code say the same: commands, Python, links and tables."""

import os
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import typer
import yaml

from bareformers import registry
from bareformers import run as running
from bareformers.cli import app
from bareformers.models import BareConfig
from bareformers.recipe import Distillation, Evaluation, Finetune, Recipe, Task, Training, load, load_distillation
from tests.training import tiny

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in ("runs", "build", "dist") for part in path.relative_to(ROOT).parts)
)
FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|(?:src|href)=\"([^\"]+)\"")
VERBS = typer.main.get_command(app).commands
PLACE = "PLACE"  # stands for <what a reader fills in>
STOPS = ("|", "||", "&&", ";", ">", ">>", "2>", "<", "&")


def blocks(page, *languages):
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def shell(page):
    """Shell blocks; of consoles the lines that are typed."""
    typed = ["\n".join(re.findall(r"^\$ .*", text, re.MULTILINE)) for text in blocks(page, "console")]
    return blocks(page, "bash", "sh", "shell") + typed


def prose(page):
    """The page without code."""
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))


def commands(page):
    """The words behind every `bareformers` of the page's shell blocks, up to what the shell reads itself."""
    found = []
    for block in shell(page):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(
                re.sub(r"<[^<>|]+>", PLACE, line.removeprefix("$ ")), posix=True, punctuation_chars="|&;<>"
            )
            lexer.whitespace_split = True
            words = list(lexer)
            for start, word in enumerate(words):
                before = words[start - 1] if start else STOPS[0]
                if Path(word).name == "bareformers" and (before in (*STOPS, "-m", "time") or "=" in before):
                    rest = words[start + 1 :]
                    stop = next((index for index, word in enumerate(rest) if word in STOPS), len(rest))
                    found.append(rest[:stop])
    return found


def mentioned():
    return [pytest.param(page, words, id=" ".join(words)) for page in PAGES for words in commands(page)]


def relative(page):
    return page.relative_to(ROOT).as_posix()


def test_there_is_a_readme():
    assert README.is_file()
    assert any(words[:1] == ["run"] for words in commands(README)), "the README shows no `bareformers run`"


@pytest.mark.parametrize("page, words", mentioned())
def test_commands_exist(page, words):
    if not words or words[0].startswith("-"):
        assert words in ([], ["--help"], ["--version"])
        return
    assert words[0] in VERBS, f"{relative(page)}: there is no verb {words[0]!r}"
    VERBS[words[0]].make_context(words[0], words[1:], resilient_parsing="--help" in words)


@pytest.mark.parametrize("page, words", mentioned())
def test_recipes_and_their_keys_exist(page, words):
    loaders = {"run": load, "distill": load_distillation}
    if not words or words[0] not in loaders:
        return
    recipe, *overrides = [word for word in words[1:] if not word.startswith("-")]
    if not (ROOT / recipe).is_file():
        assert PLACE in recipe or not recipe.startswith("recipes/"), f"{relative(page)}: there is no {recipe}"
        return
    loaders[words[0]](ROOT / recipe, [override for override in overrides if "=" in override])


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_make_targets_exist(page):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for block in shell(page):
        for target in re.findall(r"^(?:\$ )?make ([a-z-]+)", block, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{relative(page)}: make {target}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page):
    for groups in LINK.findall(prose(page)):
        target = next(filter(None, groups)).partition("#")[0]
        if target and not re.match(r"[a-z]+:", target):
            there = (page.parent / target).resolve()
            assert there.exists() and there.is_relative_to(ROOT), f"{relative(page)} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_into_a_page_name_a_heading(page):
    for groups in LINK.findall(prose(page)):
        file, _, anchor = next(filter(None, groups)).partition("#")
        there = page.parent / file if file else page
        if anchor and not re.match(r"[a-z]+:", file) and there.suffix == ".md":
            headings = re.findall(r"^#+ +(.*?)\s*$", FENCE.sub("", there.read_text(encoding="utf-8")), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, f"{relative(page)} links to #{anchor}"


@pytest.mark.parametrize("kind", ["mixers", "blocks"])
def test_every_name_has_a_row_in_the_readme(kind):
    text = README.read_text(encoding="utf-8")
    for name in getattr(registry, kind).names():
        assert re.search(rf"^\|.*`{name}`", text, re.MULTILINE), f"the README has no row for {name}"


@pytest.fixture
def as_it_was(tmp_path, monkeypatch):
    """An empty folder to work in; what a page registers is taken back."""
    monkeypatch.setenv("BAREFORMERS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    kinds = (registry.mixers, registry.blocks, registry.sources)
    before = [set(kind.names()) for kind in kinds]
    yield tmp_path
    for kind, names in zip(kinds, before, strict=True):
        tiny.forget(kind, *set(kind.names()) - names)


def have_runs_of(text, folder):
    """Make the runs that a page reads, by the recipes that their folders are named for."""
    names = {yaml.safe_load(path.read_text(encoding="utf-8"))["name"]: path for path in ROOT.rglob("recipes/**/*.yaml")}
    for name in {found.partition("/")[0] for found in re.findall(r"runs/([\w.-]+(?:/[\w.+-]+)*)", text)} & set(names):
        for path in (*tiny.begun_by(names[name], ROOT / "recipes"), names[name]):
            recipe = load(path, [*tiny.two_steps(path, folder), f"output={folder / 'runs' / tiny.name_of(path)}"])
            running.run(recipe, "bareformers run", log=lambda sentence: None)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=relative)
def test_python_runs(page, as_it_was, monkeypatch):
    """The blocks of a page in order, as one program."""
    program = blocks(page, "python")
    have_runs_of("\n".join(program), as_it_was)
    if (ROOT / "recipes").is_dir():
        os.symlink(ROOT / "recipes", as_it_was / "recipes")
    module = types.ModuleType("page_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for number, block in enumerate(program, 1):
        exec(compile(block, f"{relative(page)}, block {number}", "exec", dont_inherit=True), vars(module))


SECTIONS = {"Top": Recipe, "task": Task, "training": Training, "evaluation": Evaluation}


def documented(section, page="recipes.md"):
    """The keys in the first column of a section's tables in a page of docs."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    part = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    cells = re.findall(r"^\|([^|]*)\|", part[1], re.MULTILINE) if part else []
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)}


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_of_a_recipe_is_documented(section):
    assert documented(section) == set(SECTIONS[section].model_fields)


def test_every_key_of_a_distillation_is_documented():
    own = {*Distillation.model_fields, *Finetune.model_fields} - set(Training.model_fields)
    assert documented("The recipe", "distillation.md") == own


def test_documented_keys_of_the_model_exist():
    keys = documented("model")
    assert keys and all(hasattr(BareConfig(), key) for key in keys)
