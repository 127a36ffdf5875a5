"""Pure numerics: tensors in, tensors out."""
