"""What both services import, and nothing else."""
