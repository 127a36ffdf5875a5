"""A benchmark as tables, figures and a summary, beside what papers publish."""
