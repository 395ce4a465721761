"""API keys in the database: made, rotated and revoked while the service runs."""
