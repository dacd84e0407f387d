-- The order, event-sourced: order_event is the truth, orders is the fold of it at `version`, kept in the same transaction.

create table orders (
  id              uuid        not null,
  customer_id     uuid        not null,
  status          smallint    not null,
  payment_status  smallint    not null,
  -- false once nothing is left to do: no money in the air, no stock to give back
  open            boolean     not null,
  stock_held      boolean     not null,
  payment_id      text        not null default '',
  version         bigint      not null,
  -- mercato.ordering.v1.Order, so that a read neither joins nor folds
  snapshot        bytea       not null,
  created_at      timestamptz not null,
  updated_at      timestamptz not null,
  -- the saga's timer: when to look whether a step or an answer got lost, on the database's clock
  check_at        timestamptz not null default now() + interval '20 seconds',
  checks          integer     not null default 0,
  last_error      text        not null default '',
  constraint orders_pkey primary key (id),
  constraint orders_version_positive check (version > 0)
) with (fillfactor = 70);

create index orders_by_customer on orders (customer_id, created_at desc, id desc);
create index orders_by_time on orders (created_at desc, id desc);
create index orders_due on orders (check_at) where open;

create table order_event (
  order_id  uuid        not null,
  version   bigint      not null,
  kind      text        not null,
  payload   bytea       not null,
  at        timestamptz not null,
  constraint order_event_pkey primary key (order_id, version)
);

-- Events are facts: nobody changes one, not even by mistake.
create function order_event_is_immutable() returns trigger language plpgsql as $$
begin
  raise exception 'order_event is append-only' using errcode = 'restrict_violation';
end $$;

create trigger order_event_immutable before update or delete on order_event
  for each row execute function order_event_is_immutable();
