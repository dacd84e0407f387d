#!/bin/sh
# Run once by the image of PostgreSQL, on an empty volume: for each role a database, an owner that may change its tables (migrations) and
# a user that may only read and write rows (the role itself). Passwords come from files ROLE-owner and ROLE-user.
set -eu
: "${PASSWORDS:=/run/secrets/passwords}"
for file in "$PASSWORDS"/*-owner; do
  role=$(basename "$file" -owner)
  psql -v ON_ERROR_STOP=1 -v name="mercato_$role" -v owner="mercato_${role}_owner" \
    -v owner_password="$(cat "$file")" -v user_password="$(cat "$PASSWORDS/$role-user")" --username "$POSTGRES_USER" --dbname postgres <<'SQL'
select format('create role %I login password %L', :'owner', :'owner_password') \gexec
select format('create role %I login password %L', :'name', :'user_password') \gexec
create database :"name" owner :"owner";
revoke all on database :"name" from public;
grant connect on database :"name" to :"name";
\connect :"name"
revoke all on schema public from public;
grant usage on schema public to :"name";
alter default privileges for role :"owner" in schema public grant select, insert, update, delete on tables to :"name";
alter default privileges for role :"owner" in schema public grant usage, select on sequences to :"name";
SQL
done
