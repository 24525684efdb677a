import math

import pytest
import torch

from bezoar.classifier import prepare, reseeded, weights_hash
from bezoar.models import Purified, create, projection
from bezoar.models.projection import Projection
from bezoar.seeds import generator

SHAPE = (1, 8, 8)


def made(**fields):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Projection(**{"shape": SHAPE, "latent": 6, "width": 4, **fields}).eval()


def images(count, seed=0):
    return torch.rand(count, *SHAPE, generator=generator(seed, "tests", "projection"))


def found(model, x, keys=None):
    with reseeded(model, torch.arange(len(x)) if keys is None else keys):
        return model.reconstruct(x)


def one_by_one(model, x, keys):
    """The search again, by torch's own optimizer, one start of one image at a time."""
    chosen, errors = [], []
    with reseeded(model, keys):
        starts = model._starts(x)
    for image, own in zip(x, starts, strict=True):
        ends = []
        for start in own:
            z = start[None].clone().requires_grad_()
            descent = torch.optim.SGD([z], lr=model.lr, momentum=model.momentum)
            before = math.inf
            for step in range(model.steps):
                if step == math.ceil(0.8 * model.steps):
                    descent.param_groups[0]["lr"] = model.lr / 10
                error = (model.generator(z) - image).square().mean()
                (z.grad,) = torch.autograd.grad(error, z)
                descent.step()
                if model.tolerance and step % 10 == 9:
                    if error >= (1 - model.tolerance) * before:
                        break
                    before = error.item()
            with torch.no_grad():
                made = model.generator(z)[0]
            ends.append(((made - image).square().mean().item(), made))
        error, made = min(ends, key=lambda end: end[0])
        chosen.append(made)
        errors.append(error)
    return torch.stack(chosen), torch.tensor(errors)


@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_is_the_search_of_the_paper(tolerance):
    model, x = made(steps=35, restarts=2, lr=1.0, std=1.0, tolerance=tolerance), images(3)
    keys = torch.tensor([3, 1, 4])
    result, wanted = found(model, x, keys), one_by_one(model, x, keys)
    torch.testing.assert_close((result.images, result.error), wanted, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("tolerance", "steps"), [(0.0, 45), (1.0, 20)])
def test_counts_its_passes(tolerance, steps):
    # No start can improve by all of its error: with 1 they leave when there are ten steps to see.
    model, x = made(steps=45, restarts=3, tolerance=tolerance), images(4)
    rows = []
    model.generator.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    result = found(model, x)
    assert result.passes.tolist() == [3 * steps] * 4
    assert sum(rows) == 4 * 3 * steps + 4 * 3


def test_starts_that_stand_leave_and_nothing_else_changes():
    x, full = images(6), made(steps=100, restarts=2, lr=3.0, std=1.0)
    early = made(steps=100, restarts=2, lr=3.0, std=1.0, tolerance=0.02)
    late, soon = found(full, x), found(early, x)
    assert (late.passes == 200).all()
    assert soon.passes.float().mean() < 150
    assert len(set(soon.passes.tolist())) > 1
    assert soon.error.mean() < 1.1 * late.error.mean()


def test_the_error_does_not_grow_with_the_restarts_nor_with_the_steps():
    x = images(8)
    errors = [found(made(steps=10, restarts=many, std=1.0), x).error for many in (1, 2, 5)]
    assert (errors[1] <= errors[0] + 1e-6).all()
    assert (errors[2] <= errors[1] + 1e-6).all()
    assert errors[2].mean() < errors[0].mean()
    means = [found(made(steps=count, lr=1.0), x).error.mean() for count in (2, 10, 50)]
    assert means[2] < means[1] < means[0]


def test_the_error_is_that_of_the_images():
    model, x = made(steps=3), images(5)
    result = found(model, x)
    torch.testing.assert_close(result.error, (result.images - x).square().mean(dim=(1, 2, 3)))


def test_finds_what_the_generator_has_made():
    model = made(shape=(1, 16, 16))
    z = torch.randn(3, 6, generator=generator(0, "z"))
    with torch.no_grad():
        x = model.generator(z)
    error = found(model, x).error.max()
    assert error < 1e-3
    assert error < 0.05 * x.var(dim=0).mean()


def test_leaves_the_generator_as_it_is_and_works_without_gradients():
    model, x = made(steps=5), images(3)
    before = weights_hash(model)
    with torch.no_grad():
        silent = found(model, x).images
    result = found(model, x.clone().requires_grad_()).images
    assert torch.equal(silent, result)
    assert not result.requires_grad
    assert weights_hash(model) == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_an_image_depends_on_its_key_and_on_no_neighbour(monkeypatch):
    model, x = made(steps=30, restarts=3, std=1.0, tolerance=0.05), images(7)
    keys = torch.arange(7)
    whole = found(model, x, keys)
    torch.testing.assert_close(found(model, x[[5]], keys[[5]]).images, whole.images[[5]])
    turned = found(model, x.flip(0), keys.flip(0))
    torch.testing.assert_close(turned.images.flip(0), whole.images)
    assert not torch.allclose(found(model, x, keys + 9).images, whole.images)
    monkeypatch.setattr(projection, "ROWS", 5)  # parts of one image
    for column, wanted in zip(found(model, x, keys), whole, strict=True):
        torch.testing.assert_close(column, wanted)


def test_starts_have_the_deviation_of_the_paper():
    model = made(latent=128)
    with reseeded(model, torch.arange(300)):
        starts = model._starts(torch.zeros(300, *SHAPE))
    assert starts.shape == (300, 10, 128)
    assert starts.std().item() == pytest.approx(128**-0.5, rel=0.02)
    assert abs(starts.mean().item()) < 1e-3


def test_without_keys_the_starts_come_from_torch():
    model, x = made(steps=1), images(2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = model(x)
        assert not torch.equal(model(x), first)
        torch.manual_seed(1)
        assert torch.equal(model(x), first)


def test_an_attacker_gets_the_gradient_of_the_network_at_the_projection():
    network = create("lenet-fig4", shape=SHAPE, classes=3, seed=0)
    whole, keys = Purified(purifier=made(steps=4), network=network).eval(), torch.arange(3)
    prepared, x = prepare(whole), images(3).requires_grad_()
    with reseeded(prepared, keys):
        (gradient,) = torch.autograd.grad(prepared(x)[:, 0].sum(), x)
    at = found(whole.purifier, x, keys).images.requires_grad_()
    (wanted,) = torch.autograd.grad(whole.network(at)[:, 0].sum(), at)
    torch.testing.assert_close(gradient, wanted)
    assert wanted.abs().max() > 0


@pytest.mark.parametrize("steps", [2, 3])
def test_the_unrolled_search_has_its_true_gradient(steps):
    model = made(shape=(1, 4, 4), latent=3, steps=steps, restarts=2, std=1.0).double()
    x = torch.rand(2, 1, 4, 4, generator=generator(0, "unrolled"), dtype=torch.float64)

    def search(x):
        with reseeded(model, torch.arange(2)):
            return model.unrolled(x)

    torch.testing.assert_close(search(x), found(model, x).images)
    assert torch.autograd.gradcheck(search, x.requires_grad_())
    (through,) = torch.autograd.grad(search(x).sum(), x)
    assert through.abs().max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "steps=0: expected an integer from 1"),
        ({"restarts": 1.5}, "restarts=1.5: expected an integer from 1"),
        ({"lr": -1.0}, "lr=-1.0: expected a number at least 0"),
        ({"momentum": 1.5}, "momentum=1.5: expected a number in"),
        ({"std": math.nan}, "std=nan: expected a number at least 0"),
        ({"tolerance": 2}, "tolerance=2: expected a number in"),
    ],
)
def test_refuses_what_is_no_search(fields, said):
    with pytest.raises(ValueError, match=said):
        made(**fields)
