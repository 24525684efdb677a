"""The weights that a network starts with."""

import torch
from torch import nn


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw Glorot-uniform weights and set biases to zero, Keras' default.

    Scales of normalised maps and coefficients of subsampling become 1. Then every module that
    starts in a way of its own does so: its method ``start(generator)`` is called.
    """
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            # Drawn on the CPU, so that the weights do not depend on the device of the model.
            weights = nn.init.xavier_uniform_(torch.empty(parameter.shape), generator=generator)
            parameter.data.copy_(weights)
        elif name.endswith(("coefficient", "weight")):
            nn.init.ones_(parameter)
        else:
            nn.init.zeros_(parameter)
    for module in model.modules():
        start = getattr(module, "start", None)
        if callable(start):
            start(generator)
