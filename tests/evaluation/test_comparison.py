"""The table of several models."""

from miniclip.evaluation import comparison
from miniclip.metrics import recall_keys

RECALLS = {key: 10.0 + place for place, key in enumerate(recall_keys())}


def test_a_row_per_model_below_one_of_chance() -> None:
    own = {
        "data_fingerprint": "a",
        "protocol": "val: 2 images, 2 captions",
        "chance": {**dict.fromkeys(RECALLS, 1.0), "rsum": 6.0},
        "metrics": {**RECALLS, "rsum": sum(RECALLS.values())},
    }
    protocol, header, *rows = comparison([("small", own), ("a larger one", own)])
    assert protocol == own["protocol"]
    assert header.split() == ["image", "to", "text", "R@1/5/10", "text", "to", "image", "R@1/5/10", "rsum"]
    assert [row.split() for row in rows] == [
        ["chance", "1.0/1.0/1.0", "1.0/1.0/1.0", "6.0"],
        ["small", "10.0/11.0/12.0", "13.0/14.0/15.0", "75.0"],
        ["a", "larger", "one", "10.0/11.0/12.0", "13.0/14.0/15.0", "75.0"],
    ]


def test_models_measured_on_different_data_make_no_table() -> None:
    own = {"data_fingerprint": "a", "protocol": "val: 2 images, 2 captions", "chance": {}, "metrics": {}}
    (line,) = comparison([("x", own), ("y", {**own, "data_fingerprint": "b"})])
    assert "different data, val: 2 images, 2 captions (a); val: 2 images, 2 captions (b)" in line


def test_precisions_are_told_by_the_row() -> None:
    own = {"data_fingerprint": "a", "chance": {**RECALLS, "rsum": 6.0}, "metrics": {**RECALLS, "rsum": 1.0}}
    precisions = {"a": "float32", "b": "int8"}
    named = [(name, {**own, "protocol": f"val: 2 images; {kind}"}) for name, kind in precisions.items()]
    protocol, _, _, *rows = comparison(named)
    assert protocol == "val: 2 images"
    assert [row.split("  ")[0].strip() for row in rows] == ["a (float32)", "b (int8)"]
    # of one precision it is part of the protocol
    assert comparison(named[:1])[0] == "val: 2 images; float32"
