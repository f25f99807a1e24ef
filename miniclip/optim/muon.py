"""Muon for a whole model."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from miniclip.optim.passes import Closure, run_pass
from miniclip.optim.sam import check_group, copied_state


class MuonAdamW(Optimizer):
    """torch's Muon (Jordan et al. 2024) for matrices, which is all it takes, and AdamW for the rest.

    Convolutions, norms and biases are AdamW's; embeddings are matrices. Muon's steps are scaled to the
    size of AdamW's ("match_rms_adamw", Liu et al. 2025, arXiv 2502.16982), so that both share one learning
    rate and one weight decay. A group of both kinds becomes two.

    In a group of matrices the first of `betas` is Muon's momentum, so that schedules of the momentum
    find it in all groups under one name.

    Args:
        params: parameters or parameter groups.
        lr: learning rate of both.
        weight_decay: decoupled, of both.
        momentum: Muon's.
        betas: AdamW's.
        eps: AdamW's.

    Raises:
        SettingError: when a number is not finite.
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
        check_group({"momentum": momentum, "betas": betas, "eps": eps})
        self._momentum = momentum
        self._eps = eps
        self._muon: Optimizer | None = None
        self._adamw: Optimizer | None = None
        beta1, beta2 = betas
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (beta1, beta2)})
        # groups of matrices first
        self.param_groups.sort(key=lambda group: not _holds_matrices(group))
        self._share()

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Tensor | None:  # type: ignore[override]
        """Update all parameters. A closure is run first, and its loss returned."""
        loss = None if closure is None else run_pass(closure, 0)
        if self._muon is not None:
            for group in self._muon.param_groups:
                group["momentum"] = group["betas"][0]
            self._muon.step()
        if self._adamw is not None:
            self._adamw.step()
        return loss

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Train further parameters: the matrices by Muon, the rest by AdamW."""
        names_betas = "betas" in param_group
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        check_group(group)
        for part in _split(group):
            if _holds_matrices(part):
                if not names_betas:
                    part["betas"] = (self._momentum, group["betas"][1])
                self._add_to_muon(part)
            else:
                self._add_to_adamw(part)
            self.param_groups.append(part)
        self._share()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            # states of version 0.1.0 name a momentum alone
            group.setdefault("betas", (group.get("momentum"), self.defaults["betas"][1]))
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        return copied_state(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _add_to_muon(self, group: dict[str, Any]) -> None:
        if self._muon is None:
            self._muon = torch.optim.Muon([group], momentum=self._momentum, adjust_lr_fn="match_rms_adamw")
        else:
            self._muon.add_param_group(group)

    def _add_to_adamw(self, group: dict[str, Any]) -> None:
        if self._adamw is None:
            self._adamw = torch.optim.AdamW([group], eps=self._eps, fused=True)
        else:
            self._adamw.add_param_group(group)

    def _share(self) -> None:
        """Both parts work on this optimizer's groups and state."""
        for part, is_muon in ((self._muon, True), (self._adamw, False)):
            if part is not None:
                part.param_groups = [g for g in self.param_groups if _holds_matrices(g) == is_muon]
                part.state = self.state


def _holds_matrices(group: dict[str, Any]) -> bool:
    return group["params"][0].ndim == 2


def _split(group: dict[str, Any]) -> list[dict[str, Any]]:
    """A group's matrices and its other parameters, each as a group of its own if there are any."""
    parts = []
    for is_matrix in (True, False):
        chosen = [index for index, p in enumerate(group["params"]) if (p.ndim == 2) == is_matrix]
        part = {**group, "params": [group["params"][index] for index in chosen]}
        if "param_names" in group:
            part["param_names"] = [group["param_names"][index] for index in chosen]
        if chosen:
            parts.append(part)
    return parts
