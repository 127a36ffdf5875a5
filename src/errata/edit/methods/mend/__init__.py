"""MEND's editor: its networks, their training, and the file they are kept in."""
