"""Knowledge neurons (Dai et al. 2022)."""
