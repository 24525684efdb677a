"""NAD: learn clean images, and to look where a fine-tuned teacher looks."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, frozen
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import (
    BatchLoss,
    Judgement,
    Progress,
    fit,
    silent,
)
from bezoar.repairs import descent
from bezoar.repairs.fine_tune import FineTune
from bezoar.repairs.protocol import Repair
from bezoar.repairs.rounds import joined
from bezoar.snapshots import Snapshot, Stages, Tree

SHARES = (0.5, 1.0, 1.0)  # of beta, from the shallowest stage to the deepest


@dataclass(frozen=True, kw_only=True)
class NAD(Repair):
    r"""Neural attention distillation: fine-tune towards the attention of a fine-tuned teacher.

    .. math::
        \min_\theta\; L\bigl(f_\theta(x), y\bigr)
        + \sum_l \beta_l\, \overline{\bigl(A_l(\theta) - A_l(\theta_T)\bigr)^2}, \qquad
        A_l = \frac{\sum_c |F_{l,c}|^2}{\bigl\lVert \sum_c |F_{l,c}|^2 \bigr\rVert_2}

    with :math:`F_{l,c}` the maps of stage l and a mean over images and places. The teacher is the
    classifier after some epochs of ``FineTune``, then held in eval mode; the student begins where
    the classifier was. Papers: arXiv:2101.05930, section 3, and for the maps arXiv:1612.03928.

    The stages are found by watching a pass: of each size (height and width) that convolutions
    give, the output of the last convolution of that size; of these the last three. In a residual
    block that is what is added to the identity. A network with fewer sizes has fewer stages, and
    one whose convolutions all give one size has one. With beta=0 it is ``FineTune``, step for step.

    Cost: an epoch of the teacher is one pass each way an image, one of the student one more forward
    pass; one forward pass a validation image for both, and one to find the stages.

    Args:
        beta: weight of the two deeper stages; the shallowest has half of it. In the paper's code
            500, 1000 and 1000.
        teacher_epochs: of the teacher.
        epochs: of the student.
        batch, lr, schedule, momentum, weight_decay: of both, as in ``FineTune``.
    """

    beta: float = 1000.0
    teacher_epochs: int = 10
    epochs: int = 40
    batch: int = 32
    lr: float = 0.01
    schedule: str = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        checks.in_range("beta", self.beta, 0)
        checks.at_least("teacher_epochs", self.teacher_epochs, 1)
        descent.require(self)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        """Repair; see ``defence.Defence``.

        Raises:
            ValueError: the network has no convolution.
        """
        meter, stages = Meter(), Stages(snapshot)
        names = stages_of(classifier, evidence.train.batch(slice(1))[0])

        def teach(part: Snapshot | None) -> Tree:
            fine_tune = FineTune(
                epochs=self.teacher_epochs,
                batch=self.batch,
                lr=self.lr,
                schedule=self.schedule,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
            )
            tuned = fine_tune(classifier, evidence, seed=seed, snapshot=part, on_step=on_step)
            model, cost = tuned.classifier.state_dict(), tuned.cost.as_dict()
            return {"model": model, "log": tuned.log, "meter": cost}

        taught = stages("teacher", teach)
        vars(meter).update(taught["meter"])
        meter.forward += 1
        teacher = deepcopy(classifier).eval().requires_grad_(False)
        teacher.load_state_dict(taught["model"])
        learning = descent.learner(
            self,
            deepcopy(classifier),
            evidence.train,
            attentive(teacher, names, self.beta, meter),
            meter,
        )

        def judge(epoch: int) -> Judgement:
            if epoch < 0:  # what came in was judged before the teacher was taught
                return Judgement({})
            return Judgement({"clean": accuracy(learning.model, evidence.validation, meter)})

        def learn(part: Snapshot | None) -> Tree:
            log = fit(
                learning,
                epochs=self.epochs,
                batch=self.batch,
                seed=seed,
                judge=judge,
                snapshot=part,
                on_step=on_step,
            )
            model = learning.model.state_dict()
            return {"model": model, "log": log, "meter": meter.as_dict()}

        learnt = stages("student", learn)
        learning.model.load_state_dict(learnt["model"])
        vars(meter).update(learnt["meter"])
        return Defended(learning.model.eval(), joined(taught["log"], learnt["log"]), meter)


def stages_of(network: nn.Module, probe: Tensor) -> list[str]:
    """Names of the last convolutions of the last three sizes, in the order of a pass.

    Args:
        network: not changed.
        probe: some images ``(N, C, H, W)``; costs one forward pass each.

    Raises:
        ValueError: no convolution.
    """
    last: dict[tuple[int, ...], str] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
            size = tuple(output.shape[2:])
            last.pop(size, None)  # so that the order is that of the last of each size
            last[size] = name

        return after

    handles = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    try:
        with torch.no_grad(), frozen(network):
            network(probe.to(device_of(network)))
    finally:
        for handle in handles:
            handle.remove()
    if not last:
        expected = "expected a convolutional network, which has attention maps"
        raise ValueError(f"{type(network).__name__} without a convolution: {expected}")
    return list(last.values())[-len(SHARES) :]


@contextmanager
def watched(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Note what some modules give in the pass of the body, tensors ``(N, C, H, W)``."""
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: seen.update({name: output})

    modules = {name: network.get_submodule(name) for name in names}
    handles = [module.register_forward_hook(note(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def attention(maps: Tensor) -> Tensor:
    """Where a stage looks: the sum of squared maps ``(N, C, H, W)`` with norm 1, ``(N, H * W)``."""
    return F.normalize(maps.square().sum(dim=1).flatten(1), dim=1)


def attentive(teacher: nn.Module, names: Sequence[str], beta: float, meter: Meter) -> BatchLoss:
    """The cross-entropy and the distance of attention from the teacher's."""

    def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        meter.forward += 2 * len(x)
        meter.backward += len(x)
        with torch.no_grad(), watched(teacher, names) as shown:
            teacher(x)
        with watched(model, names) as seen:
            total = F.cross_entropy(model(x), y)
        for name, share in zip(names, SHARES[-len(names) :], strict=True):
            distance = F.mse_loss(attention(seen[name]), attention(shown[name]))
            total = total + share * beta * distance
        return total

    return loss
