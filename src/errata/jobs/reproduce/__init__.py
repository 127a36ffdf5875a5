"""Published experiments, run again on any model: one command, one folder of results, one summary."""

from errata.jobs.reproduce.reproduce_job import ReproduceOptions, Reproduction, check_reproduce, reproduce

__all__ = ["ReproduceOptions", "Reproduction", "check_reproduce", "reproduce"]
