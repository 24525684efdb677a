import numpy as np
import pytest
import torch
from torch import nn

from bezoar.attacks import APGDTargeted, FABTargeted, Targeted, Untargeted
from bezoar.attacks.engine import search
from bezoar.attacks.oracle import Answers
from bezoar.attacks.protocol import rivals
from bezoar.seeds import Noise

# The logits are the pixels.
PIXELS = nn.Flatten()
X = torch.tensor([[0.9, 0.2, 0.5, 0.4], [0.1, 0.3, 0.6, 0.2]]).reshape(2, 1, 2, 2)
GOAL = Untargeted(torch.tensor([0, 1]))  # the second image is fooled already
TOWARDS = [APGDTargeted(eps=0.05), FABTargeted(eps=0.05)]


@pytest.mark.parametrize(
    ("ranks", "expected"), [([0, 0], [2, 2]), ([1, 2], [3, 0]), ([2, 1], [1, 3]), ([3, 7], [2, 3])]
)
def test_rivals_are_the_wrong_classes_by_their_logits_and_begin_again(ranks, expected):
    oracle = Answers(PIXELS, TOWARDS[0], X, GOAL)
    assert rivals(oracle, X, torch.tensor(ranks)).tolist() == expected
    assert oracle.forward.tolist() == [1] * len(oracle.forward)
    assert not oracle.backward.any()


def test_two_classes_have_one_rival():
    oracle = Answers(PIXELS, TOWARDS[0], X[..., :1, :], GOAL)
    assert rivals(oracle, X[..., :1, :], torch.tensor([0, 5])).tolist() == [1, 0]


@pytest.mark.parametrize("attack", TOWARDS, ids=repr)
def test_each_start_leads_to_the_next_rival(attack):
    oracle = Answers(PIXELS, attack, X, GOAL)
    starts = [Noise(0, "tests", np.arange(2), np.full(2, start)) for start in range(3)]
    targets = [attack.start(X, oracle, noise).target.tolist() for noise in starts]
    assert targets == [[2, 2], [3, 3], [1, 0]]


@pytest.mark.parametrize("attack", TOWARDS, ids=repr)
def test_one_that_chooses_its_targets_refuses_to_be_given_one(attack):
    goal = Targeted(torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="targeted goal: expected one that leads away"):
        search(attack, PIXELS, X, goal, Noise.first(0, "tests", np.arange(2)))
