"""The `codesign` command: one module a subcommand, each exporting `command`."""
