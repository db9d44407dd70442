"""The subcommands of ``mergegate``, one module each: its arguments and what it does."""
