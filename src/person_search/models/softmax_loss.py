"""Identity classification with a plain softmax over the training identities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from person_search.models.oim_loss import labelled_cross_entropy
from person_search.models.roi_sampling import can_normalise
from person_search.models.settings import LossSettings


class SoftmaxLoss(nn.Module):
    """A linear classifier over N identities, without bias; people without identity take no part.

    Args:
        features: D, length of an embedding.
        identities: N.
        config: not used; every re-ID loss is built alike.
    """

    Settings = LossSettings
    uses_unlabelled = False

    def __init__(self, features: int, identities: int, config: LossSettings):
        super().__init__()
        self.classifier = nn.Linear(features, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and top-1 accuracy over rows with ``labels`` >= 0; see ``OIMLoss.forward``."""
        with torch.autocast(embeddings.device.type, enabled=False):
            return labelled_cross_entropy(self.classifier(embeddings.float()), labels, labels >= 0)


class NormalisedSoftmaxLoss(SoftmaxLoss):
    """``SoftmaxLoss`` behind batch normalisation without an offset: the BN neck of Luo et al. (CVPRW 2019).

    People without identity take part in the normalisation. Where there are too few people to normalise, there is no
    loss. Arguments are those of ``SoftmaxLoss``.
    """

    uses_unlabelled = True

    def __init__(self, features: int, identities: int, config: LossSettings):
        super().__init__(features, identities, config)
        self.norm = nn.BatchNorm1d(features, affine=False)
        self.gain = nn.Parameter(torch.ones(features))

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """As ``SoftmaxLoss.forward``; rows with ``labels`` below -1 take no part."""
        people = labels >= -1
        embeddings, labels = embeddings[people], labels[people]
        if not can_normalise(len(labels), labels.device, self.norm):
            embeddings, labels = embeddings[:0], labels[:0]
        with torch.autocast(embeddings.device.type, enabled=False):
            return super().forward(self.norm(embeddings.float()) * self.gain, labels)
