"""Defense-GAN: show the classifier the nearest image that a GAN can make."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bezoar import checks
from bezoar.classifier import device_of, frozen, laid_out, reseeded
from bezoar.costs import Meter
from bezoar.defence import Defended, Evidence
from bezoar.fit import Judgement, Progress, fit, silent
from bezoar.guards.protocol import Guard
from bezoar.models import Purified
from bezoar.models.gan import Critic
from bezoar.models.projection import Projection
from bezoar.seeds import derive, generator
from bezoar.snapshots import Snapshot, Tree


@dataclass(frozen=True, kw_only=True)
class DefenseGAN(Guard):
    r"""Train a GAN on clean images, and classify the nearest image that its generator can make.

    .. math::
        f\bigl(G(z^*)\bigr), \qquad z^* = \arg\min_z \tfrac1d\lVert G(z) - x\rVert_2^2

    found by ``models.Projection``. The generator G and its critic D are those of a Wasserstein GAN
    with gradient penalty (arXiv:1704.00028):

    .. math::
        \min_D\; \mathrm{E}\,D(G(z)) - \mathrm{E}\,D(x)
        + \lambda\, \mathrm{E}\bigl(\lVert\nabla D(\tilde x)\rVert_2 - 1\bigr)^2, \qquad
        \min_G\; -\mathrm{E}\,D(G(z))

    with z from N(0, I) and :math:`\tilde x` uniform on the line between x and G(z). The norm is
    that of the whole gradient of an image; the released code takes it over one axis only, one norm
    a column. Labels and the classifier are not used.

    The training is cut into ``rounds``, the epochs of the log. One step of it is one update of the
    generator: it takes ``critic_steps * batch`` images, a batch for each update of the critic that
    goes before. A round goes through the training images in a random order, over and over until
    it has made its share of ``iterations``.

    After each round some validation images are projected: ``clean`` is the accuracy through the
    guard, ``error`` the mean squared error, ``wasserstein`` the critic's estimate of the distance
    between them and as many generated ones, and the round of the smallest error is kept. What the
    projection cannot reach the classifier cannot see; accuracy on so few images is too coarse to
    choose by, and the critic's estimates are by another critic each.

    Paper: arXiv:1805.06605, with ``width=64`` and ``iterations=200_000``. It was broken, to 55 %
    on MNIST, by arXiv:1802.00420.

    Cost: an iteration is ``critic_steps`` times a batch once forward through G, three times forward
    and four times backward through D, and one more batch each way through both; a validation
    image is ``restarts * steps`` passes each way through G, at most.

    Args:
        latent: numbers in z.
        width: maps of the layer of G and D that is next to the image.
        iterations: updates of the generator.
        rounds: rows of the log that they are cut into.
        critic_steps: updates of the critic before each of them.
        batch: images an update.
        lr: learning rate of Adam, with betas .5 and .9.
        penalty: the factor lambda.
        steps: steps of the projection.
        restarts: its starts.
        rate: its rate.
        momentum: its momentum, in [0, 1].
        tolerance: share of improvement at which a start of it is given up; 0 is never.
        images: how many validation images are looked at, the first of the split; 0 is all.
    """

    latent: int = 128
    width: int = 16
    iterations: int = 20_000
    rounds: int = 5
    critic_steps: int = 5
    batch: int = 50
    lr: float = 1e-4
    penalty: float = 10.0
    steps: int = 200
    restarts: int = 10
    rate: float = 10.0
    momentum: float = 0.7
    tolerance: float = 0.0
    images: int = 64

    def __post_init__(self) -> None:
        for name in ("latent", "width", "rounds", "critic_steps", "batch", "steps", "restarts"):
            checks.at_least(name, getattr(self, name), 1)
        checks.at_least("iterations", self.iterations, self.rounds)
        checks.at_least("images", self.images, 0)
        for name in ("lr", "penalty", "rate"):
            checks.in_range(name, getattr(self, name), 0)
        for name in ("momentum", "tolerance"):
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
        learning = Adversaries(self, classifier, evidence, seed)
        log = fit(
            learning,
            epochs=self.rounds,
            batch=self.critic_steps * self.batch,
            seed=seed,
            judge=learning.judgement,
            snapshot=snapshot,
            on_step=on_step,
        )
        return Defended(learning.whole.eval(), log, learning.meter)


class Adversaries:
    """The training behind ``DefenseGAN``: a generator and a critic against each other."""

    model: nn.Module

    def __init__(
        self, guard: DefenseGAN, classifier: nn.Module, evidence: Evidence, seed: int
    ) -> None:
        self.meter, self._guard, self._seed = Meter(), guard, seed
        self._device = device_of(classifier)
        self._images = evidence.train
        self._validation = evidence.validation.at_most(guard.images)
        shape = evidence.train.shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "init", "defense-gan"))
            projection = Projection(
                shape=shape,
                latent=guard.latent,
                width=guard.width,
                steps=guard.steps,
                restarts=guard.restarts,
                lr=guard.rate,
                momentum=guard.momentum,
                tolerance=guard.tolerance,
            )
            critic = Critic(shape=shape, width=guard.width)
        network = deepcopy(classifier).eval().requires_grad_(False)
        self.model = self._projection = projection.to(self._device)
        self.whole = Purified(purifier=projection, network=network)
        self._generator, self._critic = projection.generator, critic.to(self._device)
        self._optimizers: dict[nn.Module, torch.optim.Optimizer] = {}
        for learner in (self._generator, self._critic):
            adam = torch.optim.Adam(
                laid_out(learner).parameters(), lr=guard.lr, betas=(0.5, 0.9), fused=True
            )
            self._optimizers[learner] = adam

    def begin(self, epoch: int) -> int:
        made, rounds = self._guard.iterations, self._guard.rounds
        updates = made * (epoch + 1) // rounds - made * epoch // rounds
        return updates * self._guard.critic_steps * self._guard.batch

    def step(self, rows: Tensor, position: float) -> float:
        x, _ = self._images.batch(rows % len(self._images))
        losses = [self._criticise(own) for own in x.to(self._device).split(self._guard.batch)]
        self._generate()
        self.meter.images += len(rows)
        return float(torch.stack(losses).mean())

    def _criticise(self, x: Tensor) -> Tensor:
        """One update of the critic; its loss."""
        count = len(x)
        with torch.no_grad():
            fake = self._generator(self._points(count))
            between = x + torch.rand(count, 1, 1, 1, device=x.device) * (fake - x)
        loss = criticism(self._critic, x, fake, between, self._guard.penalty)
        self._update(self._critic, loss)
        self.meter.forward += 4 * count
        self.meter.backward += 4 * count
        return loss.detach()

    def _generate(self) -> None:
        """One update of the generator."""
        count = self._guard.batch
        self._update(self._generator, -self._critic(self._generator(self._points(count))).mean())
        self.meter.forward += 2 * count
        self.meter.backward += 2 * count

    def _update(self, learner: nn.Module, loss: Tensor) -> None:
        """One step of a learner's own optimizer; the other's gradients are not even computed."""
        parameters = list(learner.parameters())
        for parameter, gradient in zip(
            parameters, torch.autograd.grad(loss, parameters), strict=True
        ):
            parameter.grad = gradient
        self._optimizers[learner].step()

    def _points(self, count: int) -> Tensor:
        return torch.randn(count, self._guard.latent, device=self._device)

    def judgement(self, epoch: int) -> Judgement:
        """Accuracy through the guard and the errors of the projection; the critic's distance."""
        x, y = (part.to(self._device) for part in self._validation.batch(slice(None)))
        keys = torch.arange(len(x), device=self._device)
        z = torch.randn(
            len(x), self._guard.latent, generator=generator(self._seed, "judge", epoch + 1)
        )
        with reseeded(self._projection, keys), torch.no_grad(), frozen(self.whole):
            found = self._projection.reconstruct(x)
            clean = (self.whole.network(found.images).argmax(dim=1) == y).double().mean().item()
            made = self._generator(z.to(self._device))
            distance = (self._critic(x).mean() - self._critic(made).mean()).item()
        error = found.error.double().mean().item()
        steps = int(found.passes.sum())
        self.meter.forward += steps + len(x) * (self._guard.restarts + 4)
        self.meter.backward += steps
        return Judgement({"clean": clean, "error": error, "wasserstein": distance}, score=-error)

    def state_dict(self) -> Tree:
        return {
            "generator": self._generator.state_dict(),
            "critic": self._critic.state_dict(),
            "optimizers": [adam.state_dict() for adam in self._optimizers.values()],
        }

    def load_state_dict(self, state: Tree) -> None:
        self._generator.load_state_dict(state["generator"])
        self._critic.load_state_dict(state["critic"])
        for adam, own in zip(self._optimizers.values(), state["optimizers"], strict=True):
            adam.load_state_dict(own)


def criticism(critic: Critic, x: Tensor, fake: Tensor, between: Tensor, penalty: float) -> Tensor:
    """What the critic minimises: the scores of fakes above those of images, and the penalty."""
    real, made = critic(torch.cat((x, fake))).split((len(x), len(fake)))
    norms = critic.gradient(between).flatten(1).norm(dim=1)
    loss: Tensor = made.mean() - real.mean() + penalty * (norms - 1).square().mean()
    return loss
