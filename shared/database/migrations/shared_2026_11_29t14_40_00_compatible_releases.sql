-- How the schema is today, and why: shared/database/schema.sql. The value is the last migration of 3.0.0.
CREATE FUNCTION oldest_compatible_migration() RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN '2026-11-29T13:20:00:000000';
