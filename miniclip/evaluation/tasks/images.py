"""Figures of examples: retrieval, similarities, the joint space. Configs and files say "pictures"."""

from miniclip.evaluation.task import Result, Task, TaskContext
from miniclip.figures import draw_retrieval, draw_similarity, draw_space


class ExampleImages(Task):
    """Draw what the model finds near to what; suits every data set."""

    def check(self, context: TaskContext) -> None:
        """Nothing can be wrong."""

    def run(self, context: TaskContext) -> Result:
        features, split, folder = context.features, context.val.split, context.folder

        files = [
            draw_retrieval(features, split, folder / "retrieval.png", protocol=context.protocol),
            draw_similarity(features, split, folder / "similarity.png", protocol=context.protocol),
            draw_space(features, folder / "space.png", protocol=context.protocol),
        ]

        names = [file.name for file in files]
        return Result({"pictures": names}, [", ".join(names)])
