-- Forward only. Nothing here may be dropped before release 1.0.

-- One row for every product that ever had stock. Whoever changes a product's stock locks this row first, products in ascending order; it
-- also numbers the product's events.
CREATE TABLE product_version (
    product_id uuid   CONSTRAINT product_version_pkey PRIMARY KEY,
    version    bigint NOT NULL CONSTRAINT product_version_positive CHECK (version > 0)
) WITH (fillfactor = 50);

-- What lies in a warehouse (on_hand) and how much of it is promised to nobody (available).
CREATE TABLE stock (
    product_id   uuid        NOT NULL,
    warehouse_id text        NOT NULL,
    on_hand      bigint      NOT NULL,
    available    bigint      NOT NULL,
    updated_at   timestamptz NOT NULL,
    CONSTRAINT stock_pkey PRIMARY KEY (product_id, warehouse_id),
    CONSTRAINT stock_available_not_negative CHECK (available >= 0),
    CONSTRAINT stock_available_within_on_hand CHECK (available <= on_hand)
) WITH (fillfactor = 50);

-- A hold on stock for one order. version counts its states and numbers its events.
CREATE TABLE reservation (
    order_id   uuid        CONSTRAINT reservation_pkey PRIMARY KEY,
    status     text        NOT NULL CONSTRAINT reservation_status_known CHECK (status IN ('ACTIVE', 'COMMITTED', 'RELEASED', 'EXPIRED')),
    version    bigint      NOT NULL CONSTRAINT reservation_version_positive CHECK (version > 0),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
) WITH (fillfactor = 70);

CREATE INDEX reservation_due ON reservation (expires_at) WHERE status = 'ACTIVE';

-- From which shelves a hold was taken; kept after it ended.
CREATE TABLE reservation_line (
    order_id     uuid   NOT NULL,
    product_id   uuid   NOT NULL,
    warehouse_id text   NOT NULL,
    quantity     bigint NOT NULL CONSTRAINT reservation_line_quantity_positive CHECK (quantity > 0),
    CONSTRAINT reservation_line_pkey PRIMARY KEY (order_id, product_id, warehouse_id)
);

-- Every change of stock and why; the sum of its rows is the stock. cause is set, reserve, release, expire or ship.
CREATE TABLE stock_ledger (
    id              bigint      GENERATED ALWAYS AS IDENTITY CONSTRAINT stock_ledger_pkey PRIMARY KEY,
    product_id      uuid        NOT NULL,
    warehouse_id    text        NOT NULL,
    level_delta     bigint      NOT NULL,
    available_delta bigint      NOT NULL,
    cause           text        NOT NULL CONSTRAINT stock_ledger_cause_known CHECK (cause IN ('set', 'reserve', 'release', 'expire', 'ship')),
    order_id        uuid,
    at              timestamptz NOT NULL,
    CONSTRAINT stock_ledger_order_named CHECK ((cause = 'set') = (order_id IS NULL))
);

CREATE INDEX stock_ledger_by_product ON stock_ledger (product_id, id DESC);

-- The ledger is only ever written to its end.
CREATE FUNCTION stock_ledger_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the stock ledger is append-only' USING ERRCODE = 'restrict_violation', CONSTRAINT = 'stock_ledger_append_only';
END $$;

CREATE TRIGGER stock_ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON stock_ledger
    FOR EACH STATEMENT EXECUTE FUNCTION stock_ledger_refuse();

-- A hold ends once: ACTIVE may become anything, COMMITTED only RELEASED, and an ended hold stays as it is.
CREATE FUNCTION reservation_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a reservation cannot go from % to %', OLD.status, NEW.status
        USING ERRCODE = 'restrict_violation', CONSTRAINT = 'reservation_one_ending';
END $$;

CREATE TRIGGER reservation_one_ending BEFORE UPDATE ON reservation
    FOR EACH ROW WHEN (NOT (
        (OLD.status = 'ACTIVE' AND NEW.version > OLD.version)
        OR (OLD.status = 'COMMITTED' AND NEW.status = 'RELEASED' AND NEW.version > OLD.version)
    )) EXECUTE FUNCTION reservation_refuse();
