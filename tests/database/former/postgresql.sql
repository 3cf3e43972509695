-- The tables of release 0.1.0 on PostgreSQL, which wrote down no version.

CREATE SEQUENCE order_ids AS BIGINT;

CREATE TABLE accounts (
    id BIGSERIAL NOT NULL,
    account_number TEXT NOT NULL,
    balance NUMERIC NOT NULL,
    version BIGINT NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (account_number)
);

CREATE TABLE symbols (
    symbol TEXT NOT NULL,
    description TEXT NOT NULL,
    base TEXT NOT NULL,
    quote TEXT NOT NULL,
    digits INTEGER NOT NULL,
    contract_size DOUBLE PRECISION NOT NULL,
    margin_rate DOUBLE PRECISION NOT NULL,
    min_volume DOUBLE PRECISION NOT NULL,
    max_volume DOUBLE PRECISION NOT NULL,
    volume_step DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (symbol)
);

CREATE TABLE executions (
    id BIGSERIAL NOT NULL,
    account_id BIGINT NOT NULL,
    order_id BIGINT NOT NULL,
    position_id BIGINT NOT NULL,
    symbol TEXT NOT NULL,
    side VARCHAR(4) NOT NULL CHECK (side IN ('BUY', 'SELL')),
    volume DOUBLE PRECISION NOT NULL,
    price DOUBLE PRECISION NOT NULL,
    timestamp BIGINT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(account_id) REFERENCES accounts (id),
    UNIQUE (order_id)
);

CREATE INDEX ix_executions_of_account ON executions (account_id, id);

CREATE TABLE positions (
    id BIGSERIAL NOT NULL,
    account_id BIGINT NOT NULL,
    symbol TEXT NOT NULL,
    side VARCHAR(4) NOT NULL CHECK (side IN ('BUY', 'SELL')),
    volume DOUBLE PRECISION NOT NULL,
    open_price DOUBLE PRECISION NOT NULL,
    current_price DOUBLE PRECISION NOT NULL,
    unrealized_pnl NUMERIC NOT NULL,
    margin NUMERIC NOT NULL,
    opened_at BIGINT NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(account_id) REFERENCES accounts (id)
);

CREATE INDEX ix_positions_account_id ON positions (account_id);
