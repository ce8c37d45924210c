"""OIMNet++: OIM with prototypical normalisation and localisation-aware learning (Lee et al., ECCV 2022)."""

from __future__ import annotations

from torch import nn

from person_search.models.method_settings import OimNetPlusPlusPlusSettings, OimNetPlusPlusSettings
from person_search.models.oim import OIM
from person_search.models.proto_norm import replace_batch_norms


class OIMNetPlusPlus(OIM):
    """The network of OIM on torchvision's Faster R-CNN; what is new is how embeddings are normalised and learnt::

        proposals -> top -> max pool -> person? where?
                                     -> linear -> ProtoNorm -> unit length -> who?   (LOIM: loss "loim")

    ProtoNorm counts every person once, however many RoIs show them; LOIM moves the table further towards RoIs that lie
    well. With ``proto_norm_in_top``, OIMNet+++, the top normalises by prototypes as well. Without the projection's
    norm and with the loss ``oim-sequential`` it is the strong OIM that the authors compare with.
    """

    Settings = OimNetPlusPlusSettings
    config: OimNetPlusPlusSettings
    cut = "layer3"
    freezes_norms = False
    min_side = 0.0

    def __init__(self, config: OimNetPlusPlusSettings, num_identities: int, *, load_weights: bool = True):
        super().__init__(config, num_identities, load_weights=load_weights)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        if config.proto_norm_in_top:
            replace_batch_norms(self.top, of=config.backbone.name)


class OIMNetPlusPlusPlus(OIMNetPlusPlus):
    """OIMNet++ with ``proto_norm_in_top``, by the name that its authors gave it."""

    Settings = OimNetPlusPlusPlusSettings
