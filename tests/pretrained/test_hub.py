"""Models on the hub, without a network: what is told, and what is sent to a server of our own."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from miniclip import MiniCLIP
from miniclip.errors import SettingError, UserError
from miniclip.pretrained.hub import is_repo_name
from tests.bundles import bundle_of


def test_names_of_the_hub_are_told_from_paths() -> None:
    assert is_repo_name("owner/model-1.0")
    assert not any(map(is_repo_name, ("model", "outputs/miniclip/run", "/absolute/path", "../up/there")))


@pytest.fixture
def refusing_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A hub that lets nobody in; the paths it was asked for."""
    asked: list[str] = []

    class Refuse(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(401)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refuse)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield asked
    server.shutdown()
    server.server_close()


def test_a_model_that_the_hub_does_not_give_is_one_line(refusing_hub: list[str]) -> None:
    with pytest.raises(UserError, match="owner/model is neither a path here nor to be had") as error:
        MiniCLIP.from_pretrained("owner/model")
    assert "\n" not in str(error.value)


def test_who_is_not_logged_in_is_told_how(refusing_hub: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be pushed to owner/model .*hf auth login"):
        MiniCLIP(bundle_of()).push_to_hub("owner/model", token="none")
    assert refusing_hub[0] == "/api/repos/create"


def test_a_name_without_an_owner_is_told_before_the_hub_is_asked(refusing_hub: list[str]) -> None:
    with pytest.raises(SettingError, match="repo_id=model: must be OWNER/MODEL"):
        MiniCLIP(bundle_of()).push_to_hub("model", token="none")
    assert not refusing_hub
