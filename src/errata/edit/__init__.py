"""Editing: MEMIT's target values, keys and layer solves, and the patches they make."""

from errata.edit.check import check_facts
from errata.edit.collect import collect_values
from errata.edit.config import MemitConfig
from errata.edit.contexts import sample_prefixes
from errata.edit.memit import LayerEdit, MemitSolution, solve
from errata.edit.method_config import MethodConfig, parse_layers, parse_override
from errata.edit.presets import PRESETS, Preset, Settings, find_preset, settings_for
from errata.edit.targets import TargetValues, target_values

__all__ = [
    "PRESETS",
    "LayerEdit",
    "MemitConfig",
    "MemitSolution",
    "MethodConfig",
    "Preset",
    "Settings",
    "TargetValues",
    "check_facts",
    "collect_values",
    "find_preset",
    "parse_layers",
    "parse_override",
    "sample_prefixes",
    "settings_for",
    "solve",
    "target_values",
]
