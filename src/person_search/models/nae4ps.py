"""NAE as its authors released it (Chen et al., CVPR 2020)."""

from __future__ import annotations

from person_search.models.method_settings import Nae4psSettings
from person_search.models.nae import NAE


class NAE4PS(NAE):
    """NAE with other settings, and another cut of the backbone::

        proposals -> C4 (all of layer3) -> top (layer4) -> C5 -> where exactly?
                      |                                     |
                      +----- projected and concatenated ----+ -> length: person?   direction: who?

    A RoI is background below an IoU of 0.1. One from there up to 0.5 trains nothing.
    """

    Settings = Nae4psSettings
    cut = "layer3"
    freezes_norms = False
