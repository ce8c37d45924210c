"""LOIM: online instance matching that trusts a RoI as far as it lies on its person (Lee et al., ECCV 2022)."""

from __future__ import annotations

from torch import Tensor

from person_search.models.oim_loss import Everyone
from person_search.models.sequential_oim_loss import SequentialTables
from person_search.models.settings import LoimLossSettings


class LOIMLoss(SequentialTables):
    """Online instance matching whose table moves towards a RoI by its IoU with the person's true box, within bounds.

    Loss, gradient and queue are those of ``SequentialOIMLoss``. Arguments are those of ``IdentityTables``.
    """

    Settings = LoimLossSettings
    uses_overlaps = True

    def __init__(self, features: int, identities: int, config: LoimLossSettings):
        super().__init__(features, identities, config)
        self.bounds = config.min_step, config.max_step

    def forward(self, embeddings: Tensor, labels: Tensor, overlaps: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """See ``IdentityTables``. Raises ValueError without ``overlaps``."""
        if overlaps is None:
            raise ValueError("LOIM wants the overlap of every RoI with the true box that it overlaps most")
        return super().forward(embeddings, labels, overlaps)

    def steps(self, everyone: Everyone) -> Tensor:
        """The overlaps, clamped."""
        assert everyone.overlaps is not None
        return everyone.overlaps.to(everyone.embeddings.dtype).clamp(*self.bounds)
