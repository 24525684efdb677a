"""I-BAU: unlearn the worst perturbation for all images, and reckon with how it would answer."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, frozen, predict
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import Judgement, Progress, Row, Supervised, fit, silent
from bezoar.repairs.protocol import Repair
from bezoar.seeds import generator
from bezoar.snapshots import Snapshot, Tree


@dataclass(frozen=True, kw_only=True)
class IBAU(Repair):
    r"""Lower the loss that one perturbation of all images can cause, by implicit gradients.

    .. math::
        \min_\theta H\bigl(\theta, \delta(\theta)\bigr), \qquad
        \delta(\theta) = \arg\min_\delta h(\theta, \delta)
        = -\mathrm{E}\, L\bigl(f_\theta(x + \delta), y\bigr) + c\, \lVert\delta\rVert^2

    with H the loss of a batch in which ``share`` of the images are perturbed. The perturbation
    moves with the weights, so the gradient has a second part,

    .. math::
        \frac{dH}{d\theta} = \partial_\theta H + (\partial_\theta \Phi)^\top v, \quad
        v = \sum_{k < K} \bigl((\partial_\delta \Phi)^\top\bigr)^k\, \partial_\delta H, \quad
        \Phi(\theta, \delta) = \delta - a\, \nabla_\delta h(\theta, \delta)

    with h on one batch that stays the same. A round looks for the perturbation from 0 by plain
    gradient steps away from what the network says now, and then takes its epochs on the weights
    with Adam. The network is in eval mode throughout, and nothing is cut to the box. Paper:
    arXiv:2110.03735.

    Cost: a round is one forward pass an image, and for each epoch one each way in the search, one
    forward and two backward passes in the descent; there each step adds one forward pass and K + 1
    backward passes of the fixed batch. All but the first of these go back through a backward pass,
    which takes about twice as long. A forward pass a validation image.

    Args:
        rounds: budget; each has a fresh perturbation.
        epochs: how often a round goes through the images, in the search and in the descent.
        batch: images a step.
        lr: learning rate of Adam.
        search_lr: step of the search, as a factor on the gradient.
        weight: the factor c.
        share: of a batch that is perturbed, in (0, 1]; at least one image.
        steps: the number K of terms.
        step_size: the factor a.
    """

    rounds: int = 5
    epochs: int = 10
    batch: int = 32
    lr: float = 1e-4
    search_lr: float = 10.0
    weight: float = 1e-3
    share: float = 0.01
    steps: int = 5
    step_size: float = 0.1

    def __post_init__(self) -> None:
        for name in ("rounds", "epochs", "batch", "steps"):
            checks.at_least(name, getattr(self, name), 1)
        for name in ("lr", "search_lr", "weight", "step_size"):
            checks.in_range(name, getattr(self, name), 0)
        checks.in_range("share", self.share, 1e-6, 1)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        trainable = Unlearning(self, deepcopy(classifier), evidence.train, seed)

        def judge(epoch: int) -> Judgement:
            if (epoch + 1) % self.epochs:
                return Judgement({})
            clean = accuracy(trainable.model, evidence.validation, trainable.meter)
            return Judgement({"clean": clean})

        log = fit(
            trainable,
            epochs=self.rounds * self.epochs,
            batch=self.batch,
            seed=seed,
            judge=judge,
            snapshot=snapshot,
            on_step=on_step,
        )
        rounds: list[Row] = [row for row in log if "clean" in row]
        log = [{**row, "round": float(number)} for number, row in enumerate(rounds)]
        return Defended(trainable.model, log, trainable.meter)


class Unlearning:
    """The training behind ``IBAU``: a perturbation a round, and descent against it."""

    def __init__(self, repair: IBAU, model: nn.Module, images: ImageSet, seed: int) -> None:
        self.model, self.meter = model, Meter()
        self._repair, self._images, self._seed = repair, images, seed
        self._device = device_of(model)
        self._change = torch.zeros(1, *images.shape, device=self._device)
        first = torch.randperm(len(images), generator=generator(seed, "i-bau", "first"))
        x, y = images.batch(first[: repair.batch])
        self._fixed = x.to(self._device), y.to(self._device)
        self._learning = Supervised(model, images, loss=self._loss, lr=repair.lr, meter=self.meter)

    def begin(self, epoch: int) -> int:
        if epoch % self._repair.epochs == 0:
            self._search(epoch // self._repair.epochs)
        return self._learning.begin(epoch)

    def _search(self, round_: int) -> None:
        """Look for the perturbation that leads most images away from what is said of them."""
        repair, change = self._repair, torch.zeros_like(self._change)
        said = predict(self.model, self._images.batch(slice(None))[0]).argmax(dim=1)
        self.meter.forward += len(said)
        with frozen(self.model), torch.enable_grad():
            for epoch in range(repair.epochs):
                rng = generator(self._seed, "i-bau", "search", round_, epoch)
                for rows in torch.randperm(len(said), generator=rng).split(repair.batch):
                    x = self._images.batch(rows)[0].to(self._device)
                    point = change.clone().requires_grad_()
                    inner = self._inner(x, said[rows].to(self._device), point)
                    (slope,) = torch.autograd.grad(inner, point)
                    change = change - repair.search_lr * slope
                    self.meter.backward += len(x)
        self._change = change

    def _inner(self, x: Tensor, y: Tensor, change: Tensor) -> Tensor:
        """What the perturbation minimises, h of a batch: a scalar."""
        self.meter.forward += len(x)
        loss = F.cross_entropy(self.model(x + change), y)
        return self._repair.weight * change.square().sum() - loss

    def step(self, rows: Tensor, position: float) -> float:
        return self._learning.step(rows, position)

    def _loss(self, model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        model.eval()  # the perturbation is that of the network as it is used
        repair = self._repair
        mask = torch.zeros(len(x), 1, 1, 1, device=x.device)
        mask[torch.randperm(len(x))[: max(1, round(repair.share * len(x)))]] = 1
        change = self._change.clone().requires_grad_()
        outer = F.cross_entropy(model(x + mask * change), y)
        inner = self._inner(*self._fixed, change)
        self.meter.forward += len(x)
        self.meter.backward += 2 * len(x) + (repair.steps + 1) * len(self._fixed[0])
        return implicit(outer, inner, change, steps=repair.steps, step_size=repair.step_size)

    def state_dict(self) -> Tree:
        return {"learning": self._learning.state_dict(), "change": self._change}

    def load_state_dict(self, state: Tree) -> None:
        self._learning.load_state_dict(state["learning"])
        self._change = state["change"].to(self._device)


def implicit(
    outer: Tensor, inner: Tensor, point: Tensor, *, steps: int, step_size: float
) -> Tensor:
    r"""A loss with the value of ``outer`` and the gradient of :math:`H(\theta, d^*(\theta))`.

    With :math:`d^*` where ``inner`` is least; the gradient by ``steps`` terms of the series in
    ``IBAU``, which tends to the true one if ``point`` is that place and a step of gradient descent
    from there is a contraction.

    Args:
        outer: the scalar H at ``point``.
        inner: the scalar h at ``point``, differentiable twice.
        point: d, a leaf that needs a gradient.
        steps: number of terms, at least 1.
        step_size: of a step of gradient descent on h.
    """
    (slope,) = torch.autograd.grad(outer, point, retain_graph=True)
    (push,) = torch.autograd.grad(inner, point, create_graph=True)
    moved, weight = point - step_size * push, slope
    for _ in range(steps - 1):
        (back,) = torch.autograd.grad(moved, point, weight, retain_graph=True)
        weight = slope + back
    answer = (moved * weight).sum()
    return outer + answer - answer.detach()
