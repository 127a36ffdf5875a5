"""errata: see what a language model's gradients say, and correct what it believes."""

__version__ = "0.1.0"
