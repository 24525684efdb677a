"""Balls around images: projections and distances."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def project_linf(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Project onto the Linf ball of radius eps around ``x``, cut to the image box [0, 1].

    Both ``(N, C, H, W)``; the result has their shape and dtype.
    """
    return x_adv.clamp(x - eps, x + eps).clamp(0, 1)


def project_l2(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Shorten to the L2 ball of radius eps around ``x``, then cut to the image box [0, 1].

    The cut can only bring the image nearer to ``x``, which lies in the box, so the result is in
    both; it is the nearest point of each set in turn, not always of their intersection.
    """
    change = x_adv - x
    norm = norms_l2(change)
    factor = (eps / norm.clamp(min=1e-12)).clamp(max=1)
    return (x + change * factor).clamp(0, 1)


def project_l1(x_adv: Tensor, x: Tensor, radius: Tensor) -> Tensor:
    """Project onto the part of the L1 ball around ``x`` that lies in the image box [0, 1].

    The nearest point of both together, not of each in turn: every change shrinks by the same
    amount, the least that makes what the box leaves of them fit into the ball. Paper:
    arXiv:2103.01208, proposition 2.1. Radius ``(N, 1, 1, 1)``.
    """
    change = (x_adv - x).flatten(1)
    size = change.abs()
    room = torch.where(change > 0, 1 - x.flatten(1), x.flatten(1))
    # left(t), what is left after shrinking by t, falls in straight pieces: from t = size - room a
    # pixel has left the border of the box, from t = size it does not change.
    ends, order = torch.cat([size - room, size], dim=1).sort(dim=1)
    bend = torch.cat([-torch.ones_like(size), torch.ones_like(size)], dim=1)
    slope = bend.gather(1, order).cumsum(dim=1)
    falls = (slope[:, :-1] * ends.diff(dim=1)).cumsum(dim=1)
    left = room.sum(dim=1, keepdim=True) + torch.cat([torch.zeros_like(ends[:, :1]), falls], dim=1)
    budget = radius.flatten(1)
    piece = ((left > budget).sum(dim=1, keepdim=True) - 1).clamp(min=0)
    here, value, rate = (t.gather(1, piece) for t in (ends, left, slope))
    by = (here + (value - budget) / -rate.clamp(max=-1)).clamp(min=0)
    shrunk = (size - by).clamp(min=0)
    # Rounding of the sums may have left a little too much.
    kept = torch.minimum(shrunk, room).sum(dim=1, keepdim=True)
    fits = (budget / kept.clamp(min=1e-30)).clamp(max=1)
    return (x + (change.sign() * shrunk * fits).reshape(x.shape)).clamp(0, 1)


def onto_plane(x: Tensor, normal: Tensor, offset: Tensor, norm: str) -> Tensor:
    r"""Nearest point of a hyperplane in the image box [0, 1].

    .. math::
        \min_z \lVert z - x\rVert \quad\text{with}\quad \langle w, z\rangle = b,\; z \in [0, 1]^d

    Towards the plane every pixel moves by the same amount (Linf) or in proportion to its weight
    (L2), or as far as the box lets it. Where the plane does not meet the box, the corner that
    comes nearest to it.

    Args:
        x: images ``(N, C, H, W)`` in [0, 1].
        normal: w, of their shape.
        offset: b, ``(N,)``.
        norm: ``linf`` or ``l2``.
    """
    w, flat = normal.flatten(1), x.flatten(1)
    missing = offset - (w * flat).sum(dim=1)
    along = w.sign() * missing.sign()[:, None]
    size = w.abs()
    # How far each pixel can go, and when it stops. Truths as 1.0 and 0.0: bool tensors are slow.
    room = torch.lerp(flat, 1 - flat, _above(along, 0))
    ends = room if norm == "linf" else room / size.clamp(min=1e-30)
    # What is gained by a time is concave: Newton's method never leads beyond the time looked for,
    # and is there when no further pixel stops on the way; after a few rounds, without sorting.
    gain, most, missing = size if norm == "linf" else size * size, size * room, missing.abs()
    took = missing.new_zeros(missing.shape)
    going = _above(ends, 0)
    count = going.sum(dim=1)
    for _ in range(w.shape[1]):
        rate, stopped = (gain * going).sum(dim=1), (most - most * going).sum(dim=1)
        took = torch.maximum(took, (missing - stopped) / rate.clamp(min=1e-30))
        going = _above(ends, took[:, None])
        before, count = count, going.sum(dim=1)
        if torch.equal(count, before):
            break
    took = took[:, None]
    pace = took if norm == "linf" else took * size
    return (flat + along * torch.minimum(pace, room)).reshape(x.shape).clamp(0, 1)


def _above(a: Tensor, b: Tensor | float) -> Tensor:
    """Where a > b, as 1.0 and 0.0."""
    return torch.gt(a, b, out=torch.empty_like(a))


def wide(each: Tensor) -> Tensor:
    """One number an image, ``(N,)``, in the shape that goes with images, ``(N, 1, 1, 1)``."""
    return each.reshape(-1, 1, 1, 1)


def chosen(which: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The images of ``a`` where ``which`` is true, those of ``b`` elsewhere, to the bit.

    As ``torch.where``, for numbers that are finite: at the weights 0 and 1 ``lerp`` is exact. On a
    CPU it was seen to take a seventh of the time.

    Args:
        which: bool ``(N,)``, or what broadcasts to images.
        a: images ``(N, C, H, W)``.
        b: images of the same shape.
    """
    weight = wide(which) if which.ndim == 1 else which
    return torch.lerp(b, a, weight.to(b.dtype))


def linf_radius(eps: float) -> float:
    """The radius that counts: beyond 1 the Linf ball around an image holds the whole box."""
    return min(eps, 1.0)


def norms_l2(change: Tensor) -> Tensor:
    """L2 norm of each image's change, ``(N, 1, 1, 1)``."""
    norm: Tensor = torch.linalg.vector_norm(change.flatten(1), dim=1)
    return wide(norm)


def direction_l2(change: Tensor) -> Tensor:
    """Give each image's change the L2 norm 1; a change that is exactly zero stays zero."""
    largest = norms_linf(change)
    # Scaled first: the squares of a confident network's gradient would all round to zero.
    scaled = change / largest.clamp(min=torch.finfo(change.dtype).tiny)
    return scaled / norms_l2(scaled).clamp(min=1e-12)


def norms_l1(change: Tensor) -> Tensor:
    """L1 norm of each image's change, ``(N, 1, 1, 1)``."""
    return wide(change.abs().flatten(1).sum(dim=1))


def norms_linf(change: Tensor) -> Tensor:
    """Largest change of any pixel of each image, ``(N, 1, 1, 1)``."""
    return wide(change.abs().flatten(1).amax(dim=1))


def norms_l0(change: Tensor) -> Tensor:
    """Number of values that are not zero in each image's change, ``(N, 1, 1, 1)``."""
    return wide((change != 0).flatten(1).sum(dim=1).to(change.dtype))


def shorten_linf(change: Tensor, radius: Tensor) -> Tensor:
    """Nearest change of Linf norm at most ``radius``, ``(N, 1, 1, 1)``."""
    return torch.minimum(torch.maximum(change, -radius), radius)


def shorten_l2(change: Tensor, radius: Tensor) -> Tensor:
    """Nearest change of L2 norm at most ``radius``, ``(N, 1, 1, 1)``."""
    return change * (radius / norms_l2(change).clamp(min=1e-12)).clamp(max=1)


def shorten_l1(change: Tensor, radius: Tensor) -> Tensor:
    """Nearest change of L1 norm at most ``radius``, ``(N, 1, 1, 1)``.

    By sorting, as in Duchi, Shalev-Shwartz, Singer and Chandra (2008): all entries shrink by the
    same amount, and those that are smaller vanish.
    """
    size = change.abs().flatten(1)
    ordered = size.sort(dim=1, descending=True).values
    over = ordered.cumsum(dim=1) - radius.flatten(1)
    count = torch.arange(1, size.shape[1] + 1, device=size.device)
    kept = (ordered * count > over).sum(dim=1, keepdim=True).clamp(min=1)
    by = (over.gather(1, kept - 1) / kept).clamp(min=0)
    return (change.flatten(1).sign() * (size - by).clamp(min=0)).reshape(change.shape)


def shorten_l0(change: Tensor, radius: Tensor) -> Tensor:
    """Nearest change of at most ``radius`` values, ``(N, 1, 1, 1)``: the largest stay.

    Of equal ones the first.
    """
    order = change.abs().flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1).reshape(change.shape)
    return torch.where(rank < radius, change, 0)


def linf_distance(x_adv: Tensor, x: Tensor) -> Tensor:
    """Largest change of any pixel, ``(N,)``."""
    return norms_linf(x_adv - x).flatten()


def l2_distance(x_adv: Tensor, x: Tensor) -> Tensor:
    """L2 norm of the change, ``(N,)``."""
    return norms_l2(x_adv - x).flatten()


def l1_distance(x_adv: Tensor, x: Tensor) -> Tensor:
    """Sum of all changes, ``(N,)``."""
    return norms_l1(x_adv - x).flatten()


def l0_distance(x_adv: Tensor, x: Tensor) -> Tensor:
    """Number of values that changed, each channel of a pixel on its own, ``(N,)``."""
    return (x_adv != x).flatten(1).sum(dim=1).to(x.dtype)


DISTANCES = {"linf": linf_distance, "l2": l2_distance, "l1": l1_distance, "l0": l0_distance}

# By norm: the direction of steepest ascent, and the projection onto ball and box.
ASCENTS: Mapping[
    str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, float], Tensor]]
] = {"linf": (torch.sign, project_linf), "l2": (direction_l2, project_l2)}
