"""The command line: it answers at once, shows every name, and says what is wrong in one sentence."""

import errno
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import PreTrainedModel

from bareformers import cli, execution, registry
from bareformers import run as running
from bareformers.recipe import load
from bareformers.training.trainer import is_whole
from tests.training import tiny


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """A recipe for language models, with a run of one step beside it."""
    return once(tiny.language_modelling(tmp_path_factory.mktemp("documents"), "average"))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """A recipe for translation, with a run of one step beside it."""
    return once(tiny.translation(tmp_path_factory.mktemp("pairs"), "average"))


def once(path):
    running.run(load(path, ["training.budget.steps=1"]), "bareformers run", log=lambda sentence: None)
    return path


def run_of(recipe):
    return recipe.parent / "run" / "average" / "seed0"


# What it shows


def python(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["bench", "--help"], ["list", "--help"]], ids=" ".join
)
def test_help_loads_nothing_heavy(words):
    """Half a second is what torch or transformers alone would take."""
    code = f"""
import sys
sys.argv = ["bareformers", *{words!r}]
from bareformers.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
heavy = ("torch", "transformers", "numpy", "omegaconf", "tokenizers", "matplotlib", "jinja2")
print("heavy:", sorted(set(heavy) & set(sys.modules)))
"""
    out = python(code)
    assert "Usage" in out and out.splitlines()[-1] == "heavy: []"


def test_help_names_every_verb(capsys):
    out = tiny.command(capsys, "--help").out
    assert all(verb in out for verb in ("run", "report", "evaluate", "translate", "generate", "bench", "list"))


def test_the_report_needs_no_torch(documents):
    code = f"""
import sys
sys.argv = ["bareformers", "report", {str(documents.parent / "run")!r}]
from bareformers.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
print("torch" in sys.modules)
"""
    assert python(code).splitlines()[-1] == "False"


@pytest.mark.parametrize("columns", [80, 200])
def test_list_shows_every_name(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    everything = tiny.command(capsys, "list")
    assert everything.code == 0
    kinds = {"mixers": registry.mixers, "blocks": registry.blocks, "sources": registry.sources}
    for kind, registered in kinds.items():
        shown = tiny.command(capsys, "list", kind).out.split()
        for name in registered.names():
            assert name in shown and name in everything.out.split(), f"{name} at {columns} columns"


def test_list_shows_options_and_papers(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    gaussian = paragraph(tiny.command(capsys, "list", "mixers").out, "gaussian")
    assert "std=1.0" in gaussian and "arXiv:2005.00742" in gaussian and "encoder, decoder, cross" in gaussian
    assert "constant (cross: linear in t)" in gaussian and "2*d*d" in gaussian
    sources = tiny.command(capsys, "list", "sources").out
    assert "validation_share=0.04" in sources and "dataset=..." in sources


def paragraph(text, name):
    """The lines about a mixer in what `list mixers` shows."""
    lines = [line.rstrip() for line in text.splitlines()]
    start = next(index for index, line in enumerate(lines) if line.startswith(f"{name} "))
    return "\n".join(lines[start : lines.index("", start)])


def test_list_fits_into_a_hundred_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    mixers = tiny.command(capsys, "list", "mixers").out
    assert max(len(line.rstrip()) for line in mixers.splitlines()) <= 100
    for name, cls in registry.mixers:
        about = " ".join(paragraph(mixers, name).split())
        assert f"parameters {cls.parameters_formula} state" in about, about
        assert len(paragraph(mixers, name).splitlines()) <= 12


@pytest.mark.parametrize(
    "formula, role, said",
    [
        ("2*t*d", "decoder", "linear in t"),
        ("0", "decoder", "none"),
        ("d if role == 'cross' else d + 1", "cross", "constant"),
        ("t*d if role == 'cross' else window*(d + h*normalize)", "decoder", "constant"),
        ("t*d if role == 'cross' else window*(d + h*normalize)", "cross", "linear in t"),
        ("d*features + (role == 'decoder')*num_convolutions*(conv - 1)*d", "decoder", "constant"),
        ("t*d if normalize else d", "decoder", "linear in t"),
    ],
)
def test_growth_of_a_state_in_words(formula, role, said):
    assert cli.growth(formula, role) == said


# What mixers cost


@pytest.fixture
def quick(monkeypatch):
    """Calls that are timed are not repeated."""
    monkeypatch.setattr("bareformers.measure.speed.SLICE", 0.0)
    monkeypatch.setenv("COLUMNS", "200")


SMALL = ("--lengths", "8,16", "--hidden-size", 16, "--heads", 2, "--rounds", 1)


def test_bench_shows_tables_and_leaves_a_report(tmp_path, capsys, quick):
    folder = tmp_path / "bench"
    words = ["bench", "--mixers", "{name: gaussian, std: 2},average", *SMALL, "--output", folder]
    outcome = tiny.command(capsys, *words)
    assert outcome.code == 0 and "dot_product was added" in outcome.err
    for said in ("time of a forward pass", "decoding state", "From which length on", "gaussian std=2"):
        assert said in outcome.out, said
    assert f"Report: {folder / 'report.html'}" in outcome.out
    written = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(written) == {"result.json", "results.csv", "report.html"}
    command = json.loads(written["result.json"])["command"]
    assert shlex.split(command)[:4] == ["bareformers", "bench", "--mixers", "{name: gaussian, std: 2},average"]
    (folder / "report.html").unlink()
    assert tiny.command(capsys, "report", folder).code == 0
    assert (folder / "report.html").read_bytes() == written["report.html"]
    assert tiny.command(capsys, *shlex.split(command)[1:]).code == 0


def test_the_report_of_a_benchmark_needs_no_torch(tmp_path, capsys, quick):
    folder = tmp_path / "bench"
    assert tiny.command(capsys, "bench", "--mixers", "average", *SMALL, "--output", folder).code == 0
    code = f"""
import sys
sys.argv = ["bareformers", "report", {str(folder)!r}]
from bareformers.cli import main
try:
    main()
except SystemExit as ended:
    assert not ended.code
print("torch" in sys.modules)
"""
    assert python(code).splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--mixers", "gausian"], "unknown mixer 'gausian'; did you mean 'gaussian'?"),
        (["--mixers", "none"], "mixer 'none' leaves its sub-layer out"),
        (["--lengths", "8,many"], "--lengths is a list of whole numbers above 0, as in 128,1024,4096, not '8,many'"),
        (["--role", "decodr"], "unknown role 'decodr'; did you mean 'decoder'?"),
        (["--hidden-size", "100"], "--hidden-size 100 is not a multiple of --heads 8; write --hidden-size 96"),
        (["--mixers", "average", "--lengths", "8", "--memory-limit", "0"], "nothing fits into 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_bench_cannot_do(tmp_path, capsys, words, sentence):
    assert sentence in tiny.command(capsys, "bench", *words, "--output", tmp_path / "bench").sentence


def test_bench_keeps_away_from_a_comparison(documents, capsys):
    folder = documents.parent / "run"
    sentence = tiny.command(capsys, "bench", "--mixers", "average", *SMALL, "--output", folder).sentence
    assert f"{folder} holds something else than a benchmark; write --output <another folder>" in sentence


def test_bench_takes_mixers_of_ones_own(tmp_path, capsys, quick, monkeypatch):
    module = tmp_path / "mine_of_bench.py"
    module.write_text(
        "from bareformers.mixers.base import TokenMixer\n"
        "from bareformers.registry import mixer\n"
        "@mixer('mine_of_bench', roles={'decoder'}, paper='ours', parameters='0', state='0')\n"
        "class Mine(TokenMixer):\n"
        "    def forward(self, x, mask, context=None, state=None, want_weights=False):\n"
        "        return 2 * x, None\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--plugin", "mine_of_bench", "--mixers", "mine_of_bench", *SMALL, "--output", tmp_path / "bench"]
    try:
        outcome = tiny.command(capsys, "bench", *words)
    finally:
        tiny.forget(registry.mixers, "mine_of_bench")
    assert outcome.code == 0 and "mine_of_bench" in outcome.out


# What is wrong, by the list


def test_a_misspelt_mixer(documents, tmp_path, capsys):
    words = ["run", documents, "variants.average.mixer=gausian", f"output={tmp_path / 'run'}"]
    assert "unknown mixer 'gausian'; did you mean 'gaussian'?" in tiny.command(capsys, *words).sentence


def test_an_unknown_key(documents, capsys):
    sentence = tiny.command(capsys, "run", documents, "trainig.clip=1").sentence
    assert "unknown key 'trainig'; did you mean 'training'?" in sentence


def test_line_counts_that_differ(pairs, tmp_path, capsys):
    root = shutil.copytree(pairs.parent / "pairs", tmp_path / "pairs")
    with (root / "val.en").open("a", encoding="utf-8") as file:
        file.write("one more\nand another\n")
    sentence = tiny.command(capsys, "run", pairs, f"data.root={root}", f"output={tmp_path / 'run'}").sentence
    assert f"{root / 'val.de'} has 16 lines and {root / 'val.en'} has 18" in sentence


@pytest.mark.parametrize("content", [b"", b" \n\n"])
def test_an_empty_file(documents, tmp_path, capsys, content):
    (tmp_path / "empty.txt").write_bytes(content)
    sentence = tiny.command(capsys, "run", documents, f"data.path={tmp_path / 'empty.txt'}").sentence
    assert f"{tmp_path / 'empty.txt'} is empty" in sentence


def test_bytes_that_are_not_utf8(documents, tmp_path, capsys):
    (tmp_path / "latin.txt").write_bytes("ein\nzwei\nfünf\n".encode("latin-1"))
    sentence = tiny.command(capsys, "run", documents, f"data.path={tmp_path / 'latin.txt'}").sentence
    assert f"{tmp_path / 'latin.txt'}, line 3: byte 0xfc is not valid UTF-8" in sentence


def test_a_vocabulary_larger_than_the_corpus_can_give(documents, capsys):
    sentence = tiny.command(capsys, "run", documents, "task.vocab_size=50k").sentence
    assert "vocab_size 50000 is more than the training text can give" in sentence and "or less" in sentence


def test_a_sentence_beyond_the_maximum(pairs, tmp_path, capsys):
    words = ["run", pairs, "task.max_length=12", f"output={tmp_path / 'run'}", "training.budget.steps=1"]
    sentence = tiny.command(capsys, *words, "task.too_long=error").sentence
    assert "longer than 12 tokens (the longest has" in sentence and "write a larger task.max_length" in sentence
    for choice, word in (("drop", "Dropped"), ("cut", "Cut")):
        outcome = tiny.command(capsys, *words, f"task.too_long={choice}", f"output={tmp_path / choice}")
        assert outcome.code == 0 and f"{word} " in outcome.err and "train pairs longer than 12 tokens" in outcome.err
        notes = json.loads((tmp_path / choice / "result.json").read_text(encoding="utf-8"))["notes"]
        assert any(note.startswith(word) for note in notes)


def test_a_folder_of_another_recipe(documents, tmp_path, capsys):
    folder = tmp_path / "run" / "average" / "seed0"
    folder.mkdir(parents=True)
    found = yaml.safe_load((run_of(documents) / "recipe.yaml").read_text(encoding="utf-8"))
    found["model"]["hidden_size"] = 99
    (folder / "recipe.yaml").write_text(yaml.safe_dump(found), encoding="utf-8")
    before = (folder / "recipe.yaml").read_bytes()
    words = ["run", documents, "training.budget.steps=1", f"output={tmp_path / 'run'}"]
    sentence = tiny.command(capsys, *words).sentence
    assert f"{folder} belongs to another recipe: model.hidden_size differs; write output=" in sentence
    assert (folder / "recipe.yaml").read_bytes() == before and len(list(tmp_path.rglob("*"))) == 4


def test_no_space_left(documents, tmp_path, capsys, monkeypatch):
    words = ["run", documents, "training.budget.steps=4", "training.checkpoints=2", f"output={tmp_path / 'run'}"]
    saved, save = [], PreTrainedModel.save_pretrained

    def full(self, folder, *args, **kwargs):
        saved.append(folder)
        if len(saved) > 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        save(self, folder, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", full)
        sentence = tiny.command(capsys, *words).sentence
    assert sentence.startswith("no space left on the device") and "goes on from the last checkpoint" in sentence
    run = tmp_path / "run" / "average" / "seed0"
    assert [path.name for path in run.glob("checkpoints/*") if is_whole(path)] == ["checkpoint-2"]
    outcome = tiny.command(capsys, *words)
    assert outcome.code == 0 and (tmp_path / "run" / "report.html").exists()
    rows = tiny.metrics(run)
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]


def test_ctrl_c_outside_of_training(documents, tmp_path, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    words = ["run", documents, f"output={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        patch.setattr(execution, "evaluate", interrupted)
        sentence = tiny.command(capsys, *words).sentence
    assert sentence == f"stopped; resume with: bareformers {shlex.join(map(str, words))}"
    monkeypatch.setattr(running, "load_data", interrupted)
    assert tiny.command(capsys, *words).sentence == "stopped"


def test_a_bug_of_ours_is_not_dressed_up(documents, capsys, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("ours")

    monkeypatch.setattr(running, "run", broken)
    with pytest.raises(RuntimeError, match="ours"):
        tiny.command(capsys, "run", documents)


# Folders and recipes that are not there, or not what they should be


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["run", "nowhere.yaml"], "there is no recipe nowhere.yaml"),
        (["report", "nowhere"], "cannot read nowhere/result.json: No such file or directory"),
        (["evaluate", "nowhere"], "there is no run folder nowhere"),
        (["translate", "nowhere"], "there is no run folder nowhere"),
        (["generate", "nowhere"], "there is no run folder nowhere"),
        (["list", "mixer"], "unknown kind of name 'mixer'; did you mean 'mixers'?"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_not_there(capsys, words, sentence):
    assert sentence in tiny.command(capsys, *words).sentence


@pytest.mark.parametrize("verb", ["evaluate", "translate", "generate"])
def test_the_folder_of_the_whole_comparison(documents, capsys, verb):
    folder = documents.parent / "run"
    sentence = tiny.command(capsys, verb, folder).sentence
    assert f"{folder} holds 1 runs; name one of them, such as {run_of(documents)}" in sentence


def test_a_folder_without_a_model(tmp_path, capsys):
    assert "holds no trained model" in tiny.command(capsys, "evaluate", tmp_path).sentence
    (tmp_path / "run" / "model").mkdir(parents=True)
    assert "holds no trained model" in tiny.command(capsys, "generate", tmp_path / "run").sentence


def test_a_model_without_its_recipe(documents, capsys):
    sentence = tiny.command(capsys, "evaluate", run_of(documents) / "model").sentence
    assert "has no recipe.yaml, so its data is not known" in sentence


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_model(documents, tmp_path, capsys, name):
    folder = shutil.copytree(run_of(documents), tmp_path / "run")
    whole = (folder / "model" / name).read_bytes()
    (folder / "model" / name).write_bytes(whole[: len(whole) // 2])
    sentence = tiny.command(capsys, "generate", folder, "--prompt", "the").sentence
    assert f"the model in {folder / 'model'} is damaged or incomplete" in sentence


def test_the_report_of_one_run(documents, capsys):
    sentence = tiny.command(capsys, "report", run_of(documents)).sentence
    assert f"is one run; give the folder of the comparison, {documents.parent / 'run'}" in sentence


def test_a_damaged_result(documents, tmp_path, capsys):
    (tmp_path / "result.json").write_text('{"name": "half', encoding="utf-8")
    assert "is not a Comparison of this version" in tiny.command(capsys, "report", tmp_path).sentence


# Verbs on the wrong kind of model, or with too much


def test_a_language_model_does_not_translate(documents, capsys):
    sentence = tiny.command(capsys, "translate", run_of(documents), stdin=b"ein Hund").sentence
    assert "which does not translate; use `bareformers generate`" in sentence


def test_a_translation_model_does_not_continue(pairs, capsys):
    sentence = tiny.command(capsys, "generate", run_of(pairs), "--prompt", "ein").sentence
    assert "holds a model that writes targets for sources; use `bareformers translate`" in sentence


def test_more_tokens_than_the_model_was_trained_on(documents, capsys):
    run = run_of(documents)
    sentence = tiny.command(capsys, "generate", run, "--prompt", "the ", "--tokens", 32).sentence
    assert "this model was trained on 32 at most; write --tokens " in sentence
    fits = sentence.partition("--tokens ")[2].split()[0]
    assert tiny.command(capsys, "generate", run, "--prompt", "the ", "--tokens", fits).code == 0
    assert "shorten it" in tiny.command(capsys, "generate", run, "--prompt", "the " * 99).sentence


def test_a_line_too_long_to_translate(pairs, capsys):
    lines = f"ba\n\n{'babu ' * 40}\n".encode()
    sentence = tiny.command(capsys, "translate", run_of(pairs), stdin=lines).sentence
    assert sentence.startswith("line 3 has ") and "this model reads 32 at most; split it" in sentence


@pytest.mark.parametrize("verb", ["translate", "generate"])
def test_standard_input_that_is_not_utf8(documents, pairs, capsys, verb):
    run = run_of(pairs if verb == "translate" else documents)
    sentence = tiny.command(capsys, verb, run, stdin="eins\nfünf\n".encode("latin-1")).sentence
    assert sentence == "line 2 of standard input is not UTF-8"


# In a process of its own


@pytest.mark.parametrize("words", [["run", "nowhere.yaml"], ["run", None, "trainig.clip=1"]], ids=["file", "key"])
def test_exit_code_and_sentence_of_the_real_thing(documents, words):
    words = [str(documents) if word is None else word for word in words]
    done = subprocess.run([sys.executable, "-m", "bareformers", *words], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("bareformers: ")


@pytest.mark.parametrize(
    "words", [["rum"], ["run"], ["list", "--all"], ["translate", "x", "--beams", "0"]], ids=" ".join
)
def test_words_that_are_no_command(capsys, words):
    outcome = tiny.command(capsys, *words)
    assert outcome.code == 2 and outcome.err.strip() and "Traceback" not in outcome.err


def test_the_entry_point_is_the_one_of_the_package():
    assert 'bareformers = "bareformers.cli:main"' in (Path(__file__).parents[1] / "pyproject.toml").read_text()
