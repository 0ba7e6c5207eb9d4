import pytest
import torch

from bareformers.measure import environment


def test_what_a_reader_of_a_number_needs():
    found = environment.describe()
    needed = {"processor", "cores", "threads", "instructions", "dtype", "device", "system", "python"}
    assert needed | {"torch", "transformers", "tokenizers", "sacrebleu"} <= set(found)
    assert all(isinstance(value, str) and value for value in found.values())
    assert found["threads"] == str(torch.get_num_threads())
    assert torch.__version__.startswith(found["torch"].partition("+")[0])


def test_bf16_pays_or_not(monkeypatch):
    cpu = torch.device("cpu")
    assert isinstance(environment.bf16_pays(cpu), bool)
    for flags, pays in (("fpu avx2 avx512f", False), ("fpu avx512_bf16", True), ("amx_bf16", True), ("", False)):
        monkeypatch.setattr(environment, "_cpuinfo", lambda flags=flags: {"flags": flags})
        assert environment.bf16_pays(cpu) is pays
    assert environment.bf16_pays(torch.device("meta")) is False


@pytest.mark.parametrize("pays", [True, False])
def test_precision(monkeypatch, pays):
    monkeypatch.setattr(environment, "bf16_pays", lambda device: pays)
    cpu = torch.device("cpu")
    found = [environment.uses_bf16(precision, cpu) for precision in ("fp32", "bf16", "auto")]
    assert found == [False, True, pays]
    assert [environment.describe(each)["dtype"] for each in ("fp32", "bf16")] == ["fp32", "bf16 autocast"]


def test_a_system_without_cpuinfo(monkeypatch):
    monkeypatch.setattr(environment, "_cpuinfo", dict)
    assert environment.describe()["processor"]
