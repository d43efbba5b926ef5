"""Where text over the limit is cut: in the middle of the longest texts of a sample."""

from __future__ import annotations

from collections.abc import Sequence


def cap_lengths(lengths: Sequence[int], limit: int) -> list[int]:
    """The longest texts are cut first: min(length, c) with the largest c whose sum keeps to `limit`.

    Short texts stay whole, so padding one message cannot push another out.
    """
    if sum(lengths) <= limit:
        return list(lengths)
    left, caps = limit, list(lengths)
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    for n, i in enumerate(order):
        caps[i] = min(lengths[i], left // (len(order) - n))
        left -= caps[i]
    return caps


def cut_middle(ids: Sequence[int], cap: int) -> list[int]:
    """The first and the last half of `cap` ids."""
    if len(ids) <= cap:
        return list(ids)
    return [*ids[: cap - cap // 2], *(ids[len(ids) - cap // 2 :] if cap // 2 else [])]


def cut_texts(texts: Sequence[Sequence[int]], limit: int) -> tuple[list[list[int]], bool]:
    """Token ids of one sample's texts, cut to `limit` together, and whether anything was cut."""
    caps = cap_lengths([len(t) for t in texts], limit)
    return [cut_middle(t, c) for t, c in zip(texts, caps)], any(len(t) > c for t, c in zip(texts, caps))
