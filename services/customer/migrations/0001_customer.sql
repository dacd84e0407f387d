-- Accounts, credentials, sessions, signing keys and the counters that slow down guessing. First schema; nothing may be dropped yet.

create table customer (
    id uuid not null,
    username text not null,
    email text not null,
    -- {street, city, state, zip_code, country_code}; null: none given.
    address jsonb,
    phone text not null default '',
    notify_email boolean not null default true,
    notify_sms boolean not null default false,
    roles text[] not null default '{}',
    -- 1, 2, 3, ...: the etag of the profile and the sequence of its events.
    version bigint not null default 1,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    constraint customer_pkey primary key (id),
    constraint customer_version_positive check (version >= 1),
    constraint customer_roles_known check (roles <@ array['staff', 'support', 'admin'])
);
create unique index customer_username_key on customer (lower(username));
create unique index customer_email_key on customer (lower(email));

create table credential (
    customer_id uuid not null,
    -- Argon2id, a PHC string with its own parameters and salt.
    password_hash text not null,
    updated_at timestamptz not null default now(),
    constraint credential_pkey primary key (customer_id),
    constraint credential_customer_fkey foreign key (customer_id) references customer (id) on delete cascade
);

-- One sign-in, and the family of every refresh token that descends from it.
create table session (
    id uuid not null,
    customer_id uuid not null,
    created_at timestamptz not null default now(),
    ended_at timestamptz,
    end_reason text,
    constraint session_pkey primary key (id),
    constraint session_customer_fkey foreign key (customer_id) references customer (id) on delete cascade,
    constraint session_end_whole check ((ended_at is null) = (end_reason is null)),
    constraint session_end_reason_known check (end_reason in ('logout', 'reuse', 'roles_changed'))
);
create index session_customer on session (customer_id) where ended_at is null;

create table refresh_token (
    -- SHA-256 of the token; the token itself is nowhere.
    hash bytea not null,
    session_id uuid not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    used_at timestamptz,
    -- The token this one was last exchanged for.
    successor bytea,
    -- The one repetition after a lost answer was spent, or the token was replaced by that repetition.
    spent boolean not null default false,
    constraint refresh_token_pkey primary key (hash),
    constraint refresh_token_session_fkey foreign key (session_id) references session (id) on delete cascade,
    constraint refresh_token_hash_size check (octet_length(hash) = 32)
);
create index refresh_token_session on refresh_token (session_id);
create index refresh_token_expiry on refresh_token (expires_at);

create table signing_key (
    -- JWK thumbprint (RFC 7638).
    kid text not null,
    public_key bytea not null,
    -- Nonce and XChaCha20-Poly1305 ciphertext of the private key, sealed with MERCATO_KEY_SECRET.
    sealed_key bytea not null,
    created_at timestamptz not null default now(),
    -- Signs from then on ...
    active_from timestamptz not null,
    -- ... until then; null: until a successor takes over.
    retired_at timestamptz,
    constraint signing_key_pkey primary key (kid),
    constraint signing_key_public_size check (octet_length(public_key) = 32)
);
-- Two instances that rotate at once cannot both win.
create unique index signing_key_open on signing_key ((true)) where retired_at is null;

create table login_attempt (
    -- SHA-256 of "account:<name>" or "address:<address>": what people type into a name field is sometimes a password.
    key bytea not null,
    failures integer not null,
    last_at timestamptz not null,
    blocked_until timestamptz,
    constraint login_attempt_pkey primary key (key)
);
create index login_attempt_age on login_attempt (last_at);
