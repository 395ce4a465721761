"""The local stack: PostgreSQL and a Redis-compatible server from wheels, and a supervisor of processes."""
