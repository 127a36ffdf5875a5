"""The benchmark: methods × numbers of edits on one model, every cell kept, tables and figures from what is kept."""
