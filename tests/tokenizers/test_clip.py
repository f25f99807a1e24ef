"""CLIP's vocabulary gives the ids of its own tokenizer."""

import pytest

from miniclip.errors import UserError
from miniclip.tokenizers import CLIPTokenizer


def test_clips_vocabulary_gives_open_clips_ids() -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs the extra open_clip")
    tokenizer = CLIPTokenizer(context_length=77)
    assert tokenizer.vocab_size == 49408
    theirs = open_clip.get_tokenizer("ViT-B-32")
    texts = ["A dog's  life", "zürich 雨 👩🏽‍🚒 42nd", "it's... \n fine!", "", "x" * 50, "word " * 100]
    for text in texts:
        (ids,), (mask,) = tokenizer.encode([text])
        assert ids[mask].tolist() == theirs([text])[0][: int(mask.sum())].tolist()
    (ids,), _ = tokenizer.encode(["a <|endoftext|> dog"])
    assert tokenizer.decode(ids.tolist()) == "a <| endoftext |> dog"
    (ids,), (mask,) = tokenizer.encode(["a dog runs , fast"])
    assert tokenizer.decode(ids[mask].tolist()) == "a dog runs , fast"
    assert tokenizer.decode(tokenizer.encode([" "])[0][0].tolist()) == ""


def test_clips_vocabulary_without_a_package_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install open-clip-torch"):
        CLIPTokenizer(context_length=16)
