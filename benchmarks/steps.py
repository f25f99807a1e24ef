"""The training step of `python run.py`, and batches of noise to take it on."""

import torch

from miniclip.config import instantiate
from miniclip.config.compose import compose
from miniclip.data.batch import Batch
from miniclip.training import Trainer, TrainingStep

VOCAB_SIZE = 4096


def step(*overrides: str) -> TrainingStep:
    """The step of `python run.py OVERRIDES`."""
    cfg = compose(*overrides)
    torch.manual_seed(0)
    trainer: Trainer = instantiate.make(cfg, "trainer")
    model = instantiate.make_model(cfg, vocab_size=VOCAB_SIZE).to(trainer.device).train()
    model.to(memory_format=torch.channels_last)
    return TrainingStep(
        model,
        instantiate.make(cfg, "loss"),
        instantiate.make_optimizer(cfg, model),
        instantiate.make_precision(cfg, trainer),
        grad_clip_norm=trainer.grad_clip_norm,
        micro_batch_size=trainer.micro_batch_size,
        compiles=trainer.compile,
        cuda_graphs=trainer.cuda_graphs,
    )


def device_of(training_step: TrainingStep) -> torch.device:
    """Where its model lies."""
    return next(training_step.model.parameters()).device


def noise(batch_size: int, image_size: int, *, num_tokens: int, device: torch.device) -> Batch:
    """Noise as images and captions, as a loader gives them."""
    images = torch.randn(batch_size, 3, image_size, image_size, device=device)
    token_ids = torch.randint(VOCAB_SIZE, (batch_size, num_tokens), device=device)
    mask = torch.ones_like(token_ids, dtype=torch.bool)
    return Batch(images.contiguous(memory_format=torch.channels_last), token_ids, mask)
