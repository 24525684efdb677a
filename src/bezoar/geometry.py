"""Balls around images: projections and distances."""

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


def onto_plane_linf(x: Tensor, normal: Tensor, offset: Tensor) -> Tensor:
    r"""Nearest point of a hyperplane in the image box [0, 1], by the Linf norm.

    .. math::
        \min_z \lVert z - x\rVert_\infty \quad\text{with}\quad
        \langle w, z\rangle = b,\; z \in [0, 1]^d

    Every pixel moves by the same amount towards the plane, or as far as the box lets it. Where
    the plane does not meet the box, the corner that comes nearest to it.

    Args:
        x: images ``(N, C, H, W)`` in [0, 1].
        normal: w, of their shape.
        offset: b, ``(N,)``.
    """
    w, flat = normal.flatten(1), x.flatten(1)
    missing = offset - (w * flat).sum(dim=1)
    along = w.sign() * missing.sign()[:, None]
    room = torch.where(along > 0, 1 - flat, flat)  # how far each pixel can go
    size = w.abs()
    order = room.argsort(dim=1)
    sorted_room, sorted_size = room.gather(1, order), size.gather(1, order)
    # gain[k]: how much nearer the plane comes when all move by the room of the k-th pixel.
    spent, of_size = (sorted_size * sorted_room).cumsum(dim=1), sorted_size.cumsum(dim=1)
    gain = spent + sorted_room * (of_size[:, -1:] - of_size)
    k = torch.searchsorted(gain.contiguous(), missing.abs()[:, None]).clamp(max=w.shape[1] - 1)
    before = (spent - sorted_size * sorted_room).gather(1, k)
    moving = (of_size[:, -1:] - of_size + sorted_size).gather(1, k)
    by = (missing.abs()[:, None] - before) / moving.clamp(min=1e-30)
    return (flat + along * torch.minimum(by, room)).reshape(x.shape).clamp(0, 1)


def wide(each: Tensor) -> Tensor:
    """One number an image, ``(N,)``, in the shape that goes with images, ``(N, 1, 1, 1)``."""
    return each.reshape(-1, 1, 1, 1)


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


def linf_distance(x_adv: Tensor, x: Tensor) -> Tensor:
    """Largest change of any pixel, ``(N,)``."""
    return norms_linf(x_adv - x).flatten()


def l2_distance(x_adv: Tensor, x: Tensor) -> Tensor:
    """L2 norm of the change, ``(N,)``."""
    return norms_l2(x_adv - x).flatten()


def l1_distance(x_adv: Tensor, x: Tensor) -> Tensor:
    """Sum of all changes, ``(N,)``."""
    return norms_l1(x_adv - x).flatten()


DISTANCES = {"linf": linf_distance, "l2": l2_distance, "l1": l1_distance}
