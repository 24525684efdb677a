"""The 1,797 handwritten digits that come with scikit-learn: real images, no download."""

import numpy as np
import torch

from bezoar.data.imageset import DataSet, ImageSet
from bezoar.data.splits import three_ways


def load(seed: int) -> DataSet:
    """Images ``(N, 1, 8, 8)``, 17 grey levels; Alpaydin and Kaynak, UCI repository, 1998."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    whole = ImageSet(
        pixels=torch.from_numpy((bunch.images / 16).astype(np.float32)).unsqueeze(1),
        labels=torch.from_numpy(bunch.target.astype(np.int64)),
        index=np.arange(len(bunch.target)),
        classes=tuple("0123456789"),
        name="digits",
    )
    return three_ways(whole, seed)
