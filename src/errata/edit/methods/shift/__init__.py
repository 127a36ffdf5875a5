"""Forward pass shifting (Katz et al. 2024)."""
