# shellcheck shell=bash
# What the scripts in dev/ share: where things lie, which addresses are used, which process is ours. Sourced, never run.
# Sets: root, here, state, data, tools, as[], and the addresses of every part and role.

[ -z "${mercato_places_known:-}" ] || return 0
mercato_places_known=yes
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
here=$root/dev
# another set of parts beside this one: a folder of its own, and other ports
if [ -n "${MERCATO_STATE:-}" ]; then mkdir -p "$MERCATO_STATE"; fi
state=${MERCATO_STATE:-$root/.mercato}
export LC_ALL=C.UTF-8
# shellcheck source=dev/versions.env
. "$here/versions.env"

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$@"
  exit 1
}

# --- places ---------------------------------------------------------------------------------------------------------
# PostgreSQL refuses root. Started by root, the parts run as PARTS_USER, which must be able to enter their folders.
: "${PARTS_USER:=nobody}"
as=()
if [ "$(id -u)" = 0 ]; then
  as=(setpriv "--reuid=$PARTS_USER" "--regid=$(id -g "$PARTS_USER")" --clear-groups --no-new-privs)
fi
data=$state/data
if [ ${#as[@]} -gt 0 ]; then
  tools=${MERCATO_TOOLS:-/var/cache/mercato/tools}
  if ! "${as[@]}" test -x "${MERCATO_STATE:-$root}"; then
    data=/var/tmp/mercato-$(printf %s "${MERCATO_STATE:-$root}" | sha256sum | cut -c1-12)
  fi
else
  tools=${MERCATO_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/mercato/tools}
fi

make_places() { # creates what is missing; the folders of the parts themselves are made private by own()
  if ! mkdir -p "$state/run" "$state/logs" "$state/work" "$tools" 2>/dev/null || ! [ -w "$state/run" ]; then
    die "cannot write below $state or $tools: were they made by another user? (make reset as that user, or set MERCATO_TOOLS)"
  fi
  mkdir -p "$data"
  [ "$(stat -c %u "$data")" = "$(id -u)" ] || die "$data belongs to another user: remove it"
  if [ ${#as[@]} -gt 0 ]; then
    if ! "${as[@]}" test -x "$data" || ! "${as[@]}" test -x "$tools"; then
      die "user $PARTS_USER cannot enter $data or $tools: set MERCATO_TOOLS to a folder it can enter, or PARTS_USER"
    fi
    if [ "$data" != "$state/data" ]; then
      [ -L "$state/data" ] || say "the parts run as $PARTS_USER, who cannot enter $root: their data are in $data"
      ln -sfn "$data" "$state/data"
    fi
  fi
}

# --- names and addresses --------------------------------------------------------------------------------------------
# shellcheck disable=SC2034 # used by the scripts that source this file
parts=(postgres redis kafka envoy provider)
roles=(catalog inventory ordering payment customer gateway)
# roles with a database
# shellcheck disable=SC2034
stores=(catalog inventory ordering payment customer)

declare -A default_port=([postgres]=25432 [redis]=26379 [kafka]=29092 [envoy]=8080 [provider]=8090 [mercato]=50051
  [catalog]=50061 [inventory]=50062 [ordering]=50063 [payment]=50064 [customer]=50065 [gateway]=50066
  [prometheus]=9090 [jaeger]=16686)
declare -A port_variable=([postgres]=MERCATO_PG_PORT [redis]=MERCATO_REDIS_PORT [kafka]=MERCATO_KAFKA_PORT
  [envoy]=MERCATO_EDGE_PORT [provider]=MERCATO_PROVIDER_PORT [mercato]=MERCATO_GRPC_PORT
  [prometheus]=MERCATO_PROMETHEUS_PORT [jaeger]=MERCATO_JAEGER_PORT)

known() { [ -n "${default_port[${1:-none}]:-}" ]; }
is_role() { [[ " ${roles[*]} " == *" $1 "* ]]; }
port() { # NAME: the port it listens on; one that runs keeps the port it was started with
  local variable=${port_variable[$1]:-} recorded=$state/run/$1.port
  if [ -f "$recorded" ] && alive "$1"; then
    cat "$recorded"
  elif [ -n "$variable" ] && [ -n "${!variable:-}" ]; then
    echo "${!variable}"
  elif [ -f "$recorded" ]; then # it was killed or stopped, and comes back where its clients look for it
    cat "$recorded"
  else
    echo "${default_port[$1]}"
  fi
}
admin_port() { # mercato or a role: health, readiness and metrics
  local i
  [ "$1" != mercato ] || { echo "${MERCATO_ADMIN_PORT:-9464}" && return; }
  for i in "${!roles[@]}"; do
    [ "${roles[$i]}" != "$1" ] || echo $((${MERCATO_ADMIN_PORTS:-9471} + i))
  done
}
# shellcheck disable=SC2034 # used by the scripts that source this file
edge_admin_port=${MERCATO_EDGE_ADMIN_PORT:-9901}

# DATABASE_URL, REDIS_URL and KAFKA_BROKERS set by the user name parts that run elsewhere. The same variables with our
# own parts' addresses, as .mercato/dev.env has them, change nothing.
given_database=${DATABASE_URL:-}
given_redis=${REDIS_URL:-}
given_kafka=${KAFKA_BROKERS:-}
pg_password() { cat "$data/postgres.password" 2>/dev/null; }
own_url() { # PART
  case $1 in
  postgres) echo "postgres://mercato:$(pg_password)@127.0.0.1:$(port postgres)/postgres" ;;
  redis) echo "redis://127.0.0.1:$(port redis)" ;;
  kafka) echo "127.0.0.1:$(port kafka)" ;;
  esac
}
given_url() { # PART
  case $1 in
  postgres) echo "$given_database" ;;
  redis) echo "$given_redis" ;;
  kafka) echo "$given_kafka" ;;
  esac
}
url() { # PART: the user's, or ours
  local given
  given=$(given_url "$1")
  echo "${given:-$(own_url "$1")}"
}
external() { # PART: the user's own is used: it is neither fetched nor started nor stopped
  local given
  given=$(given_url "$1")
  [ -n "$given" ] && [ "$given" != "$(own_url "$1")" ]
}
database_url() { # NAME: the URL of another database on the same server
  local base query=""
  base=$(url postgres)
  [[ $base != *\?* ]] || query="?${base#*\?}"
  base=${base%%\?*}
  echo "${base%/*}/$1$query"
}
apart() { [ "${MERCATO_ROLES:-$(cat "$state/run/roles" 2>/dev/null)}" = apart ]; } # each role is a process of its own

postgres_with_tls() { # the folder of a PostgreSQL that can speak TLS, which the fetched wheel cannot: the distribution's newest
  local found
  found=$(find /usr/lib/postgresql/*/bin "$tools"/postgres-with-tls/usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -1)
  [ -n "$found" ] && [ -x "$found/postgres" ] && echo "$found"
}

# --- processes ------------------------------------------------------------------------------------------------------
workplace() { # NAME: the folder it runs in, by which its process is recognised
  case $1 in
  postgres | redis | kafka | envoy) echo "$data/$1" ;;
  *) echo "$state/work/$1" ;;
  esac
}
ours() { # PID NAME: the process works in NAME's folder; a pid given out again since does not
  local cwd state_letter
  cwd=$(readlink "/proc/$1/cwd" 2>/dev/null) || return 1
  [[ $cwd/ == "$(workplace "$2")/"* ]] || return 1
  state_letter=$(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) && [ "$state_letter" != Z ]
}
pid_of() { cat "$state/run/$1.pid" 2>/dev/null; }
alive() {
  local pid
  pid=$(pid_of "$1") && [ -n "$pid" ] && ours "$pid" "$1"
}
busy() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
http_status() { # PORT PATH [METHOD]: prints the status code of one request, fails when nobody answers
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1" &&
      printf '%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n' "${3:-GET}" "$2" >&3 &&
      timeout 3 head -n 1 <&3 | sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p' | grep .
  ) 2>/dev/null
}
now_ms() { date +%s%3N; }
system_faketime() { find /usr/lib -path '*/faketime/libfaketimeMT.so.1' -print -quit 2>/dev/null; }
faketime() { # the library that moves the clocks of processes, once it is fetched
  local system
  system=${MERCATO_FAKETIME:-$(system_faketime)}
  echo "${system:-$tools/faketime/libfaketimeMT.so.1}"
}
prometheus_program() { # prometheus or promtool: the one named by PROMETHEUS or PROMTOOL, the system's, or the fetched one
  local named=${1^^}
  echo "${!named:-$(command -v "$1" || echo "$tools/prometheus/$1")}"
}
random_hex() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }
at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; } # VERSION MINIMUM
