"""The commands' options, one module a theme. What they do is imported when they run."""
