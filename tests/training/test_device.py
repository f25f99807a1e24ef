"""The device that a setting names, and one line for any that is not there."""

import pytest
import torch

from miniclip.errors import SettingError
from miniclip.training.device import find_device, take_gpu


def test_auto_and_the_cpu_are_always_there() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(("num_seen", "device"), [(1, "cuda"), (4, "cuda:1")])
def test_a_process_takes_its_own_gpu_or_the_only_one_it_sees(
    num_seen: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_seen)
    assert find_device("auto") == torch.device(device)


@pytest.mark.parametrize(("name", "taken"), [("cuda:1", ["cuda:1"]), ("cuda", []), ("cpu:0", [])])
def test_a_gpu_with_a_number_is_the_current_one(
    name: str, taken: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: found.append(str(device)))
    take_gpu(torch.device(name))
    assert found == taken


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:99", "cuda:-1", ""])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SettingError, match="device"):
        find_device(name)
