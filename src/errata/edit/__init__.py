"""Editing: the methods, each behind one interface, and what they share."""

from errata.edit.check import check_facts
from errata.edit.guard import few_said, said_now, with_guard
from errata.edit.lookup import Settings, find_preset, method_of, opened_preset, settings_for
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.knowledge_neurons.knowledge_neurons import KnowledgeNeuronsConfig
from errata.edit.methods.memit import MemitConfig
from errata.edit.methods.mend.mend_config import MendConfig
from errata.edit.methods.shift.shift_config import ShiftConfig
from errata.edit.preset_file import PresetFile, read_preset, write_preset
from errata.edit.registry import METHODS, find_method, presets_of, space_of
from errata.edit.settings.method_config import MethodConfig, parse_layers, parse_override
from errata.edit.settings.presets import Preset
from errata.edit.settings.search_space import SearchSpace
from errata.edit.values.collect import collect_values
from errata.edit.values.contexts import context_prefixes
from errata.edit.values.keys import bare_keys
from errata.edit.values.layer_loop import LayerEdit, Solution, solve
from errata.edit.values.targets import TargetValues, target_values

__all__ = [
    "METHODS",
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
    "SearchSpace",
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
    "space_of",
    "target_values",
    "with_guard",
    "write_preset",
]
