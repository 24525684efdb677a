import errno
import os

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from bezoar import checkpoints, trees
from bezoar.classifier import weights_hash

TENSORS = st.sampled_from(
    [
        torch.tensor(3.5),
        torch.tensor(-0.0, dtype=torch.float64),
        torch.tensor([torch.nan, torch.inf]),
        torch.arange(6).reshape(2, 3).t(),
        torch.zeros(0, 3),
        torch.tensor([True, False]),
        torch.arange(4, dtype=torch.uint8),
        torch.ones(3, dtype=torch.bfloat16),
    ]
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
SCALARS = st.none() | st.booleans() | NUMBERS | st.text()
TREES = st.recursive(
    SCALARS | TENSORS,
    lambda tree: (
        st.lists(tree, max_size=3)
        | st.lists(tree, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers(), tree, max_size=3)
    ),
    max_leaves=8,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.safetensors"


def small():
    """4 pixels to 2 logits."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    net[1].weight.data = torch.arange(8.0).reshape(2, 4)
    net[1].bias.data = torch.tensor([0.5, -0.5])
    return net


def refusal(path):
    """The one line with which a file is refused."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the callers look at the text
        trees.load(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def exact(node):
    """A value that is equal only for the same types, order, numbers and bytes."""
    match node:
        case torch.Tensor():
            data = node.contiguous().reshape(-1).view(torch.uint8).tolist()
            return "tensor", node.dtype, node.shape, data
        case dict():
            return "dict", [(key, exact(value)) for key, value in node.items()]
        case list() | tuple():
            return type(node), [exact(value) for value in node]
    return type(node), repr(node)


class TestTree:
    @given(tree=TREES)
    def test_comes_back_to_the_bit(self, tmp_path_factory, tree):
        path = tmp_path_factory.mktemp("tree") / "state.safetensors"
        trees.save(path, tree)
        assert exact(trees.load(path)) == exact(tree)

    def test_an_optimizer_goes_on_from_its_file_as_if_nothing_had_been(self, path):
        def start():
            net = small()
            return net, torch.optim.Adam(net.parameters(), lr=0.1)

        def step(net, optimizer):
            optimizer.zero_grad()
            net(torch.ones(1, 1, 2, 2)).square().sum().backward()
            optimizer.step()

        net, optimizer = start()
        step(net, optimizer)
        step(net, optimizer)
        trees.save(path, {"net": net.state_dict(), "optimizer": optimizer.state_dict()})
        state = trees.load(path)
        other, other_optimizer = start()
        other.load_state_dict(state["net"])
        other_optimizer.load_state_dict(state["optimizer"])
        assert exact(state["optimizer"]) == exact(optimizer.state_dict())
        step(net, optimizer)
        step(other, other_optimizer)
        assert weights_hash(other) == weights_hash(net)

    def test_does_not_change_when_its_file_is_overwritten(self, path):
        trees.save(path, {"w": torch.ones(100)})
        tree = trees.load(path)
        path.write_bytes(bytes(path.stat().st_size))
        assert (tree["w"] == 1).all()

    def test_one_tensor_in_two_places_becomes_two(self, path):
        shared = torch.ones(2)
        trees.save(path, {"a": shared, "b": shared[:1]})
        tree = trees.load(path)
        assert exact(tree) == exact({"a": torch.ones(2), "b": torch.ones(1)})

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_refuses_a_number_that_is_not_finite(self, path, value):
        with pytest.raises(ValueError, match=r"tree.rows.0.loss=.*: expected a finite number"):
            trees.save(path, {"rows": [{"loss": value}]})
        assert not path.exists()

    @pytest.mark.parametrize(
        ("tree", "reason"),
        [
            ({"a": {1, 2}}, "tree.a is a set: expected a tensor"),
            ({"a": object()}, "tree.a is a object"),
            ({"a": {True: 1}}, "tree.a has the key True: expected a string or an int"),
            ({(1, 2): 1}, r"tree has the key \(1, 2\)"),
        ],
    )
    def test_refuses_what_it_cannot_give_back(self, path, tree, reason):
        with pytest.raises(TypeError, match=reason):
            trees.save(path, tree)
        assert not path.exists()

    def test_a_model_is_not_a_training_state(self, path):
        checkpoints.save(path, small(), classes=("a", "b"), shape=(1, 2, 2))
        assert refusal(path).startswith("expected a state saved by bezoar")

    @pytest.mark.parametrize(
        "head",
        [
            None,
            "",
            "[]",
            "{}",
            '{"format": 2, "tree": 1}',
            '{"format": 1}',
            '{"format": 1, "tree": {"tensor": "absent"}}',
            '{"format": 1, "tree": {"tensor": 0}}',
            '{"format": 1, "tree": {"dict": [[1]]}}',
            '{"format": 1, "tree": {"dict": [[[], 1]]}}',
            '{"format": 1, "tree": {"dict": 3}}',
            '{"format": 1, "tree": {"code": "1"}}',
            '{"format": 1, "tree": ' + '{"list": [' * 50_000,
        ],
        ids=lambda head: str(head)[:40],
    )
    def test_refuses_a_header_that_lies(self, path, head):
        save_file({"0": torch.ones(2)}, path, {"bezoar": head} if head is not None else None)
        text = refusal(path)
        assert text.startswith("expected a state saved by bezoar")
        assert text.endswith("delete it to start anew")


class TestWriting:
    def full(self, *args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @pytest.mark.parametrize("place", ["os.replace", "os.fsync"])
    def test_a_full_disk_leaves_the_old_file_and_nothing_else(self, path, monkeypatch, place):
        trees.save(path, {"epoch": 1})
        monkeypatch.setattr(place, self.full)
        with pytest.raises(OSError, match=f"No space left on device: '{path}'"):
            trees.save(path, {"epoch": 2})
        assert trees.load(path) == {"epoch": 1}
        assert list(path.parent.iterdir()) == [path]

    def test_a_folder_that_does_not_exist_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            trees.save(tmp_path / "nowhere" / "state.safetensors", {})
