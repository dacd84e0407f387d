#!/bin/sh
# What a backup's CronJob does with PostgreSQL's own programs, between the shop's own words about the event log (docs/operations.md, "Backup
# and restore"): backup.sh begin | databases | keep. BACKUPS: the folder of all; URL_FILE: a user's URL that may replicate; KEEP: how many
# stay. One that is not whole is called `new` and never anything else.
set -eu
umask 077
cd "$BACKUPS"
case $1 in
begin)
  rm -rf new
  mkdir new
  date -u +began=%FT%TZ >new/made
  ;;
databases)
  pg_basebackup -d "$(cat "$URL_FILE")" -D new/base --checkpoint=fast --wal-method=stream --manifest-checksums=SHA256
  date -u +databases=%FT%TZ >>new/made
  pg_verifybackup -q new/base
  echo "postgres=$(cat new/base/PG_VERSION)" >>new/made
  ;;
keep)
  [ -s new/events.jsonl ] && [ -s new/base/backup_manifest ]
  sync
  name=$(sed -n 's/^began=//p' new/made | tr -d ':-')
  mv new "$name"
  echo "backup of $name: $(du -sh "$name" | cut -f1)"
  # the oldest ones go; their names are their times
  find . -maxdepth 1 -name '[0-9]*T*Z' | sort -r | tail -n "+$((KEEP + 1))" | while read -r old; do rm -rf "$old"; done
  ;;
*) exit 64 ;;
esac
