"""What operators and integrators look at: health, metrics, documentation."""
