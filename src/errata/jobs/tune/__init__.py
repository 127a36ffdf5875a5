"""`errata tune`: good settings of a method for a model that nobody has tuned."""
