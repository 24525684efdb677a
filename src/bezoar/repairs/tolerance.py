"""How much accuracy a repair may cost, where few validation images tell it."""

import math

NORMAL = 1.64  # 95 % of a normal distribution lie below so many deviations


def lowest(clean: float, count: int, tolerance: float) -> float:
    r"""The accuracy on validation down to which pruning may go.

    .. math::
        a - \max\bigl(t,\; 1.64 \sqrt{a (1 - a) / n}\bigr)

    A drop within the error of the measurement itself is none: of ten images, one is a tenth.

    Args:
        clean: accuracy a of the classifier that came in.
        count: validation images n.
        tolerance: drop t that is borne in any case, a share of all images.
    """
    error = NORMAL * math.sqrt(clean * (1 - clean) / count)
    return clean - max(tolerance, error) - 1e-9  # shares are rounded
