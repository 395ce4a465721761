"""The local stack: a real PostgreSQL and a real Redis-compatible server from wheels, and the supervisor."""
