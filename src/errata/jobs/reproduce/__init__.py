"""Published experiments, run again on any model: one command, one folder of results, one summary."""

from errata.jobs.reproduce.job import ReproduceOptions, check_reproduce, reproduce

__all__ = ["ReproduceOptions", "check_reproduce", "reproduce"]
