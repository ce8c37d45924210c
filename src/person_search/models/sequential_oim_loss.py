"""Online Instance Matching as its authors' code computes it, and SeqNet, NAE and COAT after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from person_search.models.oim_loss import labelled_cross_entropy
from person_search.models.settings import SequentialOimLossSettings
from person_search.runtime.distributed import all_gather_rows


class SequentialOIMLoss(nn.Module):
    """A table of one embedding per identity (LUT) and a circular queue of people without identity (Xiao et al., 2017).

    It differs from ``OIMLoss`` in three ways: rows that nothing has filled yet take part in the softmax, with a
    similarity of 0; both tables are compared with as they were before the batch; and every RoI of an identity moves
    its row, one after the other, not the last alone. The tables move in the backward pass, so that losses without
    one leave them alone. Processes that train together see the embeddings of all, in rank order.

    Args:
        features: D, length of an embedding.
        identities: N, rows of the table.
        config: ``scale``, ``momentum``, ``queue``.
    """

    Settings = SequentialOimLossSettings
    uses_unlabelled = True
    lut: Tensor
    queue: Tensor
    queue_head: Tensor

    def __init__(self, features: int, identities: int, config: SequentialOimLossSettings):
        super().__init__()
        self.scale = config.scale
        self.momentum = config.momentum
        length = config.queue or (5000 if identities > 1000 else 500)
        self.register_buffer("lut", torch.zeros(identities, features))
        self.register_buffer("queue", torch.zeros(length, features))
        self.register_buffer("queue_head", torch.zeros((), dtype=torch.int64))

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and top-1 accuracy over labelled rows; both 0 where there are none.

        Args:
            embeddings: (n, D), any length; normalised here.
            labels: (n,) int64: identity >= 0; -1 a person without identity; below: takes no part.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = F.normalize(embeddings.float(), dim=1)
            all_embeddings, all_labels = all_gather_rows(embeddings), all_gather_rows(labels)
            logits = self.scale * embeddings @ torch.cat([self.lut, self.queue]).t()
            if logits.requires_grad:
                logits.register_hook(lambda gradient: self._update(all_embeddings, all_labels))
            return labelled_cross_entropy(logits, labels, labels >= 0)

    @torch.no_grad()
    def _update(self, embeddings: Tensor, labels: Tensor) -> None:
        self._enqueue(embeddings[labels == -1])
        embeddings, labels = embeddings[labels >= 0], labels[labels >= 0]
        # RoIs of one identity wait for each other, those of different ones do not.
        turn = (labels[:, None] == labels).tril(-1).sum(1)
        for now in range(int(turn.max()) + 1 if len(labels) else 0):
            rows = labels[turn == now]
            moved = self.momentum * self.lut[rows] + (1 - self.momentum) * embeddings[turn == now]
            self.lut[rows] = F.normalize(moved, dim=1)

    def _enqueue(self, unlabelled: Tensor) -> None:
        length = len(self.queue)
        places = self.queue_head + torch.arange(len(unlabelled), device=self.queue.device)
        self.queue[places[-length:] % length] = unlabelled[-length:]
        self.queue_head.copy_((self.queue_head + len(unlabelled)) % length)
