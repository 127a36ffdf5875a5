"""Sums of outer products over any number of rows, Σ k kᵀ: little more than half the arithmetic, float64 totals.

A sum is held as panels: panel i has rows i·w … (i+1)·w − 1 of the matrix, from the diagonal on; what lies left of the
diagonal is its mirror image. One matrix product a panel keeps the products wide enough to run at full speed.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

Panels = tuple[Float64[Tensor, "_ _"], ...]

# The rounding error of a float32 sum grows with its length; beyond this many rows the float64 total takes over.
MAX_ROWS = 4096


def zero_panels(size: int, *, device: torch.device | str = "cpu") -> Panels:
    """The panels of a size × size sum of nothing."""
    width = panel_width(size)
    shapes = [(min(width, size - start), size - start) for start in range(0, size, width)]
    return tuple(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes)


def panel_width(size: int) -> int:
    """Rows of a panel: narrow enough to skip 5/12 of the square's arithmetic, wide enough for fast products."""
    return max(128, -(-size // 6 // 64) * 64)


def add_products_(panels: Panels, rows: Float[Tensor, "row size"]) -> None:
    """Add Σ k kᵀ over the rows k, in place; products are taken in float32, or in float64 where the rows have it."""
    for part in rows.split(MAX_ROWS):
        wide = part.to(torch.promote_types(part.dtype, torch.float32))
        start = 0
        for panel in panels:
            stop = start + panel.shape[0]
            panel.add_((wide[:, start:stop].T @ wide[:, start:]).to(panel.device))
            start = stop


def panel_diagonal(panels: Panels) -> Float64[Tensor, " size"]:
    """The sum's diagonal, Σ k²: it holds a NaN or an infinity wherever any k or product did."""
    return torch.cat([panel.diagonal() for panel in panels])


def dense(panels: Panels) -> Float64[Tensor, "size size"]:
    """The whole matrix, exactly symmetric."""
    size = panels[0].shape[1]
    matrix = panels[0].new_empty(size, size)
    start = 0
    for panel in panels:
        stop = start + panel.shape[0]
        matrix[start:stop, start:] = panel
        matrix[start:, start:stop] = panel.T
        # A matrix product need not return a symmetric diagonal block.
        block = panel[:, : stop - start]
        matrix[start:stop, start:stop] = block.triu() + block.triu(1).T
        start = stop
    return matrix
