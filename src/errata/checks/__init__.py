"""Checks: what a model can be given of facts, before any long work."""
