"""From token ids to training batches: x, and y, the same tokens one step later. Taught in notebooks 01 and 05."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

IGNORED = -100  # F.cross_entropy leaves out targets with this value


def windows(ids: Sequence[int] | Tensor, context_length: int, stride: int | None = None) -> tuple[Tensor, Tensor]:
    """Cut a stream of ids into training pairs: x (n, context_length) and y, x shifted by one.

    stride: how far each window starts after the one before; context_length by default, so that no token is asked for
    twice. Raises ValueError when the stream is shorter than one window.

    >>> windows([1, 2, 3, 4, 5], context_length=2)
    (tensor([[1, 2],
            [3, 4]]), tensor([[2, 3],
            [4, 5]]))
    """
    ids = torch.as_tensor(ids, dtype=torch.int64)
    if len(ids) < context_length + 1:
        raise ValueError(
            f"the text has {len(ids)} tokens, and one window needs {context_length + 1}; "
            "give more text or a shorter context"
        )
    cut = ids.unfold(0, context_length + 1, stride or context_length)
    return cut[:, :-1], cut[:, 1:]


def pack(
    documents: Iterable[tuple[list[int], list[int]]], context_length: int, separator: int, n_rows: int | None = None
) -> tuple[Tensor, Tensor]:
    """Lay whole documents side by side into rows: x (n, context_length) and y, with IGNORED where no loss counts.

    documents: (ids, mask) pairs, mask 1 where the token is to be learned. Each document goes into the first open row
    with room for it, so that a row always starts where a document starts; `separator` follows each one and fills up
    the rest. A document longer than a row is cut at the row's end. Stops reading when `n_rows` rows are begun.
    Raises ValueError when there is nothing to learn from.
    """
    length = context_length + 1
    rows, open_rows = [], []
    for ids, mask in documents:
        ids, mask = [*ids, separator][:length], [*mask, 0][:length]
        for row in open_rows:
            if len(row[0]) + len(ids) <= length:
                break
        else:
            if len(rows) == n_rows:
                break
            row = ([], [])
            rows.append(row)
            open_rows.append(row)
        row[0].extend(ids)
        row[1].extend(mask)
        # The newest open rows are enough for a tight fit, and keep this linear.
        open_rows = [row for row in open_rows if len(row[0]) < length][-16:]
    if not any(1 in mask[1:] for _, mask in rows):
        raise ValueError("there is nothing to learn from: no document has a token that counts")
    ids = torch.tensor([ids + [separator] * (length - len(ids)) for ids, _ in rows])
    mask = torch.tensor([mask + [0] * (length - len(mask)) for _, mask in rows])
    return ids[:, :-1], ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORED)


def repetition_rows(n: int, vocab_size: int, time: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Practice in copying: random ids that start over after 6 to time // 2 tokens. x, y (n, time - 1).

    Only tokens that can be known, because they stood there before, count in y. There is nothing else to learn in
    these rows, which is why a model learns to copy from them so fast.
    """
    generator = torch.Generator().manual_seed(seed)
    period = torch.randint(6, time // 2, (n, 1), generator=generator)
    position = torch.arange(time).expand(n, -1)
    ids = torch.randint(0, vocab_size, (n, time), generator=generator).gather(1, position % period)
    return ids[:, :-1], ids[:, 1:].masked_fill(position[:, 1:] <= period, IGNORED)


class Batches:
    """Endless batches of rows in shuffled order: `batches[step]` is always the same, so that a run can be resumed.

    x, y: (n_rows, context_length). Every epoch goes through all rows in a new order drawn from `seed`.

    >>> x, y = windows(range(9), context_length=2)
    >>> batches = Batches(x, y, batch_size=3, seed=0)
    >>> [tuple(part.shape) for part in batches[0]], batches.steps_per_epoch
    ([(3, 2), (3, 2)], 1)
    """

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, seed: int = 0):
        self.x, self.y, self.seed = x, y, seed
        self.batch_size = min(batch_size, len(x))
        self.steps_per_epoch = len(x) // self.batch_size

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        epoch, step = divmod(step, self.steps_per_epoch)
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.seed * 1_000_003 + epoch))
        rows = order[step * self.batch_size : (step + 1) * self.batch_size]
        return self.x[rows], self.y[rows]
