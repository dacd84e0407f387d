-- The chassis' own tables, the same in every role's database. Services reach them through the chassis only.

-- Events written in the transaction of their cause, deleted once the broker has acknowledged them.
-- `shard` divides the relaying among processes; the order of `id` within one aggregate is the order of its commits,
-- because every writer holds the aggregate's row lock while it appends. What numbers the events of an aggregate is unique in the table of
-- the aggregate; here, where rows live for milliseconds, an index over it would cost more than it could ever find.
create table outbox (
    id          bigint generated always as identity primary key,
    shard       smallint    not null check (shard between 0 and 15),
    event_id    uuid        not null,
    topic       text        not null,
    kind        text        not null,
    aggregate   uuid        not null,
    sequence    bigint      not null check (sequence > 0),
    created_at  timestamptz not null default clock_timestamp(),
    traceparent text,
    headers     jsonb,
    payload     bytea       not null,
    attempts    smallint    not null default 0
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0, fillfactor = 90);

-- Who may send the events of a shard. The epoch counts owners: a late owner can repeat an event, never delete another's.
create table relay_lease (
    shard      smallint    primary key check (shard between 0 and 15),
    owner      uuid,
    epoch      bigint      not null default 0,
    expires_at timestamptz not null default '-infinity'
);
insert into relay_lease (shard) select generate_series(0, 15);

-- Events the broker refuses for good (too large): kept for a person to look at.
create table outbox_dead (
    id          bigint      primary key,
    event_id    uuid        not null,
    topic       text        not null,
    kind        text        not null,
    aggregate   uuid        not null,
    sequence    bigint      not null,
    created_at  timestamptz not null,
    traceparent text,
    headers     jsonb,
    payload     bytea       not null,
    error       text        not null,
    died_at     timestamptz not null default clock_timestamp()
);

-- The last event of each aggregate a consumer has applied, written in the transaction of its effect. It tells what was taken: a repetition
-- has a number that is not above it. Never cleaned: it is what makes a full re-read harmless.
create table inbox_sequence (
    consumer  text   not null,
    topic     text   not null,
    aggregate uuid   not null,
    last_seq  bigint not null,
    primary key (consumer, topic, aggregate)
) with (fillfactor = 80);

-- Events that could not be applied, and all later events of their aggregate, in order. DEAD ones wait for a person.
create table parked (
    consumer     text        not null,
    topic        text        not null,
    aggregate    uuid        not null,
    sequence     bigint      not null,
    event_id     uuid        not null,
    kind         text        not null,
    at           timestamptz not null,
    traceparent  text,
    payload      bytea       not null,
    source_partition integer not null,
    source_offset    bigint  not null,
    state        text        not null default 'WAITING' check (state in ('WAITING', 'DEAD')),
    error        text        not null,
    attempts     integer     not null default 0,
    next_at      timestamptz not null,
    parked_at    timestamptz not null default clock_timestamp(),
    primary key (consumer, topic, aggregate, sequence, event_id)
);

-- One open case for each event that was given up or could not be read at all.
create table dead_letter (
    id           uuid        primary key,
    consumer     text        not null,
    topic        text        not null,
    source_partition integer not null,
    source_offset    bigint  not null,
    event_id     uuid,
    aggregate    uuid,
    sequence     bigint,
    kind         text,
    error        text        not null,
    attempts     integer     not null,
    died_at      timestamptz not null default clock_timestamp(),
    closed_at    timestamptz,
    unique (consumer, topic, source_partition, source_offset)
);

-- Answers and definite refusals by idempotency key. A row without an outcome exists only inside its own transaction.
create table idempotency (
    subject     text        not null,
    method      text        not null,
    key         text        not null,
    fingerprint bytea       not null,
    code        integer,
    response    bytea,
    message     text,
    http_code   text,
    created_at  timestamptz not null default clock_timestamp(),
    expires_at  timestamptz not null default clock_timestamp() + interval '7 days',
    primary key (subject, method, key)
);
create index idempotency_expires_at on idempotency using brin (expires_at);

-- Durable steps and timers. Free items are due at `due_at`; a running one is due again when its lease ends.
-- `requested` counts the calls for it, so that one which arrives during a run leads to another run.
create table work (
    kind        text        not null,
    subject     uuid        not null,
    due_at      timestamptz not null,
    lease_until timestamptz,
    attempt     integer     not null default 0,
    epoch       bigint      not null default 0,
    requested   bigint      not null default 1,
    first_at    timestamptz not null default clock_timestamp(),
    last_error  text,
    traceparent text,
    primary key (kind, subject)
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0);
create index work_due on work (kind, coalesce(lease_until, due_at));
