#!/bin/sh
# Restore a dump into an empty database, and prove that it is whole.
#
#   OMS_DATABASE_URL=postgresql://… docs/operations/restore.sh orders.dump
#
# Needs pg_restore and psql of PostgreSQL 18, and this service's Python (PYTHON, .venv/bin/python). Run it while neither the API, nor the
# relay, nor the worker runs on that database. Exit status 0 only if everything was restored and proved.
set -eu
here=$(dirname "$0")
dump=${1:?which dump? docs/operations/restore.sh orders.dump}
: "${OMS_DATABASE_URL:?the empty database to restore into}"

tables=$(psql --no-psqlrc --tuples-only --no-align --dbname="$OMS_DATABASE_URL" --command="SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
if [ "$tables" != 0 ]; then
  echo "restore: the database has $tables tables; restore into an empty one" >&2
  exit 1
fi
# All or nothing. Roles and privileges are those of the new server, not of the old one.
pg_restore --exit-on-error --single-transaction --no-owner --no-privileges --dbname="$OMS_DATABASE_URL" "$dump"
exec "$here/after_restore.sh"
