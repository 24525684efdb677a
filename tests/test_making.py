"""Model files: made once, gone on with, never replaced by another."""

import pytest
import torch

from bezoar import checkpoints, making
from bezoar.classifier import weights_hash
from bezoar.models import create
from bezoar.training import Training


class TestTrained:
    TRAINING = Training(epochs=1)

    def test_an_unknown_network_is_refused_before_anything_else(self, tmp_path, few):
        with pytest.raises(ValueError, match=r"network 'lenet': .*did you mean"):
            making.trained(tmp_path / "m", "lenet", few, self.TRAINING, seed=0)

    def test_the_log_of_a_finished_training_is_read_back(self, tmp_path, few):
        path = tmp_path / "m.safetensors"
        log = making.trained(path, "lenet-fig4", few, self.TRAINING, seed=0)
        assert making.trained(path, "lenet-fig4", few, self.TRAINING, seed=0) == log
        assert list(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize("change", [{"seed": 1}, {"training": Training(epochs=2)}])
    def test_another_training_does_not_replace_a_model(self, tmp_path, few, change):
        path = tmp_path / "m.safetensors"
        asked = {"training": self.TRAINING, "seed": 0}
        making.trained(path, "lenet-fig4", few, **asked)
        before = path.read_bytes()
        with pytest.raises(ValueError, match=r"holds another model: .*; choose another --out"):
            making.trained(path, "lenet-fig4", few, **{**asked, **change})
        assert path.read_bytes() == before

    def test_a_model_file_of_another_origin_is_not_replaced(self, tmp_path, few, untrained):
        path = tmp_path / "m.safetensors"
        checkpoints.save(path, untrained, classes=few.classes)
        with pytest.raises(ValueError, match="holds another model"):
            making.trained(path, "lenet-fig4", few, self.TRAINING, seed=0)


class TestTransfer:
    """Eight classes of digits first, then all ten."""

    TRAINING = Training(epochs=1)

    @pytest.fixture
    def init(self, tmp_path, few):
        network = create("lenet-fig4", shape=few.shape, classes=8, seed=3)
        path = tmp_path / "eight.safetensors"
        checkpoints.save(path, network, classes=[str(k) for k in range(8)])
        return path

    def trained(self, path, few, **more):
        return making.trained(path, "lenet-fig4", few, self.TRAINING, seed=0, **more)

    def test_frozen_parts_are_those_of_the_file_it_starts_from(self, tmp_path, few, init):
        path = tmp_path / "ten.safetensors"
        self.trained(path, few, init=init, freeze=("conv1", "hidden1.bias"))
        made, source = (checkpoints.load(file).model.state_dict() for file in (path, init))
        for name in ("conv1.weight", "conv1.bias", "hidden1.bias"):
            assert torch.equal(made[name], source[name])
        assert not torch.equal(made["conv2.weight"], source["conv2.weight"])

    def test_the_record_says_what_it_started_from(self, tmp_path, few, init):
        path = tmp_path / "ten.safetensors"
        self.trained(path, few, init=init, freeze=("conv1",))
        record = checkpoints.header(path).training
        assert record["freeze"] == ["conv1"]
        assert record["init"] == {
            "hash": weights_hash(checkpoints.load(init).model),
            "not taken over": ["output.weight", "output.bias"],
        }

    def test_the_same_call_leaves_the_file_and_another_start_is_refused(self, tmp_path, few, init):
        path, asked = tmp_path / "ten.safetensors", {"init": init, "freeze": ("conv1",)}
        log = self.trained(path, few, **asked)
        before = path.read_bytes()
        assert self.trained(path, few, **asked) == log
        for change in ({"init": None}, {"init": path}, {"freeze": ()}):
            with pytest.raises(ValueError, match="holds another model"):
                self.trained(path, few, **{**asked, **change})
        assert path.read_bytes() == before

    def test_without_the_file_the_same_call_makes_it_again(self, tmp_path, few, init):
        first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
        for path in (first, second):
            self.trained(path, few, init=init, freeze=("conv1",))
        hashes = [weights_hash(checkpoints.load(path).model) for path in (first, second)]
        assert hashes[0] == hashes[1]

    def test_a_file_of_another_network_is_refused(self, tmp_path, few):
        path = tmp_path / "other.safetensors"
        network = create("lenet5", shape=few.shape, classes=10, seed=0)
        checkpoints.save(path, network, classes=few.classes)
        with pytest.raises(ValueError, match="holds lenet5: expected lenet-fig4"):
            self.trained(tmp_path / "ten.safetensors", few, init=path)
