"""Runs on ray: the numbers of runs one after the other, and what is said where ray cannot be used."""

import builtins
import importlib.util
import json
import socket
from functools import partial
from types import SimpleNamespace

import pytest
import yaml

from bareformers import distribution, sweep
from bareformers.errors import InputError, Interrupted
from bareformers.recipe import load
from tests.test_sweep import SIZES, recipe_at
from tests.training import tiny

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
TIMES = ("created", "seconds", "tokens_per_second", "speed", "command", "output")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAREFORMERS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def cluster():
    """Ray on this machine, with room for two runs at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribution, "processors", lambda: 2)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        with distribution.started("ray") as found:
            yield found


def timeless(found):
    """What a file says, without times and names."""
    if isinstance(found, dict):
        return {key: timeless(value) for key, value in found.items() if key not in TIMES}
    return [timeless(each) for each in found] if isinstance(found, list) else found


def contents(folder):
    """Everything that a folder of runs holds that does not depend on time, by name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json" and path.name not in ("ledger.json", "environment.json"):
            found[name] = timeless(json.loads(path.read_text(encoding="utf-8")))
        elif path.name == "metrics.jsonl":
            found[name] = tiny.metrics(path.parent)
        elif path.suffix in (".safetensors", ".npz", ".txt") and path.name != "log.txt":
            found[name] = path.read_bytes()
        elif path.is_file():
            found[name] = ""
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    return recipe_at(
        tmp_path_factory.mktemp("ray"), sweep={"sizes": SIZES}, seeds=[0, 1], variants={"average": {"mixer": "average"}}
    )


@needs_ray
@pytest.mark.slow
def test_two_workers_give_what_one_after_the_other_gives(recipe, cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("bareformers.report.html.build", lambda folder: None)
    said = []
    sweep.run(load(recipe, [f"output={tmp_path / 'one'}"]), "", log=lambda sentence: None)
    carry = partial(distribution.spread, cluster)
    sweep.run(load(recipe, [f"output={tmp_path / 'two'}"]), "", log=said.append, carry=carry)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert list(one) == list(two) and sum(name.endswith("model.safetensors") for name in one) == 4
    for name in one:
        assert one[name] == two[name], name
    assert "4 runs on 2 processors, 1 for each" in said and any("trained on" in sentence for sentence in said)
    threads = {json.loads(path.read_text())["threads"] for path in (tmp_path / "two").rglob("environment.json")}
    assert threads == {"1"}

    damaged = tmp_path / "two" / "large" / "average" / "seed1" / "result.json"
    damaged.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="result.json is not a RunResult of this version") as raised:
        sweep.run(load(recipe, [f"output={tmp_path / 'two'}"]), "", log=said.append, carry=carry)
    assert "\n" not in str(raised.value) and type(raised.value) is InputError


def test_ctrl_c_stops_all_workers():
    """Those that wait and those that train, which are given time to write a checkpoint; what had ended has ended."""
    stopped, said, waits = [], [], []

    def wait(tasks, num_returns, timeout=None):
        waits.append((list(tasks), timeout))
        if len(waits) == 2:
            raise KeyboardInterrupt
        return tasks[:1], tasks[1:]

    numbers = iter(range(3))
    ray = SimpleNamespace(
        nodes=lambda: [{"Alive": True, "Resources": {"CPU": 64}}],
        cluster_resources=lambda: {"CPU": 64},
        remote=lambda **resources: lambda function: SimpleNamespace(remote=lambda *given: f"task {next(numbers)}"),
        put=lambda given: given,
        get=lambda task: (["trained"], None),
        wait=wait,
        cancel=stopped.append,
        exceptions=SimpleNamespace(RayTaskError=RuntimeError, RayError=OSError),
    )
    jobs = [
        SimpleNamespace(run=SimpleNamespace(label=f"run {number}", recipe={"plugins": []}), data=None, make=None)
        for number in range(3)
    ]
    with pytest.raises(Interrupted, match="stopped, with a checkpoint"):
        distribution.spread(ray, jobs, said.append)
    assert stopped == ["task 1", "task 2"] and "run 0: ended, 1 of 3" in said
    assert waits[-1] == (["task 1", "task 2"], distribution.STOPPING)


# What is said where it cannot be used


def sentence_of(recipe, capsys, on, *overrides):
    return tiny.command(capsys, "run", recipe, *overrides, "--on", on).sentence


@needs_ray
def test_an_address_that_does_not_answer(recipe, capsys, tmp_path):
    with socket.socket() as taken, socket.socket() as silent:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = taken.getsockname()[1]
        sentence = sentence_of(recipe, capsys, f"127.0.0.1:{port}", f"output={tmp_path / 'run'}")
        assert sentence.startswith(
            f"no ray cluster answers at 127.0.0.1:{port}; start one with `ray start --head --port="
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(distribution, "PATIENCE", 0.2)
            assert "no ray cluster answers" in sentence_of(recipe, capsys, f"ray://127.0.0.1:{silent.getsockname()[1]}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("on", ["raay", "head", "head:port", ":6379", "head:99999", "http://head:80"])
def test_an_address_that_is_none(recipe, capsys, on):
    assert "--on is ray, or the address of a ray cluster as in head:6379" in sentence_of(recipe, capsys, on)


def test_without_ray(recipe, capsys, monkeypatch):
    found = builtins.__import__
    monkeypatch.delitem(__import__("sys").modules, "ray", raising=False)

    def without(name, *given, **more):
        if name == "ray":
            raise ImportError("No module named 'ray'")
        return found(name, *given, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    assert sentence_of(recipe, capsys, "ray") == "--on needs ray; pip install 'bareformers[ray]'"


def test_only_runs_that_do_not_wait_for_each_other(capsys, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"kind": "scan_and_snap", "name": "small"}), encoding="utf-8")
    sentence = sentence_of(path, capsys, "ray")
    assert sentence == "--on is for recipes of kind comparison or sweep, not scan_and_snap; leave it out"
