"""Orders: routes, bodies, commands, queries, and the rule."""
