"""Ragged batches with little padding: samples of similar length stand together.

A padded batch `(B, L, D)` becomes rows `(R, D)`: its samples are sorted by length and cut into
blocks, each padded to its own longest sample only, and the blocks stand below each other. Whatever
treats every position alike (linear layers, norms, feed-forward networks) runs once over all rows;
only attention goes block by block.

On a CPU. `groups_on` says why a batch on any other device, or in a compiled or exported graph, is
one block, whose layout follows from shapes alone: no length is asked for, and nothing here makes
the host wait for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from MMSA_ext.models.eager import on_eager_cpu


def groups_on(device: torch.device, groups: int) -> int:
    """In how many groups of similar length a batch is computed on a device.

    On a CPU, where time goes with the positions that are computed: as many as asked for. Elsewhere
    one: a GPU computes padding faster than the host starts the operations of another group.
    """
    return groups if on_eager_cpu(device) else 1


@dataclass(frozen=True)
class Block:
    """Samples of similar length.

    Attributes:
        samples: Their number b.
        length: Positions l of the longest.
        mask: `(b, l)`, True where valid; None if all are.
    """

    samples: int
    length: int
    mask: Tensor | None


@dataclass(frozen=True)
class Packing:
    """Where the positions of a ragged batch lie.

    Attributes:
        blocks: From short samples to long ones.
        order: `(B,)` int64, the samples in the order of the blocks.
        positions: `(R,)` int64, the position of each row in the flattened padded batch.
        starts: `(B,)` int64, the first row of each sample.
        mask: `(B, L)` of the padded batch, True where valid.
    """

    blocks: tuple[Block, ...]
    order: Tensor
    positions: Tensor
    starts: Tensor
    mask: Tensor

    @classmethod
    def of(cls, mask: Tensor, groups: int) -> Packing:
        """Pack samples in blocks of about equally many.

        Args:
            mask: `(B, L)`, True where valid. Everything up to a sample's last valid position gets a
                row, and at least its first position does.
            groups: Number of blocks as `groups_on` has it, or one for every two samples if that is
                less. A single block is the batch as it is.
        """
        batch, length = mask.shape
        groups = min(groups_on(mask.device, groups), batch // 2)
        if groups < 2:
            return cls._as_it_is(mask, mask)
        ends = (mask * torch.arange(1, length + 1, device=mask.device)).amax(dim=1).clamp(min=1)
        order = torch.argsort(ends, stable=True)
        lengths = ends[order].tolist()
        blocks, rows, starts = [], [], []
        first = first_row = 0
        for samples in order.tensor_split(groups):
            longest = lengths[first + len(samples) - 1]
            valid = mask[samples, :longest]
            complete = lengths[first] == longest and bool(valid.all())
            blocks.append(Block(len(samples), longest, None if complete else valid))
            rows.append(samples[:, None] * length + torch.arange(longest, device=mask.device))
            starts.append(first_row + torch.arange(len(samples), device=mask.device) * longest)
            first += len(samples)
            first_row += rows[-1].numel()
        positions = torch.cat([block.flatten() for block in rows])
        return cls(tuple(blocks), order, positions, torch.cat(starts)[torch.argsort(order)], mask)

    @classmethod
    def whole(cls, mask: Tensor) -> Packing:
        """A batch as it is, in which every position of `(B, L)` counts as valid, padding too."""
        return cls._as_it_is(torch.ones_like(mask, dtype=torch.bool), None)

    @classmethod
    def _as_it_is(cls, mask: Tensor, masked: Tensor | None) -> Packing:
        batch, length = mask.shape
        samples = torch.arange(batch, device=mask.device)
        positions = torch.arange(batch * length, device=mask.device)
        return cls((Block(batch, length, masked),), samples, positions, samples * length, mask)

    @property
    def is_one_block(self) -> bool:
        """Whether the batch stands as it is."""
        return len(self.blocks) == 1

    @property
    def is_whole(self) -> bool:
        """Whether every position of the padded batch counts as valid, so that none is masked."""
        return self.is_one_block and self.blocks[0].mask is None

    @property
    def within(self) -> Tensor:
        """`(R,)` int64, the position of each row in its own sample."""
        batch, length = self.mask.shape
        if self.is_one_block:
            return torch.arange(length, device=self.mask.device).expand(batch, -1).flatten()
        return self.positions % length

    def pack(self, x: Tensor) -> Tensor:
        """Rows `(R, ...)` of a padded batch `(B, L, ...)`."""
        rows = x.flatten(0, 1)
        return rows if self.is_one_block else rows.index_select(0, self.positions)

    def unpack(self, rows: Tensor) -> Tensor:
        """The padded batch `(B, L, D)` of rows `(R, D)`; zero where there is no row."""
        if not self.is_one_block:
            flat = rows.new_zeros(self.mask.numel(), rows.shape[-1])
            rows = flat.index_copy_(0, self.positions, rows)
        return rows.view(*self.mask.shape, -1)

    def split_rows(self, rows: Tensor) -> list[Tensor]:
        """The blocks `(b, l, D)` of rows `(R, D)`."""
        if self.is_one_block:
            return [rows.view(*self.mask.shape, -1)]
        sizes = [block.samples * block.length for block in self.blocks]
        return [
            part.view(block.samples, block.length, -1)
            for part, block in zip(torch.split(rows, sizes), self.blocks, strict=True)
        ]

    def join_rows(self, blocks: list[Tensor]) -> Tensor:
        """What `split_rows` took apart, `(R, D)`."""
        rows = [block.flatten(0, 1) for block in blocks]
        return rows[0] if self.is_one_block else torch.cat(rows)

    def split_samples(self, x: Tensor) -> tuple[Tensor, ...]:
        """The samples of each block, `(b, ...)`, of a batch `(B, ...)`."""
        if self.is_one_block:
            return (x,)
        return torch.split(x.index_select(0, self.order), [b.samples for b in self.blocks])

    def join_samples(self, parts: list[Tensor]) -> Tensor:
        """What `split_samples` took apart, `(B, ...)`."""
        if self.is_one_block:
            return parts[0]
        return torch.cat(parts).index_select(0, torch.argsort(self.order))


@dataclass(frozen=True)
class Ragged:
    """Packed sequences.

    Attributes:
        rows: `(R, D)`, zero where not valid.
        packing: How they are packed.
    """

    rows: Tensor
    packing: Packing

    @classmethod
    def of(cls, x: Tensor, packing: Packing) -> Ragged:
        """Pack a padded batch `(B, L, D)`, whatever stands at its padding."""
        return cls(packing.pack(x * packing.mask.unsqueeze(-1)), packing)

    @classmethod
    def whole(cls, x: Tensor) -> Ragged:
        """A batch `(B, L, D)` as it is, every position of which counts as valid."""
        return cls(x.flatten(0, 1), Packing.whole(x[..., 0]))

    def padded(self) -> tuple[Tensor, Tensor]:
        """The padded batch `(B, L, D)`, zero at padding, and its mask `(B, L)`."""
        return self.packing.unpack(self.rows), self.packing.mask

    def take(self, samples: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Some samples `(b, l, D)`, padded with zeros, and their mask `(b, l)`.

        Args:
            samples: `(b,)` int64, padded to the longest of them on a CPU, to that of the batch
                elsewhere; None is the batch as it is, `(B, L, D)`.

        Returns:
            Features and mask; None for a mask where every position counts as valid.
        """
        if samples is None:
            x, mask = self.padded()
        else:
            mask = self.packing.mask.index_select(0, samples)
            if on_eager_cpu(mask.device) and not self.packing.is_whole:
                positions = torch.arange(1, mask.shape[1] + 1)
                mask = mask[:, : max(1, int((mask * positions).max()))]
            x = self._take(samples, mask)
        return x, None if self.packing.is_whole else mask

    def _take(self, samples: Tensor, mask: Tensor) -> Tensor:
        """Samples `(b, l, D)` with mask `(b, l)`."""
        if self.packing.is_one_block:
            return self.packing.unpack(self.rows)[:, : mask.shape[1]].index_select(0, samples)
        starts = self.packing.starts.index_select(0, samples)
        rows = starts[:, None] + torch.arange(mask.shape[1], device=mask.device)
        taken = self.rows.index_select(0, rows.clamp(max=len(self.rows) - 1).flatten())
        return taken.view(*mask.shape, -1) * mask.unsqueeze(-1)

    def first(self) -> Tensor:
        """The first position of each sample, `(B, D)`."""
        return self.rows.index_select(0, self.packing.starts)

    def mean(self) -> Tensor:
        """Mean over the valid positions, `(B, D)`; zero for a sample that has none."""
        sums = [block.sum(dim=1) for block in self.packing.split_rows(self.rows)]
        count = self.packing.mask.sum(dim=1, keepdim=True).clamp(min=1)
        return self.packing.join_samples(sums) / count
