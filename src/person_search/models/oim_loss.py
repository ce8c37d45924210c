"""Online Instance Matching (Xiao et al., CVPR 2017), and the tables that its variants share."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from person_search.models.settings import OimLossSettings, TableLossSettings
from person_search.runtime.distributed import all_gather_rows, mean_count


@dataclass(frozen=True, eq=False)
class Everyone:
    """The RoIs of all processes, in rank order.

    Attributes:
        embeddings: (m, D), as the tables take them.
        labels: (m,).
        overlaps: (m,), for a loss that asks for them.
    """

    embeddings: Tensor
    labels: Tensor
    overlaps: Tensor | None


class IdentityTables(nn.Module, abc.ABC):
    """A table of one embedding per identity (LUT) and a circular queue of people without identity.

    Neither gets a gradient. How embeddings are compared with them, and when they move, is the subclass's ``compare``;
    processes that train together see the embeddings of all, in rank order.

    Args:
        features: D, length of an embedding.
        identities: N, rows of the table.
        config: ``scale``, ``queue`` and ``normalise``; subclasses read more.
    """

    uses_unlabelled = True
    lut: Tensor
    queue: Tensor

    def __init__(self, features: int, identities: int, config: TableLossSettings):
        super().__init__()
        self.scale = config.scale
        self.normalise = config.normalise
        length = config.queue or (5000 if identities > 1000 else 500)
        self.register_buffer("lut", torch.zeros(identities, features))
        self.register_buffer("queue", torch.zeros(length, features))

    def forward(self, embeddings: Tensor, labels: Tensor, overlaps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and top-1 accuracy over labelled rows; both 0 where there are none.

        Args:
            embeddings: (n, D), any length; normalised here unless the settings say otherwise.
            labels: (n,) int64: identity >= 0; -1 a person without identity; below: takes no part.
            overlaps: (n,) IoU with the true box, where ``uses_overlaps`` asks for it.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            embeddings = F.normalize(embeddings.float(), dim=1) if self.normalise else embeddings.float()
            more = None if overlaps is None else all_gather_rows(overlaps)
            everyone = Everyone(all_gather_rows(embeddings), all_gather_rows(labels), more)
            return self.compare(embeddings, labels, everyone)

    @abc.abstractmethod
    def compare(self, embeddings: Tensor, labels: Tensor, everyone: Everyone) -> tuple[Tensor, Tensor]:
        """``forward`` for (n, D) ``embeddings`` as the tables take them, given those of all processes too."""


class OIMLoss(IdentityTables):
    """Online Instance Matching (Xiao et al., CVPR 2017).

    Embeddings are compared with every row of both tables; the softmax over these similarities is the identity
    classifier. The queue takes the new unlabelled people before the comparison, the LUT moves towards the labelled ones
    after it. Arguments are those of ``IdentityTables``.
    """

    Settings = OimLossSettings
    queue_count: Tensor

    def __init__(self, features: int, identities: int, config: OimLossSettings):
        super().__init__(features, identities, config)
        self.momentum = config.momentum
        self.register_buffer("queue_count", torch.zeros((), dtype=torch.int64))

    def compare(self, embeddings: Tensor, labels: Tensor, everyone: Everyone) -> tuple[Tensor, Tensor]:
        """Loss and accuracy; both tables move here."""
        self._enqueue(everyone.embeddings[everyone.labels == -1])
        logits = self.scale * embeddings @ torch.cat([self.lut, self.queue]).t()
        empty = torch.arange(len(self.queue), device=logits.device) < len(self.queue) - self.queue_count
        logits = torch.cat([logits[:, : len(self.lut)], logits[:, len(self.lut) :].masked_fill(empty, -torch.inf)], 1)
        loss, accuracy = labelled_cross_entropy(logits, labels, labels >= 0)
        self._update_lut(everyone.embeddings, everyone.labels)
        return loss, accuracy

    def _enqueue(self, unlabelled: Tensor) -> None:
        length = len(self.queue)
        self.queue.copy_(torch.cat([self.queue, unlabelled])[-length:])
        self.queue_count.copy_((self.queue_count + len(unlabelled)).clamp(max=length))

    def _update_lut(self, embeddings: Tensor, labels: Tensor) -> None:
        if len(labels) == 0:
            return
        identities = len(self.lut)
        # The last row of an identity wins; scatter_reduce says which that is, whatever the device's write order.
        slots = torch.where(labels >= 0, labels, identities)
        order = torch.arange(len(labels), device=labels.device)
        last = torch.full((identities + 1,), -1, device=labels.device).scatter_reduce(0, slots, order, "amax")[:-1]
        moved = F.normalize(self.momentum * self.lut + (1 - self.momentum) * embeddings[last.clamp(min=0)], dim=1)
        self.lut.copy_(torch.where((last >= 0)[:, None], moved, self.lut))


def labelled_cross_entropy(
    logits: Tensor, labels: Tensor, labelled: Tensor, *, among: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and top-1 accuracy over the rows of ``labelled``, divided by their number in all processes.

    The mean of each over processes is the mean over all rows of all processes. Given (n,) bool ``among``, the
    cross-entropy is divided by the number of those rows instead.
    """
    classes = labels.clamp(min=0)
    losses = F.cross_entropy(logits, classes, reduction="none")
    count = mean_count(labelled.sum())
    divisor = count if among is None else mean_count(among.sum())
    loss = torch.where(labelled, losses, 0.0).sum() / divisor
    correct = (logits.detach().argmax(1) == classes) & labelled
    return loss, correct.sum() / count
