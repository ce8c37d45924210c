"""Identity classification with a plain softmax over the training identities."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from person_search.models.oim_loss import labelled_cross_entropy
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
