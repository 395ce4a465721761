"""The pages of the console: each gathers what it shows from the public API, and renders a template."""
