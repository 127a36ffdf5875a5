"""A published experiment run again: its tables, figures and summary, beside what the paper reported."""
