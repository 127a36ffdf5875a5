"""Lens: what a gradient says, token by token and layer by layer (Katz et al. 2024)."""

from errata.lens.backward_lens import BackwardLens
from errata.lens.capture import backward_lens, backward_lenses
from errata.lens.losses import LOSSES
from errata.lens.modes import MODES, Reader
from errata.lens.neurons import NeuronTable
from errata.lens.table import LensTable
from errata.models.text.segments import SEGMENTS

__all__ = [
    "LOSSES",
    "MODES",
    "SEGMENTS",
    "BackwardLens",
    "LensTable",
    "NeuronTable",
    "Reader",
    "backward_lens",
    "backward_lenses",
]
