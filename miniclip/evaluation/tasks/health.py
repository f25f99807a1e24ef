"""Health of the joint space: whether it spreads, whether both towers share it, whether it has collapsed."""

from miniclip.evaluation.task import Result, Task, TaskContext
from miniclip.figures import draw_cosines
from miniclip.metrics import cosine_counts, health
from miniclip.metrics.health import FEWEST_IMAGES


class EmbeddingHealth(Task):
    """Alignment, uniformity, modality gap and effective ranks; suits every data set."""

    def check(self, context: TaskContext) -> None:
        """Nothing can be wrong."""

    def run(self, context: TaskContext) -> Result:
        found = health(context.features)
        counts = cosine_counts(context.features)
        draw_cosines(counts, context.folder / "health.png", protocol=context.protocol)

        measures = found._asdict()
        lines = [f"{name.replace('_', ' '):20} {value:10.3f}" for name, value in measures.items()]

        if len(context.features.images) < FEWEST_IMAGES:
            lines.append(f"Fewer than {FEWEST_IMAGES} images cannot tell of uniformity and of a collapse.")
        if found.has_collapsed:
            lines.append("COLLAPSED: a tower gives nearly the same features to everything.")
        return Result({**measures, "collapsed": found.has_collapsed, "cosines": counts}, lines)
