-- Release 0.1 creates; nothing is dropped.
-- A product keeps its row when it leaves the shop: orders name it, and its version goes on for the event of the deletion.
create table product (
    id          uuid        not null,
    name        text        not null,
    -- What lists by name sort by. Cut, because a page token has to hold it.
    sort_name   text collate "C" not null generated always as (left(lower(name), 64)) stored,
    description text        not null,
    price_minor bigint      not null,
    currency    char(3)     not null,
    category    text        not null,
    tags        text[]      not null default '{}',
    -- A list of {"name": ..., "value": ...}, in the order given.
    attributes  jsonb       not null default '[]',
    images      text[]      not null default '{}',
    sellable    boolean     not null,
    -- The etag, and the sequence of the product's latest event.
    version     bigint      not null,
    deleted_at  timestamptz,
    created_at  timestamptz not null,
    updated_at  timestamptz not null,
    constraint product_pk primary key (id),
    constraint product_name_length check (char_length(name) between 1 and 200),
    constraint product_price_positive check (price_minor >= 0),
    constraint product_currency_shape check (currency ~ '^[A-Z]{3}$'),
    constraint product_category_shape check (category ~ '^[a-z0-9][a-z0-9-]{0,63}$'),
    constraint product_attributes_list check (jsonb_typeof(attributes) = 'array'),
    constraint product_version_positive check (version >= 1)
);

-- One pair of indexes for each order of a list, over the whole shop and within a category; the id breaks ties.
create index product_by_creation on product (created_at, id) where deleted_at is null;
create index product_by_price on product (price_minor, id) where deleted_at is null;
create index product_by_name on product (sort_name, id) where deleted_at is null;
create index product_by_category_creation on product (category, created_at, id) where deleted_at is null;
create index product_by_category_price on product (category, price_minor, id) where deleted_at is null;
create index product_by_category_name on product (category, sort_name, id) where deleted_at is null;

-- What inventory last said of a product. Apart from the product, because it changes with every order while the product does not, and
-- because word of the stock may come before word of the product.
create table product_stock (
    product_id uuid   not null,
    available  bigint not null,
    -- Inventory's own version; an event with a lower one is older.
    version    bigint not null,
    constraint product_stock_pk primary key (product_id)
) with (fillfactor = 70);
