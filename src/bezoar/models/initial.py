"""The weights that a network starts with."""

import torch
from torch import nn

from bezoar.models.lenet import PartialConv


def initialise(model: nn.Module, generator: torch.Generator) -> None:
    """Draw Glorot-uniform weights and set biases to zero, Keras' default and so the paper's.

    Scales of normalised maps and coefficients of subsampling become 1; weights outside a table of
    connections become 0.
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
        if isinstance(module, PartialConv):
            module.weight.data.mul_(module.table)
