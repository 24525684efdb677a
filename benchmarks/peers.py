"""The peers' attacks under one signature: a network, images and classes to adversarial images.

Foolbox, torchattacks, the Adversarial Robustness Toolbox (ART) and adv-lib, each as its users call
it, with the settings of our own attack where the peer has them. A peer that is not installed is
left out of its tables, and named.
"""

import contextlib
import importlib
import math
import sys
import types
import warnings
from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

Peer = Callable[[nn.Module, Tensor, Tensor], Tensor]
CLASSES = 10
NORMS = {"linf": math.inf, "l2": 2, "l1": 1, "l0": 0}
LONG = {"linf": "Linf", "l2": "L2", "l1": "L1"}


def _module(name: str, *, absent: tuple[str, ...] = ()) -> Any:
    """Import a peer, or nothing.

    Args:
        name: of its module.
        absent: modules that it imports for what no attack here uses, and that need not be there.
    """
    for stand_in in absent:
        if stand_in not in sys.modules:
            sys.modules[stand_in] = types.ModuleType(stand_in)
    if absent:
        vars(sys.modules["torchvision"])["models"] = sys.modules["torchvision.models"]
        vars(sys.modules["visdom"])["Visdom"] = object
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(name)
        except ImportError:
            return None


foolbox = _module("foolbox")
torchattacks = _module("torchattacks")
if not hasattr(np, "mat"):  # ART's GeoDA still asks for what NumPy 2 left out
    vars(np)["mat"] = np.asmatrix
art = _module("art.attacks.evasion")
# adv-lib wants torchvision for a perceptual distance and visdom for live plots.
advlib = _module("adv_lib.attacks", absent=("torchvision", "torchvision.models", "visdom"))
TOOLS = {"foolbox": foolbox, "torchattacks": torchattacks, "art": art, "adv-lib": advlib}
MISSING = sorted(name for name, module in TOOLS.items() if module is None)


def present(peers: Mapping[str, Peer]) -> dict[str, Peer]:
    """Those whose tool is installed; a name is ``TOOL`` or ``TOOL/ATTACK``."""
    return {name: peer for name, peer in peers.items() if name.split("/")[0] not in MISSING}


def of_foolbox(name: str, eps: float | None = None, **settings: Any) -> Peer:
    """An attack of foolbox; without ``eps`` one that looks for the nearest image."""

    def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attack = getattr(foolbox.attacks, name)(**settings)
        clipped: Tensor = attack(foolbox.PyTorchModel(network, bounds=(0, 1)), x, y, epsilons=eps)[
            1
        ]
        return clipped

    return run


def of_torchattacks(name: str, **settings: Any) -> Peer:
    """An attack of torchattacks."""

    def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = getattr(torchattacks, name)(network, **settings)(x, y)
        return found

    return run


def in_turn_torchattacks(*parts: tuple[str, dict[str, Any]]) -> Peer:
    """Attacks of torchattacks, each on what those before it left."""

    def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        attacks = [getattr(torchattacks, name)(network, **settings) for name, settings in parts]
        found: Tensor = torchattacks.MultiAttack(attacks)(x, y)
        return found

    return run


class _Float(nn.Module):
    """Some of ART's attacks hand over float64, whatever the network takes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def _estimator(network: nn.Module, x: Tensor) -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=nn.Sequential(_Float(), network).eval(),
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=CLASSES,
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )


def of_art(name: str, *, one_hot: bool = False, **settings: Any) -> Peer:
    """An attack of ART; SimBA wants a network that ends in a softmax, and one-hot classes."""

    def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if one_hot:
            network = nn.Sequential(network, nn.Softmax(dim=1)).eval()
        attack = getattr(art, name)(_estimator(network, x), **settings)
        classes = F.one_hot(y, CLASSES) if one_hot else y
        # GeoDA leaves a file where it runs.
        with TemporaryDirectory() as folder, contextlib.chdir(folder):
            return torch.from_numpy(attack.generate(x.numpy(), classes.numpy()))

    return run


def autoattack_of_art(norm: str, eps: float, steps: int, queries: int, batch: int) -> Peer:
    """ART's AutoAttack with our number of iterations.

    Its four parts are those of ART: APGD on the cross-entropy, APGD on the difference of logits
    ratio, DeepFool and Square.
    """

    def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        estimator, size = _estimator(network, x), NORMS[norm]
        auto: dict[str, Any] = {
            "norm": size,
            "eps": eps,
            "eps_step": 2 * eps,
            "max_iter": steps,
            "nb_random_init": 1,
            "batch_size": batch,
            "verbose": False,
        }
        parts = [
            art.AutoProjectedGradientDescent(estimator, loss_type=loss, **auto)
            for loss in ("cross_entropy", "difference_logits_ratio")
        ]
        parts.append(art.DeepFool(estimator, max_iter=steps, batch_size=batch, verbose=False))
        parts.append(
            art.SquareAttack(
                estimator, norm=size, eps=eps, max_iter=queries, batch_size=batch, verbose=False
            )
        )
        attack = art.AutoAttack(estimator, norm=size, eps=eps, attacks=parts, batch_size=batch)
        return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    return run


def of_advlib(name: str, **settings: Any) -> Peer:
    """An attack of adv-lib."""

    def run(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        found: Tensor = getattr(advlib, name)(network, x, y, **settings)
        return found

    return run
