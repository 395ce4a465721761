"""PostgreSQL: the engine and its pool, transactions, rows, locks, tables and migrations."""
