"""Which models there are: a row a family, verification at load, loading, what identifies a model."""
