"""Gradient descent on matrices of the model, for the length of an edit."""
