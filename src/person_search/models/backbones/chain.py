"""Networks that are a chain of parts, cut between two of them; every part keeps the name that it had in the network."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from person_search.models.backbones.backbone import Top, Trunk, statistics_kept


class ChainTrunk(Trunk):
    """The parts of a network from the picture to C4.

    Args:
        parts: by their dotted names in the network, in the order in which they run.
        channels: C of the output.
        channels_end: the network's own maps are (B, h, w, C), not (B, C, h, w).
    """

    def __init__(self, parts: Mapping[str, nn.Module], *, channels: int, channels_end: bool = False):
        super().__init__()
        self.channels = channels
        self.channels_end = channels_end
        self.chain = add_parts(self, parts)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, channels, H / 16, W / 16)."""
        x = run_chain(self, x)
        return x.permute(0, 3, 1, 2) if self.channels_end else x

    def stem_parts(self) -> list[nn.Module]:
        """The first part with weights, and what follows it in a part of its own up to the next convolution or block."""
        stem: list[nn.Module] = []
        for name in self.chain:
            part = self.get_submodule(name)
            weighty = any(p.ndim > 1 for p in part.parameters())
            if weighty and any(p.ndim > 1 for earlier in stem for p in earlier.parameters()):
                break
            stem.append(part)
        return stem


class ChainTop(Top):
    """The parts of a network from C4 to C5.

    Args:
        parts: by their dotted names in the network, in the order in which they run.
        channels: C of the output.
        channels_end: the network's own maps are (R, h, w, C), not (R, C, h, w).

    Attributes:
        even: the network reads cells two by two, and not the last one of an odd side; that is given to it twice.
        takes_none: the network runs on no RoIs at all.
    """

    even = False
    takes_none = True

    def __init__(self, parts: Mapping[str, nn.Module], *, channels: int, channels_end: bool = False):
        super().__init__()
        self.channels = channels
        self.channels_end = channels_end
        self.chain = add_parts(self, parts)

    def forward(self, x: Tensor) -> Tensor:
        """(R, C4, h, w) -> (R, C5, ceil(h / 2), ceil(w / 2)); R may be 0."""
        if len(x) == 0 and not self.takes_none:
            # A row of zeros that nobody sees keeps the way to every weight, which other processes may wait for.
            with statistics_kept(self):
                return self._run(F.pad(x, (0, 0, 0, 0, 0, 0, 0, 1)))[:0]
        return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        if self.even and (x.shape[2] % 2 or x.shape[3] % 2):
            x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2), mode="replicate")
        x = x.permute(0, 2, 3, 1) if self.channels_end else x
        x = run_chain(self, x)
        return x.permute(0, 3, 1, 2) if self.channels_end else x


def run_chain(owner: ChainTrunk | ChainTop, x: Tensor) -> Tensor:
    """The parts of ``owner``, one after the other."""
    for name in owner.chain:
        part = owner.get_submodule(name)
        # Parts without parts of their own are cheap, and one that works in place would spoil what is kept for it.
        x = owner.run(part, x) if any(part.children()) else part(x)
    return x


def add_parts(module: nn.Module, parts: Mapping[str, nn.Module]) -> list[str]:
    """Hang each part into ``module`` under its dotted name; the names, in order."""
    for name, part in parts.items():
        *folders, leaf = name.split(".")
        place = module
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, nn.Module())
            place = place.get_submodule(folder)
        place.add_module(leaf, part)
    return list(parts)
