"""Online Instance Matching as its authors' code computes it, and SeqNet, NAE, COAT and SeqNeXt after it."""

from __future__ import annotations

import abc

import torch
from torch import Tensor
from torch.nn import functional as F

from person_search.models.oim_loss import Everyone, IdentityTables, labelled_cross_entropy
from person_search.models.settings import SafeOimLossSettings, SequentialOimLossSettings, TableLossSettings


class SequentialTables(IdentityTables):
    """Tables in the other of OIM's two readings.

    It differs from ``OIMLoss`` in three ways: rows that nothing has filled yet take part in the softmax, with a
    similarity of 0; both tables are compared with as they were before the batch; and every RoI of an identity moves
    its row, one after the other, not the last alone. The tables move in the backward pass, so that losses without
    one leave them alone. How far a RoI moves its row is the subclass's ``steps``. Arguments are those of
    ``IdentityTables``.
    """

    queue_head: Tensor

    def __init__(self, features: int, identities: int, config: TableLossSettings):
        super().__init__(features, identities, config)
        self.register_buffer("queue_head", torch.zeros((), dtype=torch.int64))

    @abc.abstractmethod
    def steps(self, everyone: Everyone) -> Tensor:
        """(m,) share of each RoI in the row that it moves, the rest being what the row was."""

    def compare(self, embeddings: Tensor, labels: Tensor, everyone: Everyone) -> tuple[Tensor, Tensor]:
        """Loss and accuracy; the tables move when the gradient comes back."""
        logits = self.scale * embeddings @ torch.cat([self.lut, self.queue]).t()
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self._update(everyone))
        return labelled_cross_entropy(logits, labels, labels >= 0)

    @torch.no_grad()
    def _update(self, everyone: Everyone) -> None:
        embeddings, labels = everyone.embeddings, everyone.labels
        self._enqueue(embeddings[labels == -1])
        labelled = labels >= 0
        embeddings, labels, steps = embeddings[labelled], labels[labelled], self.steps(everyone)[labelled, None]
        # RoIs of one identity wait for each other, those of different ones do not.
        turn = (labels[:, None] == labels).tril(-1).sum(1)
        for now in range(int(turn.max()) + 1 if len(labels) else 0):
            its = turn == now
            rows = labels[its]
            self.lut[rows] = F.normalize((1 - steps[its]) * self.lut[rows] + steps[its] * embeddings[its], dim=1)

    def _enqueue(self, unlabelled: Tensor) -> None:
        length = len(self.queue)
        places = self.queue_head + torch.arange(len(unlabelled), device=self.queue.device)
        self.queue[places[-length:] % length] = unlabelled[-length:]
        self.queue_head.copy_((self.queue_head + len(unlabelled)) % length)


class SequentialOIMLoss(SequentialTables):
    """Online Instance Matching (Xiao et al., CVPR 2017) as ``SequentialTables`` do it, every step alike."""

    Settings = SequentialOimLossSettings

    def __init__(self, features: int, identities: int, config: SequentialOimLossSettings):
        super().__init__(features, identities, config)
        self.momentum = config.momentum

    def steps(self, everyone: Everyone) -> Tensor:
        """The same for every RoI."""
        return torch.full_like(everyone.embeddings[:, 0], 1 - self.momentum)


class SafeOIMLoss(SequentialOIMLoss):
    """Online Instance Matching that rows without a person do not disturb (Jaffe and Zakhor, WACV 2023).

    A row of either table that nothing has filled yet counts as the opposite of everybody, with a cosine of -1; a
    person whose own row is empty has nothing to learn from it, which counts as a cosine of 1. Cross-entropy is divided
    by the number of all people, those without identity included. The tables move at once, person by person as in
    ``SequentialOIMLoss``, but not in the backward pass. Arguments are those of ``IdentityTables``.
    """

    Settings = SafeOimLossSettings

    def compare(self, embeddings: Tensor, labels: Tensor, everyone: Everyone) -> tuple[Tensor, Tensor]:
        """Loss and accuracy; the tables move here."""
        tables = torch.cat([self.lut, self.queue])
        empty = ~tables.any(1)
        own = F.one_hot(labels.clamp(min=0), len(tables)).bool()
        cosines = (embeddings @ tables.t()).masked_fill(empty, -1.0).masked_fill(empty & own, 1.0)
        self._update(everyone)
        return labelled_cross_entropy(self.scale * cosines, labels, labels >= 0, among=labels >= -1)
