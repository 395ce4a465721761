#!/bin/sh
# Prepare a data folder that PostgreSQL, when it is started on it, recovers up to a moment.
#
#   docs/operations/restore_to_time.sh BASE ARCHIVE '2026-11-29 12:00:00+00' PGDATA
#
# BASE was made by pg_basebackup before that moment, ARCHIVE has the WAL since then, and PGDATA does not exist yet. Run it as
# the user that runs PostgreSQL.
set -eu
base=${1:?which base backup?} archive=${2:?where is the archived WAL?} moment=${3:?up to when?} data=${4:?which new data folder?}
if [ -e "$data" ]; then
  echo "restore_to_time: $data exists; choose a new folder" >&2
  exit 1
fi
pg_verifybackup --no-parse-wal --quiet "$base"
cp -R "$base" "$data"
chmod 700 "$data"
cat >> "$data/postgresql.auto.conf" <<END
restore_command = 'cp "$archive/%f" "%p"'
recovery_target_time = '$moment'
recovery_target_action = 'promote'
END
touch "$data/recovery.signal"
