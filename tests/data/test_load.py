import pytest
import torch

from bezoar.data import PREFIXES, SOURCES, data_root, load


def test_digits_are_real_and_cut_three_ways():
    data = load("digits")
    sets = (data.train, data.validation, data.test)
    assert [len(split) for split in sets] == [1078, 360, 359]
    assert data.shape == (1, 8, 8)
    assert data.classes == tuple("0123456789")
    assert not set(data.train.index) & set(data.test.index)
    x, y = data.train.batch(slice(0, 1))
    assert x.dtype == torch.float32
    # The top of the second digit of the source, a one, in the units of the source: 0 .. 16.
    assert (data.train.index[0], y.item()) == (1, 1)
    assert (x[0, 0, 0] * 16).tolist() == [0, 0, 0, 12, 13, 5, 0, 0]


def test_another_seed_gives_another_split_of_the_same_images():
    first, second = (load("digits", seed=seed) for seed in (0, 1))
    assert first.test.index.tolist() != second.test.index.tolist()
    assert len(first.test) == len(second.test)


def test_every_source_and_prefix_says_what_it_is():
    assert set(SOURCES) == {"digits", "mnist", "fashion-mnist", "cifar10", "gtsrb"}
    assert set(PREFIXES) == {"folder:PATH", "npz:PATH"}
    assert all(source.about for source in SOURCES.values())


def test_the_table_cannot_be_changed():
    with pytest.raises(TypeError):
        SOURCES["mine"] = SOURCES["digits"]


@pytest.mark.parametrize(
    ("name", "guess"), [("minst", "mnist"), ("cifar-10", "cifar10"), ("folders:x", "folder:PATH")]
)
def test_guesses_what_a_misspelt_name_meant(name, guess):
    with pytest.raises(ValueError, match=f"data set '{name}': .*did you mean '{guess}'"):
        load(name)


def test_refuses_an_image_size_for_sets_that_are_not_resized():
    with pytest.raises(ValueError, match=r"image_size=\(8, 8\) for digits: expected a folder:PATH"):
        load("digits", image_size=(8, 8))


def test_the_data_root_is_the_argument_then_the_variable_then_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BEZOAR_DATA", str(tmp_path / "named"))
    assert data_root(tmp_path) == tmp_path
    assert data_root() == tmp_path / "named"
    monkeypatch.setenv("BEZOAR_DATA", "")
    assert data_root().name == "bezoar"


def _counts(split):
    return torch.bincount(split.labels, minlength=len(split.classes)).tolist()


def _first_label_is(split, label):
    return split.index[0] == 0 and split.labels[0] == label


@pytest.mark.data
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_real_mnist_and_fashion_mnist(data_root, name):
    data = load(name, root=data_root)
    sets = (data.train, data.validation, data.test)
    assert [len(split) for split in sets] == [50_000, 10_000, 10_000]
    assert data.shape == (1, 28, 28)
    both = sorted([*data.train.index, *data.validation.index])
    assert both == list(range(60_000))


@pytest.mark.data
def test_real_mnist_labels_are_those_that_were_published(data_root):
    data = load("mnist", root=data_root)
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert _counts(data.test) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    held = torch.tensor(_counts(data.validation))
    train = torch.tensor([5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949])
    assert (abs(held - train / 6) < 1).all()


@pytest.mark.data
def test_real_fashion_mnist_is_balanced_in_every_split(data_root):
    data = load("fashion-mnist", root=data_root)
    assert data.test.labels[:5].tolist() == [9, 2, 1, 1, 6]
    assert _counts(data.train) == [5000] * 10
    assert _counts(data.validation) == _counts(data.test) == [1000] * 10


@pytest.mark.data
def test_real_cifar10_is_balanced_in_every_split(data_root):
    data = load("cifar10", root=data_root)
    assert data.shape == (3, 32, 32)
    assert data.classes[3] == "cat"
    assert _first_label_is(data.test, 3)
    assert _counts(data.test) == [1000] * 10
    assert len(set(_counts(data.validation))) == len(set(_counts(data.train))) == 1
    assert len(data.validation) * 9 == len(data.train)
    assert not set(data.train.index) & set(data.validation.index)


@pytest.mark.data
def test_real_gtsrb_shares_no_track_between_train_and_validation(data_root):
    data = load("gtsrb", root=data_root)
    assert data.shape == (3, 32, 32)
    assert len(data.classes) == 43
    assert not set(data.train.groups) & set(data.validation.groups)
    assert min(_counts(data.train)) > 0
    assert min(_counts(data.validation)) > 0
    share = len(data.validation) / (len(data.train) + len(data.validation))
    assert share == pytest.approx(0.15, abs=0.01)
