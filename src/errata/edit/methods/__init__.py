"""The editing methods: one file, one frozen configuration each. `errata.edit.settings` is their registry."""
