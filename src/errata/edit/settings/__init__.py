"""Configurations of methods: their shared base, which settings a run takes, presets, preset files."""
