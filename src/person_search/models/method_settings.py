"""The settings of every method, with its published defaults.

They can be read without the network library, so that what only scores or shows help starts at once.
"""

from __future__ import annotations

from pydantic import Field, SerializeAsAny

from person_search.config import AtLeastOne, Positive
from person_search.models.settings import BackboneSettings, ResNetSettings, RpnSettings, TwoStageSettings
from person_search.sections import Section


class PkSettings(Section):
    """PK sampling: the proposals that train re-ID."""

    prefix = "pk_"

    sampling: bool = Field(
        True, description="re-ID trains on K proposals of every person; off: on the detection head's RoIs"
    )
    per_person: AtLeastOne = Field(4, description="K of PK sampling")


class BaselineSettings(TwoStageSettings):
    """The strong baseline."""

    method: str = "baseline"
    backbone: SerializeAsAny[BackboneSettings] = ResNetSettings(freeze=None)
    pk: PkSettings = PkSettings()


class OimSettings(TwoStageSettings):
    """OIM (Xiao et al., CVPR 2017)."""

    method: str = "oim"


class NaeSettings(TwoStageSettings):
    """NAE (Chen et al., CVPR 2020)."""

    method: str = "nae"
    rpn: RpnSettings = RpnSettings(anchor_sizes=(32.0, 64.0, 128.0, 256.0, 512.0))
    box_loss_weight: Positive = 10.0
