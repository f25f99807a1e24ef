"""The task of examples, which configs and files call "pictures"."""

from PIL import Image

from miniclip.evaluation import TaskContext
from tests.evaluation.conftest import evaluation_of


def test_its_figures_lie_beside_its_file(context: TaskContext) -> None:
    (found,) = evaluation_of("eval/tasks=[pictures]").run(context, checkpoint="").values()
    assert found.numbers["pictures"] == ["retrieval.png", "similarity.png", "space.png"]
    for name in found.numbers["pictures"]:
        with Image.open(context.folder / name) as figure:
            assert figure.width > 500
    assert (context.folder / "pictures.json").is_file()
