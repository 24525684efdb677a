"""IMS: find the channels without which a network is the opposite of what it says."""

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bezoar import checks
from bezoar.channels import Layer, layers, scaled
from bezoar.classifier import device_of
from bezoar.costs import Meter
from bezoar.data.imageset import ImageSet
from bezoar.defence import Defended, Evidence, accuracy
from bezoar.fit import Judgement, Progress, Row, cost_of, fit, silent
from bezoar.repairs.protocol import Repair
from bezoar.repairs.rounds import joined, now_and_then
from bezoar.seeds import derive
from bezoar.snapshots import Snapshot, Stages, Tree

NAMES = ("side", "both")  # of the gates
BETTER = 0.98  # a loss below this share of the best one before is an improvement


@dataclass(frozen=True, kw_only=True)
class IMS(Repair):
    r"""Inverse mask search: gates on channels, and their opposites that keep the backdoor alone.

    .. math::
        M = 1 - (1 - s)(1 - z), \qquad I = 1 - (1 - s)\, z, \qquad
        z = \mathrm{sigmoid}\bigl(k (m - \tfrac12)\bigr)

    for each output channel of a convolution, with m and s in [0, 1]: s says that both networks have
    the channel, otherwise m says which. With r the network that came in, M and I the two with these
    gates, and of two answers :math:`a(p, q) = -\log \sum_c p_c q_c` and
    :math:`b(p, q) = -\log(1 - \sum_c p_c q_c)`, the first stage learns

    .. math::
        a(M(x), r(x)) + b(I(x), r(x)) + \lambda\, \overline{|1 - s|}

    and the second, with a perturbation d that is looked for in each batch by the minimum of
    :math:`a(I(x'), r(x')) + b(r(x'), r(x))`, where x' = x + d, learns

    .. math::
        a(M(x), r(x)) + a(M(x'), r(x)) + a(I(x'), r(x')) + b(I(x'), r(x)) + b(I(x), r(x))

    first without and then with the last term of the first stage. At the start m is 1 and s is 0: M
    is the network (up to 1 - z, below 1e-4) and I has no channel. Weights stand still, the network
    is in eval mode throughout, and no label is used. What comes back is M, its gates written into
    the batch norms' scales and shifts, or into the convolution where no norm reads it. Paper:
    arXiv:2509.15497; the settings are those that its authors released.

    Cost: an image of a batch has 3 forward and 2 backward passes in the first stage and
    ``2 * steps + 6`` and ``2 * steps + 4`` in the second; some 60 forward passes a validation
    image, which only say where the search stands, and 1 to find the channels.

    Args:
        first: most batches of the first stage.
        second: most batches of the second, without the last term and once more with it.
        patience: batches without a loss below 0.98 of the best, after which a part is done; looked
            at after each epoch, whose mean loss it is.
        batch: images a step.
        lr: learning rate of the gates, by AdamW.
        sparsity: the factor lambda.
        sharpness: the factor k.
        steps: of the search for d, from 0.
        search_lr: its learning rate, by AdamW, in pixel units.
    """

    first: int = 100
    second: int = 200
    patience: int = 25
    batch: int = 32
    lr: float = 0.02
    sparsity: float = 10.0
    sharpness: float = 20.0
    steps: int = 20
    search_lr: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("first", "second", "patience", "batch", "steps"):
            checks.at_least(name, getattr(self, name), 1)
        for name in ("lr", "sparsity", "sharpness", "search_lr"):
            checks.in_range(name, getattr(self, name), 0)

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
            ValueError: no convolution, or one whose filters ``channels.layers`` cannot tell.
        """
        meter, stages, copy = Meter(), Stages(snapshot), deepcopy(classifier)
        gates = Gates(copy, layers(copy, evidence.train.batch(slice(1))[0]), self.sharpness)
        meter.forward += 1
        each = math.ceil(len(evidence.train) / self.batch)

        def part(name: str, batches: int, perturbed: bool, sparsity: float) -> list[Row]:
            epochs = math.ceil(batches / each)
            search = Search(self, gates, evidence.train, meter, perturbed, sparsity)
            row = now_and_then(
                epochs, lambda: {"clean": accuracy(gates, evidence.validation, meter)}
            )

            def judge(epoch: int) -> Judgement:
                if epoch < 0:  # only the first part begins with what came in
                    return row(epoch) if name == "first" else Judgement({})
                search.note(math.ceil(self.patience / each))
                return Judgement(row(epoch).row, stop=search.tired)

            def work(inner: Snapshot | None) -> Tree:
                log = fit(
                    search,
                    epochs=epochs,
                    batch=self.batch,
                    seed=derive(seed, name),
                    judge=judge,
                    snapshot=inner,
                    on_step=on_step,
                )
                return {"gates": gates.values(), "log": log, "meter": meter.as_dict()}

            done = stages(name, work)
            gates.set(done["gates"])
            vars(meter).update(done["meter"])
            log: list[Row] = done["log"]
            return log

        logs = [
            part("first", self.first, False, self.sparsity),
            part("second", self.second, True, 0.0),
            part("third", self.second, True, self.sparsity),
        ]
        repaired = deepcopy(classifier).eval()
        gates.write(repaired)
        shut = sum(int((gain < 0.5).sum()) for gain in gates.gains())
        row = {"clean": accuracy(repaired, evidence.validation, meter), "pruned": float(shut)}
        return Defended(repaired, joined(*logs, [{**row, **cost_of(meter)}]), meter)


class Gates(nn.Module):
    """A network and two gated ones: ``forward`` is M, ``inverse`` is I, ``network`` is r.

    Args:
        network: held in place, without gradients and in eval mode.
        found: its convolutions.
        sharpness: the factor k.
    """

    def __init__(self, network: nn.Module, found: Sequence[Layer], sharpness: float) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self._found, self._sharpness = found, sharpness
        # M begins as the network and I as one without channels. Where I begins as the network too,
        # it is so sure that the last term of the loss holds it there.
        self.side, self.both = (
            nn.ParameterList(like(layer.conv.weight[:, 0, 0, 0]) for layer in found)
            for like in (torch.ones_like, torch.zeros_like)
        )

    def train(self, mode: bool = True) -> "Gates":
        return super().train(False)

    def gains(self, *, inverse: bool = False) -> list[Tensor]:
        """What each channel of each layer is multiplied by."""
        sign = 1 if inverse else -1
        return [
            1 - (1 - s) * torch.sigmoid(sign * self._sharpness * (m - 0.5))
            for m, s in zip(self.side, self.both, strict=True)
        ]

    def gated(self, gains: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """The network with its channels multiplied, images to logits."""
        values = dict(scaled(self._found, gains, gains))
        return lambda x: functional_call(self.network, values, (x,))

    def forward(self, x: Tensor) -> Tensor:
        """Images ``(N, C, H, W)`` to the logits of M, ``(N, K)``."""
        return self.gated(self.gains())(x)

    def values(self) -> Tree:
        """The gates alone."""
        return {name: [p.detach().clone() for p in getattr(self, name)] for name in NAMES}

    def set(self, values: Tree) -> None:
        """Take the gates from what ``values`` gave."""
        with torch.no_grad():
            for name in NAMES:
                for gate, value in zip(getattr(self, name), values[name], strict=True):
                    gate.copy_(value)

    def write(self, network: nn.Module) -> None:
        """Multiply the channels of a network like this one by the gains of M, in place."""
        gains = self.gains()
        with torch.no_grad():
            for name, value in scaled(self._found, gains, gains).items():
                network.get_parameter(name).copy_(value)


class Search:
    """The training of gates in one part of the work."""

    def __init__(
        self,
        repair: IMS,
        gates: Gates,
        images: ImageSet,
        meter: Meter,
        perturbed: bool,
        sparsity: float,
    ) -> None:
        self.model: nn.Module = gates
        self.meter, self._gates, self._images, self._repair = meter, gates, images, repair
        self._perturbed, self._sparsity = perturbed, sparsity
        self._device = device_of(gates)
        self._learnt = [*gates.side, *gates.both]
        self._optimizer = torch.optim.AdamW(self._learnt, lr=repair.lr)
        self._losses: list[float] = []  # of this epoch, a sum over images each
        self._best, self._since, self.tired = math.inf, 0, False

    def begin(self, epoch: int) -> int:
        self._losses = []
        return len(self._images)

    def step(self, rows: Tensor, position: float) -> float:
        x = self._images.batch(rows)[0].to(self._device)
        gates, count = self._gates, len(rows)
        with torch.no_grad():
            said = gates.network(x).log_softmax(dim=1)
        kept, left = (gates.gated(gates.gains(inverse=inverse)) for inverse in (False, True))
        of_left = left(x).log_softmax(dim=1)
        loss = agree(kept(x).log_softmax(dim=1), said) + differ(of_left, said)
        if self._perturbed:
            near = x + self._perturbation(x, said)
            with torch.no_grad():
                said_near = gates.network(near).log_softmax(dim=1)
            left_near = left(near).log_softmax(dim=1)
            loss = loss + agree(kept(near).log_softmax(dim=1), said)
            loss = loss + agree(left_near, said_near) + differ(left_near, said)
        self.meter.forward += (6 if self._perturbed else 3) * count
        self.meter.backward += (4 if self._perturbed else 2) * count
        self.meter.images += count
        total = loss + self._sparsity * (1 - torch.cat([*gates.both])).abs().mean()
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()
        self._optimizer.step()
        with torch.no_grad():
            for gate in self._learnt:
                gate.clamp_(0, 1)
        self._losses.append(total.item() * count)
        return total.item()

    def _perturbation(self, x: Tensor, said: Tensor) -> Tensor:
        """What makes the network say another class, as I does, ``(N, C, H, W)``."""
        gates = self._gates
        with torch.no_grad():
            left = gates.gated(gates.gains(inverse=True))
        change = torch.zeros_like(x).requires_grad_()
        optimizer = torch.optim.AdamW([change], lr=self._repair.search_lr)
        for _ in range(self._repair.steps):
            now = gates.network(x + change).log_softmax(dim=1)
            then = left(x + change).log_softmax(dim=1)
            (change.grad,) = torch.autograd.grad(agree(then, now) + differ(now, said), change)
            optimizer.step()
            with torch.no_grad():
                change.clamp_(-1, 1)
        passes = 2 * self._repair.steps * len(x)
        self.meter.forward += passes
        self.meter.backward += passes
        return change.detach()

    def note(self, patience: int) -> None:
        """Look at the loss of an epoch; ``tired`` after so many without a better one."""
        mean = sum(self._losses) / len(self._images)
        better = mean < BETTER * self._best
        self._best, self._since = (mean, 0) if better else (self._best, self._since + 1)
        self.tired = self._since >= patience

    def state_dict(self) -> Tree:
        best = self._best if math.isfinite(self._best) else None
        return {
            "gates": self._gates.values(),
            "optimizer": self._optimizer.state_dict(),
            "losses": list(self._losses),
            "best": best,
            "since": self._since,
        }

    def load_state_dict(self, state: Tree) -> None:
        self._gates.set(state["gates"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._losses, self._since = state["losses"], state["since"]
        self._best = math.inf if state["best"] is None else state["best"]


def agree(p: Tensor, q: Tensor) -> Tensor:
    """Mean of minus the log of how likely both say the same; log-probabilities ``(N, K)``."""
    return -(p + q).logsumexp(dim=1).mean()


def differ(p: Tensor, q: Tensor) -> Tensor:
    """Mean of minus the log of how likely they do not; log-probabilities ``(N, K)``."""
    # Of networks that are sure and say the same, 1 - sum(p q) is 0 in float32 and tells no way out.
    diagonal = torch.eye(q.shape[1], dtype=torch.bool, device=q.device)
    others = q[:, None, :].masked_fill(diagonal, -math.inf).logsumexp(dim=2)
    return -(p + others).logsumexp(dim=1).mean()
