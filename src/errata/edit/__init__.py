"""Editing: the methods, each behind one interface, and what they share."""

from errata.edit.check import check_facts
from errata.edit.collect import collect_values
from errata.edit.contexts import context_prefixes
from errata.edit.guard import few_said, said_now, with_guard
from errata.edit.keys import bare_keys
from errata.edit.layer_loop import LayerEdit, Solution, solve
from errata.edit.mend.config import MendConfig
from errata.edit.method import Edit, EditTask, Method, Preset
from errata.edit.method_config import MethodConfig, parse_layers, parse_override
from errata.edit.methods.knowledge_neurons import KnowledgeNeuronsConfig
from errata.edit.methods.memit import MemitConfig
from errata.edit.methods.shift import ShiftConfig
from errata.edit.preset_file import PresetFile, read_preset, write_preset
from errata.edit.presets import PRESETS, presets_of
from errata.edit.registry import METHODS, find_method
from errata.edit.settings import Settings, find_preset, method_of, opened_preset, settings_for
from errata.edit.targets import TargetValues, target_values

__all__ = [
    "METHODS",
    "PRESETS",
    "Edit",
    "EditTask",
    "KnowledgeNeuronsConfig",
    "LayerEdit",
    "MemitConfig",
    "MendConfig",
    "Method",
    "MethodConfig",
    "Preset",
    "PresetFile",
    "Settings",
    "ShiftConfig",
    "Solution",
    "TargetValues",
    "bare_keys",
    "check_facts",
    "collect_values",
    "context_prefixes",
    "few_said",
    "find_method",
    "find_preset",
    "method_of",
    "opened_preset",
    "parse_layers",
    "parse_override",
    "presets_of",
    "read_preset",
    "said_now",
    "settings_for",
    "solve",
    "target_values",
    "with_guard",
    "write_preset",
]
