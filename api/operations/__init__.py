"""For operators and integrators: health, metrics, documentation."""
