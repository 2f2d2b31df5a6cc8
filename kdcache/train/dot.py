"""DOT: a momentum for what the labels say of a parameter, and a larger one for what the teacher says."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class Dot(torch.optim.Optimizer):
    """Zhao et al. 2023, DOT: A Distillation-Oriented Trainer.

    The gradient of the task is in `grad` and moves first, with weight decay; that of the teacher's terms is in
    `taught`. A parameter that only one of them speaks of has the plain momentum.
    """

    # torch's compiler need not be imported
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)

    def __init__(self, parameters: Iterable, lr: float, momentum: float, delta: float, weight_decay: float):
        self.taught: Mapping[nn.Parameter, Tensor] = {}
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "delta": delta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.move(parameter, parameter.grad, self.taught.get(parameter), group)
        self.taught = {}

    def move(self, parameter: nn.Parameter, task: Tensor | None, taught: Tensor | None, group: Mapping) -> None:
        """One step of one parameter, as the authors' code has it."""
        delta = group["delta"] if task is not None and taught is not None else 0.0
        pull = group["weight_decay"]
        if task is not None:
            self.along("task", parameter, task.add(parameter, alpha=pull), group["momentum"] - delta, group["lr"])
        if taught is not None:
            alone = task is None and "taught" in self.state[parameter]  # in a first step, nothing pulls at it
            gradient = taught.add(parameter, alpha=pull) if alone else taught
            self.along("taught", parameter, gradient, group["momentum"] + delta, group["lr"])

    def along(self, which: str, parameter: nn.Parameter, gradient: Tensor, momentum: float, lr: float) -> None:
        """Adds a gradient to one of the two momenta, and moves the parameter along it."""
        state = self.state[parameter]
        state[which] = state[which].mul_(momentum).add_(gradient) if which in state else gradient.clone()
        parameter.sub_(state[which], alpha=lr)
