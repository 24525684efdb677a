"""SAU: unlearn adversarial examples that fool the network and its original in the same way."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import prepare
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import Judgement, Progress, Supervised, fit, silent
from bezoar.repairs.protocol import Repair
from bezoar.snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class SAU(Repair):
    r"""Train on clean images, and away from what the original says of shared adversarial ones.

    .. math::
        \min_\theta\; \frac1n \sum_i L\bigl(f_\theta(x_i), y_i\bigr)
        - \frac1n \sum_{i \in S} \log\bigl(1 - p_\theta(r_i \mid x'_i)\bigr),
        \qquad r_i = \arg\max f_0(x'_i)

    with :math:`f_0` the network as it came in and S the images that fool it: r is neither the true
    class nor what it says of the clean image. The twin :math:`x' = x + \delta`,
    :math:`\lvert\delta\rvert_\infty \le \epsilon`, begins at :math:`\delta = \epsilon` and takes
    signed steps down

    .. math::
        -\tfrac{b}{2} \bigl(L(f_\theta(x'), y) + L(f_0(x'), y)\bigr)
        + (1 - s)\, \mathrm{JS}\bigl(p_\theta(x'), p_0(x')\bigr)

    where a loss counts until its network says something else than of the clean image, and s is 1
    where both do and agree: such a twin is shared, and stays. Twins are not cut to the box. The
    network is in eval mode throughout, the optimizer is Adam in the variant amsgrad. Paper:
    arXiv:2307.10562; settings of arXiv:2206.12654.

    Cost: an epoch is at most 5 + 2 ``steps`` forward and 2 + 2 ``steps`` backward passes an image;
    twins that are shared leave the search. A forward pass a validation image.

    Args:
        epochs: budget.
        batch: images a step.
        lr: learning rate.
        eps: radius of the twins, in pixel units; 0 is plain training.
        steps: of the search.
        step_size: of the search, in pixel units.
        adversarial: the factor b.
    """

    epochs: int = 100
    batch: int = 32
    lr: float = 1e-4
    eps: float = 0.2
    steps: int = 5
    step_size: float = 0.2
    adversarial: float = 0.01

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "steps"):
            checks.at_least(name, getattr(self, name), 1)
        for name in ("lr", "adversarial"):
            checks.in_range(name, getattr(self, name), 0)
        for name in ("eps", "step_size"):
            checks.in_range(name, getattr(self, name), 0, 1)

    def __call__(
        self,
        classifier: nn.Module,
        evidence: Evidence,
        *,
        seed: int,
        snapshot: Snapshot | None = None,
        on_step: Callable[[Progress], None] = silent,
    ) -> Defended:
        meter, original = Meter(), prepare(classifier)

        def loss(model: nn.Module, x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            model.eval()
            twins, said = shared(self, model, original, x, y, meter)
            fooled = said >= 0
            meter.forward += len(x) + int(fooled.sum())
            meter.backward += len(x) + int(fooled.sum())
            # Twins that fool nobody have no weight: their passes would be for nothing.
            logits = model(torch.cat([x, twins[fooled]]) if fooled.any() else x)
            clean = F.cross_entropy(logits[: len(x)], y)
            return clean + unsaid(logits[len(x) :], said[fooled]).sum() / len(x)

        learning = Supervised(
            deepcopy(classifier),
            evidence.train,
            loss=loss,
            lr=self.lr,
            optimize=amsgrad,
            meter=meter,
        )
        log = fit(
            learning,
            epochs=self.epochs,
            batch=self.batch,
            seed=seed,
            judge=lambda epoch: Judgement(
                {"clean": accuracy(learning.model, evidence.validation, meter)}
            ),
            snapshot=snapshot,
            on_step=on_step,
        )
        return Defended(learning.model, log, meter)


def amsgrad(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Adam whose second moments never fall (Reddi et al., arXiv:1904.09237)."""
    return torch.optim.Adam(parameters, lr=lr, amsgrad=True)


def shared(
    repair: SAU, model: nn.Module, original: nn.Module, x: Tensor, y: Tensor, meter: Meter
) -> tuple[Tensor, Tensor]:
    """Look for twins that fool both networks in the same way.

    Args:
        repair: the settings.
        model: the network under repair, in eval mode.
        original: what it was.
        x: images ``(N, C, H, W)``.
        y: their true classes ``(N,)`` int64.
        meter: where the passes of both networks are counted.

    Returns:
        The twins, and the class that the original says of each, ``(N,)`` int64; -1 where it says
        the true class or that of the clean image.
    """
    change = torch.full_like(x, repair.eps)
    with torch.no_grad():
        before = [network(x).argmax(dim=1) for network in (model, original)]
    alive = torch.arange(len(x), device=x.device)
    meter.forward += 2 * len(x)
    for _ in range(repair.steps):
        meter.forward += 2 * len(alive)
        point = (x[alive] + change[alive]).requires_grad_()
        with torch.enable_grad():
            logits = [network(point) for network in (model, original)]
            said = [part.argmax(dim=1) for part in logits]
            moved = [now != past[alive] for now, past in zip(said, before, strict=True)]
            done = moved[0] & moved[1] & (said[0] == said[1])
            if done.all():
                break
            losses = [F.cross_entropy(part, y[alive], reduction="none") for part in logits]
            away = sum(loss * ~gone for loss, gone in zip(losses, moved, strict=True))
            aim = divergence(*logits) * ~done - repair.adversarial / 2 * away
            # A sum over images: the sign of an image's gradient is its own.
            (slope,) = torch.autograd.grad(aim.sum(), point)
        meter.backward += 2 * len(alive)
        stepped = change[alive] - repair.step_size * slope.sign()
        held = done[:, None, None, None]
        change[alive] = torch.where(held, change[alive], stepped.clamp(-repair.eps, repair.eps))
        alive = alive[~done]
    twins = x + change
    with torch.no_grad():
        answer = original(twins).argmax(dim=1)
    meter.forward += len(x)
    return twins, torch.where((answer != y) & (answer != before[1]), answer, -1)


def divergence(first: Tensor, second: Tensor) -> Tensor:
    r"""That of Jensen and Shannon between two networks' logits ``(N, K)``, ``(N,)`` in nats.

    .. math::
        \tfrac12 \mathrm{KL}(p \Vert m) + \tfrac12 \mathrm{KL}(q \Vert m), \qquad m = (p + q) / 2
    """
    p, q = first.log_softmax(dim=1), second.log_softmax(dim=1)
    middle = torch.logaddexp(p, q) - torch.log(p.new_tensor(2.0))
    return (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(dim=1) / 2


def unsaid(logits: Tensor, classes: Tensor) -> Tensor:
    r"""The loss :math:`-\log(1 - p_r)` of logits ``(N, K)`` and classes r ``(N,)``: ``(N,)``.

    Without the cancellation of 1 - p: the others' probabilities are summed.
    """
    others = logits.scatter(1, classes[:, None], -float("inf"))
    return logits.logsumexp(dim=1) - others.logsumexp(dim=1)
