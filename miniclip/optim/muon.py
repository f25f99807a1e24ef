"""Muon for a whole model."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class MuonAdamW(Optimizer):
    """torch's Muon (Jordan et al. 2024) for matrices, which is all it takes, and AdamW for the rest.

    Convolutions, norms and biases are AdamW's; embeddings are matrices. Muon's steps are scaled to the
    size of AdamW's ("match_rms_adamw", Liu et al. 2025, arXiv 2502.16982), so that both share one learning
    rate and one weight decay.

    Args:
        params: parameters or parameter groups.
        lr: learning rate of both.
        weight_decay: decoupled, of both.
        momentum: Muon's.
        betas: AdamW's.
        eps: AdamW's.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        betas: Sequence[float],
        eps: float,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        matrices: list[dict[str, Any]] = []
        rest: list[dict[str, Any]] = []
        for group in self.param_groups:
            for chosen, is_matrix in ((matrices, True), (rest, False)):
                own = [p for p in group["params"] if (p.ndim == 2) == is_matrix]
                if own:
                    chosen.append({**group, "params": own})
        self._parts: list[Optimizer] = []
        if matrices:
            muon = torch.optim.Muon(matrices, momentum=momentum, adjust_lr_fn="match_rms_adamw")
            self._parts.append(muon)
        if rest:
            beta1, beta2 = betas
            self._parts.append(torch.optim.AdamW(rest, betas=(beta1, beta2), eps=eps, fused=True))
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self._share()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update all parameters."""
        for part in self._parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def _share(self) -> None:
        """Both parts work on this optimizer's groups and state."""
        groups = iter(self.param_groups)
        for part in self._parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
            part.state = self.state
