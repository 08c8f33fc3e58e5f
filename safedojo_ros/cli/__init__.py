"""The `safedojo` command: one module for each subcommand."""
