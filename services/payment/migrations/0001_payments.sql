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

-- Double entry: a row debits one account and credits another with the same amount, so that the books balance by their form. One attempt
-- posts at most once: its id is the transaction. The statement that posts joins the attempts, which is what a foreign key would look up a
-- second time; neither payments nor attempts are ever deleted. Rows are found by their attempt, attempts by their payment.
create table posting (
    tx_id        uuid        not null,
    nth          smallint    not null,
    payment_id   uuid        not null,
    debit        text        not null check (debit in ('provider.hold', 'customer.hold', 'provider.balance', 'sales')),
    credit       text        not null check (credit in ('provider.hold', 'customer.hold', 'provider.balance', 'sales')),
    amount_minor bigint      not null check (amount_minor > 0),
    currency     text        not null,
    provider_ref text        not null,
    at           timestamptz not null default clock_timestamp(),
    primary key (tx_id, nth),
    constraint posting_two_sides check (debit <> credit)
);

create function posting_append_only() returns trigger language plpgsql as $$
begin
    raise exception 'the ledger is append-only' using errcode = 'insufficient_privilege';
end $$;
create trigger posting_append_only before update or delete on posting for each row execute function posting_append_only();
create trigger posting_no_truncate before truncate on posting for each statement execute function posting_append_only();

-- The lines of the ledger, two for each posting, for people and for what compares books.
create view ledger as
    select tx_id, nth * 2 - 1 as line, payment_id, debit as account, 'D' as side, amount_minor, currency, provider_ref, at from posting
    union all
    select tx_id, nth * 2, payment_id, credit, 'C', amount_minor, currency, provider_ref, at from posting;

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

-- Differences between our ledger and the provider's that a person has looked into. One with the same amounts is not told again.
create table settled_difference (
    provider_key text        not null,
    step         text        not null check (step in ('authorize', 'capture', 'void', 'refund')),
    ours         bigint      not null check (ours >= 0),
    theirs       bigint      not null check (theirs >= 0),
    note         text        not null check (note <> ''),
    settled_at   timestamptz not null default clock_timestamp(),
    primary key (provider_key, step)
);
