-- Payments of orders, what was asked of the provider, and the double-entry ledger.

create table payment (
    id             uuid        primary key,
    order_id       uuid        not null constraint payment_order unique,
    customer_id    uuid        not null,
    status         text        not null check (status in ('PENDING', 'AUTHORIZED', 'CAPTURED', 'FAILED', 'UNKNOWN', 'VOIDED', 'REFUNDED', 'NEEDS_OPERATOR')),
    amount_minor   bigint      not null check (amount_minor >= 0),
    currency       text        not null check (currency ~ '^[A-Z]{3}$'),
    captured_minor bigint      not null default 0,
    refunded_minor bigint      not null default 0,
    method         text        not null,
    -- The provider's token; emptied once the authorisation is decided.
    token          text        not null,
    failure_reason text        not null default '',
    -- The order was cancelled: whatever is held or taken has to go back.
    cancelled      boolean     not null default false,
    -- payment.unknown is told once.
    unknown_told   boolean     not null default false,
    -- Number of the latest event.
    version        bigint      not null,
    created_at     timestamptz not null default clock_timestamp(),
    updated_at     timestamptz not null default clock_timestamp(),
    constraint payment_captured check (captured_minor between 0 and amount_minor),
    constraint payment_refunded check (refunded_minor between 0 and captured_minor)
) with (fillfactor = 70);

-- What is asked of the provider. INTENT stands before the first call; the key is derived from payment, step and epoch, so that every
-- repetition is the same request, and unique because they are. An attempt is written in one transaction with its payment's row, under
-- that row's lock, and neither is ever deleted: no foreign key has to look that up again.
create table attempt (
    id           uuid        primary key,
    payment_id   uuid        not null,
    step         text        not null check (step in ('authorize', 'capture', 'void', 'refund')),
    epoch        integer     not null check (epoch > 0),
    provider_key text        not null,
    amount_minor bigint      not null check (amount_minor >= 0),
    state        text        not null check (state in ('INTENT', 'UNKNOWN', 'DONE', 'DECLINED', 'SOFT_DECLINED', 'ABANDONED', 'STUCK')),
    tries        integer     not null default 0,
    looks        integer     not null default 0,
    detail       text        not null default '',
    -- The last call that may have reached the provider.
    sent_at      timestamptz,
    -- When something is meant to happen next; an open attempt far behind it has lost its work item.
    due_at       timestamptz not null,
    at           timestamptz not null default clock_timestamp(),
    constraint attempt_step unique (payment_id, step, epoch)
) with (fillfactor = 70);
create index attempt_open on attempt (due_at) where state in ('INTENT', 'UNKNOWN');
-- Nearly always empty, so that a webhook about a payment without doubt costs one look into nothing.
create index attempt_in_doubt on attempt (payment_id) where state in ('UNKNOWN', 'STUCK');

-- Double entry. One attempt posts at most once: its id is the transaction. Lines come in statements that hold whole transactions, and
-- each statement is checked as a whole by ledger_posted. That check stands for foreign keys as well, which would look each line up twice
-- and lock what it finds; neither payments nor attempts are ever deleted. Lines are found by their attempt, attempts by their payment.
create table ledger (
    tx_id        uuid        not null,
    line         smallint    not null,
    payment_id   uuid        not null,
    account      text        not null check (account in ('provider.hold', 'customer.hold', 'provider.balance', 'sales')),
    side         text        not null check (side in ('D', 'C')),
    amount_minor bigint      not null check (amount_minor > 0),
    currency     text        not null,
    provider_ref text        not null,
    at           timestamptz not null default clock_timestamp(),
    primary key (tx_id, line)
);

-- Every statement's lines balance for each transaction, so the table always does; and each transaction is an attempt of its payment.
-- The look-up must not scan the table, however few rows the planner believes it has.
create function ledger_posted() returns trigger language plpgsql set enable_seqscan = off set enable_hashjoin = off set enable_mergejoin = off
as $$
begin
    if exists (
        select from posted group by tx_id, currency having sum(case side when 'D' then amount_minor else -amount_minor end) <> 0
    ) then
        raise exception 'a ledger transaction does not balance' using errcode = 'check_violation', constraint = 'ledger_balanced';
    end if;
    if exists (
        select from (select distinct tx_id, payment_id from posted) p
        where not exists (select from attempt a where a.id = p.tx_id and a.payment_id = p.payment_id)
    ) then
        raise exception 'a ledger transaction is no attempt of its payment'
            using errcode = 'foreign_key_violation', constraint = 'ledger_attempt';
    end if;
    return null;
end $$;
create trigger ledger_posted after insert on ledger referencing new table as posted for each statement execute function ledger_posted();

create function ledger_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger is append-only' using errcode = 'insufficient_privilege';
end $$;
create trigger ledger_append_only before update or delete on ledger for each row execute function ledger_append_only();
create trigger ledger_no_truncate before truncate on ledger for each statement execute function ledger_append_only();

-- Webhooks taken; each has its effect once.
create table webhook_event (
    event_id    text        primary key,
    provider    text        not null,
    kind        text        not null,
    reference   text        not null,
    received_at timestamptz not null default clock_timestamp()
);

-- A person has to look. At most one open case for an order's step.
create table operator_case (
    id        uuid        primary key,
    order_id  uuid        not null,
    step      text        not null,
    reason    text        not null,
    opened_at timestamptz not null default clock_timestamp(),
    closed_at timestamptz
);
create unique index operator_case_open on operator_case (order_id, step) where closed_at is null;
