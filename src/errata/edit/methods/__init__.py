"""The editing methods: one file, one frozen configuration each. `errata.edit.registry` has them by name."""
