import pytest
import torch
from torch import nn

from bezoar.classifier import prepare
from bezoar.folding import folded
from bezoar.seeds import generator


def trained_norms(model, name):
    """Running means and scales as after a training, from a named stream; eval mode, frozen."""
    rng = generator(0, "tests", "folding", name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_mean, module.bias.data):
                value.copy_(torch.randn(value.shape, generator=rng))
            for value in (module.running_var, module.weight.data):
                value.copy_(torch.rand(value.shape, generator=rng) + 0.5)
    return model.eval().requires_grad_(False)


def norms(model):
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.fixture
def probe():
    return torch.rand(4, 2, 6, 6, generator=generator(0, "tests", "folding"))


def plain():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )


class Twice(nn.Module):
    """One convolution before two norms, and beside them: no norm may go into it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        z = self.conv(x)
        return (self.first(z) * self.second(z) + z).mean(dim=(2, 3))


class Again(nn.Module):
    """The same convolution and norm applied twice; folding twice would be wrong."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.norm(self.conv(self.norm(self.conv(x)))).mean(dim=(2, 3))


class Branching(nn.Module):
    """Looks at values while it runs: the tracer cannot follow."""

    def __init__(self):
        super().__init__()
        self.body = plain()

    def forward(self, x):
        return self.body(x) if x.sum() > 0 else self.body(-x)


def test_a_norm_after_a_convolution_disappears_and_nothing_else_changes(probe):
    model = trained_norms(plain(), "plain")
    made = folded(model, probe)
    assert norms(made) == 0
    torch.testing.assert_close(made(probe), model(probe))
    x = probe.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    (found,) = torch.autograd.grad(made(x)[:, 0].sum(), x)
    torch.testing.assert_close(found, expected)


def test_the_original_is_not_changed(probe):
    model = trained_norms(plain(), "plain")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    logits = model(probe)
    folded(model, probe)
    assert norms(model) == 1
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(model(probe), logits)


@pytest.mark.parametrize("made", [Twice, Again, Branching])
def test_where_it_is_not_proven_the_function_stays(made, probe):
    model = trained_norms(made(), made.__name__)
    torch.testing.assert_close(folded(model, probe)(probe), model(probe))
    assert norms(folded(model, probe)) == norms(model)


def test_a_network_without_norms_is_handed_back(probe):
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 3)).eval()
    assert folded(model, probe) is model


def test_a_hook_that_changes_the_output_is_not_lost(probe):
    model = trained_norms(plain(), "plain")
    model.register_forward_hook(lambda module, inputs, output: 2 * output)
    torch.testing.assert_close(folded(model, probe)(probe), model(probe))


class Declared(nn.Module):
    """A network with a norm to fold that declares a surrogate, which tracing would lose."""

    def __init__(self):
        super().__init__()
        self.body = plain()

    def surrogate(self, x):
        return self.body(x)

    def forward(self, x):
        return self.body(torch.round(x))


def test_prepare_folds_where_it_is_given_images(probe):
    model = trained_norms(plain(), "plain")
    assert norms(prepare(model, probe)) == 0
    assert norms(prepare(model)) == 1


def test_prepare_leaves_a_defence_that_declares_its_gradient(probe):
    model = trained_norms(Declared(), "declared")
    prepared = prepare(model, probe)
    assert norms(prepared) == 1
    x = probe.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(prepared(x).sum(), x)
    assert gradient.abs().sum() > 0
