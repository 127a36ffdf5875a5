"""One module a command: its options and what it does. Heavy imports are made when it runs."""
