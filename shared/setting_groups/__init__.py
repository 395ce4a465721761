"""All settings, by subject. Their docstrings become the table of ``docs/configuration.md``: ``make docs``."""
