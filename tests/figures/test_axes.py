"""What all figures share."""

from pathlib import Path

from miniclip.figures import new_figure, save, tidy


def test_the_ending_of_a_path_is_its_format(tmp_path: Path) -> None:
    figure, axes = new_figure(1, 2, size=(4, 2))
    assert axes.shape == (1, 2)
    assert save(figure, tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert b"<svg" in save(figure, tmp_path / "a.svg").read_bytes()


def test_an_axis_has_a_legend_if_something_has_a_name() -> None:
    _, axes = new_figure(1, 2, size=(4, 2))
    without, with_one = axes[0]
    without.plot([1, 2])
    with_one.plot([1, 2], label="loss")
    for axis in (without, with_one):
        tidy(axis, "a title", xlabel="tokens")
    assert without.get_legend() is None and with_one.get_legend() is not None
    assert with_one.get_xlabel() == "tokens"
