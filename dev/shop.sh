# shellcheck shell=bash
# The environment of the shop's processes, and .mercato/dev.env for people and tests. Sourced.

# shellcheck source=dev/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

: "${STAFF_EMAIL:=staff@example.com}" "${CUSTOMER_EMAIL:=customer@example.com}"

secret() { # NAME BYTES: the path of a random secret, made once, readable by its owner alone
  local file=$state/secrets/$1
  (
    umask 077
    mkdir -p "$state/secrets"
    exec 9>"$state/secrets/.lock"
    flock 9
    [ -s "$file" ] || random_hex "$2" >"$file"
  )
  echo "$file"
}

shop_environment() { # mercato, or the role that is started: its own doors; everything else is the same for all
  local role
  DATABASE_URL=$(url postgres)
  REDIS_URL=$(url redis)
  KAFKA_BROKERS=$(url kafka)
  MERCATO_GRPC_ADDR=127.0.0.1:$(port "$1")
  MERCATO_ADMIN_ADDR=127.0.0.1:$(admin_port "$1")
  MERCATO_GATEWAY_HTTP_ADDR=127.0.0.1:${MERCATO_GATEWAY_HTTP_PORT:-8081}
  MERCATO_EDGE_ADDR=127.0.0.1:$(port envoy)
  MERCATO_EDGE_ADMIN_ADDR=127.0.0.1:$edge_admin_port
  MERCATO_PROVIDER_URL=http://127.0.0.1:$(port provider)
  MERCATO_PROVIDER_WEBHOOK_URL=http://$MERCATO_EDGE_ADDR/api/payments/webhooks/dev
  MERCATO_PEER_SECRET_FILE=$(secret peer 32)
  MERCATO_KEY_SECRET_FILE=$(secret key 32)
  MERCATO_PROVIDER_WEBHOOK_SECRET_FILE=$(secret webhook 32)
  STAFF_PASSWORD=${STAFF_PASSWORD:-$(cat "$(secret staff-password 12)")}
  CUSTOMER_PASSWORD=${CUSTOMER_PASSWORD:-$(cat "$(secret customer-password 12)")}
  export DATABASE_URL REDIS_URL KAFKA_BROKERS MERCATO_GRPC_ADDR MERCATO_ADMIN_ADDR MERCATO_GATEWAY_HTTP_ADDR \
    MERCATO_EDGE_ADDR MERCATO_EDGE_ADMIN_ADDR MERCATO_PROVIDER_URL MERCATO_PROVIDER_WEBHOOK_URL MERCATO_PEER_SECRET_FILE \
    MERCATO_KEY_SECRET_FILE MERCATO_PROVIDER_WEBHOOK_SECRET_FILE STAFF_EMAIL STAFF_PASSWORD CUSTOMER_EMAIL CUSTOMER_PASSWORD
  if is_role "$1" || apart; then
    export MERCATO_EDGE_SPLIT=1
    for role in "${roles[@]}"; do export "MERCATO_PEER_${role^^}=http://127.0.0.1:$(port "$role")"; done
  else
    unset MERCATO_EDGE_SPLIT
    for role in "${roles[@]}"; do unset "MERCATO_PEER_${role^^}"; done
  fi
}

write_dev_env() { # .mercato/dev.env: KEY=value, for people (set -a; . .mercato/dev.env) and tests
  (
    shop_environment mercato
    umask 077
    {
      echo "MERCATO_URL=http://$MERCATO_EDGE_ADDR"
      if apart; then # no process has every door: each role's is named
        echo "MERCATO_GRPC=$MERCATO_EDGE_ADDR"
        echo "MERCATO_ADMIN=http://127.0.0.1:$(admin_port gateway)"
        for role in "${roles[@]}"; do
          echo "MERCATO_GRPC_${role^^}=127.0.0.1:$(port "$role")"
          echo "MERCATO_ADMIN_${role^^}=http://127.0.0.1:$(admin_port "$role")"
        done
      else
        echo "MERCATO_GRPC=$MERCATO_GRPC_ADDR"
        echo "MERCATO_ADMIN=http://$MERCATO_ADMIN_ADDR"
      fi
      echo "MERCATO_PROVIDER=$MERCATO_PROVIDER_URL"
      echo "MERCATO_ADMIN_EDGE=http://$MERCATO_EDGE_ADMIN_ADDR"
      echo "MERCATO_PROGRAM=$MERCATO_BIN"
      for name in DATABASE_URL REDIS_URL KAFKA_BROKERS STAFF_EMAIL STAFF_PASSWORD CUSTOMER_EMAIL CUSTOMER_PASSWORD; do
        echo "$name=${!name}"
      done
    } >"$state/dev.env.new"
    mv "$state/dev.env.new" "$state/dev.env"
  )
}
