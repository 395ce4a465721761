#!/bin/sh
# Make a database that was restored to an earlier state ready for use, and prove that it is whole. restore.sh calls it.
#
#   OMS_DATABASE_URL=postgresql://… docs/operations/after_restore.sh
set -eu
cd "$(dirname "$0")/../.."
: "${OMS_DATABASE_URL:?the database that was restored}"
# The settings require an address of Redis; nothing here uses it.
export OMS_REDIS_URL="${OMS_REDIS_URL:-redis://127.0.0.1:1/0}"
python=${PYTHON:-.venv/bin/python}

# The backup may be of an earlier release.
"$python" -m shared.database.migrate
# Ids that were given out after the backup are lost, and callers may still have them: the next ones are far above.
psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --output=/dev/null --dbname="$OMS_DATABASE_URL" <<'END'
SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, coalesce(last_value, start_value) + 1000000)
FROM pg_sequences WHERE schemaname = 'public' AND data_type = 'bigint'::regtype;
ANALYZE;
END
"$python" -m oms verify
