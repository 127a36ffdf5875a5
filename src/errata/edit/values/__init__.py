"""Target values and the layer loop: what MEMIT, ROME and their kin compute before and while they solve."""
