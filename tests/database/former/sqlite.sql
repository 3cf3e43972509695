-- The tables of release 0.1.0 on SQLite, which wrote down no version.

CREATE TABLE accounts (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    account_number TEXT NOT NULL,
    balance TEXT NOT NULL,
    version BIGINT NOT NULL,
    UNIQUE (account_number)
);

CREATE TABLE symbols (
    symbol TEXT NOT NULL,
    description TEXT NOT NULL,
    base TEXT NOT NULL,
    quote TEXT NOT NULL,
    digits INTEGER NOT NULL,
    contract_size DOUBLE NOT NULL,
    margin_rate DOUBLE NOT NULL,
    min_volume DOUBLE NOT NULL,
    max_volume DOUBLE NOT NULL,
    volume_step DOUBLE NOT NULL,
    PRIMARY KEY (symbol)
);

CREATE TABLE executions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL,
    order_id BIGINT NOT NULL,
    position_id BIGINT NOT NULL,
    symbol TEXT NOT NULL,
    side VARCHAR(4) NOT NULL CHECK (side IN ('BUY', 'SELL')),
    volume DOUBLE NOT NULL,
    price DOUBLE NOT NULL,
    timestamp BIGINT NOT NULL,
    FOREIGN KEY(account_id) REFERENCES accounts (id),
    UNIQUE (order_id)
);

CREATE INDEX ix_executions_of_account ON executions (account_id, id);

CREATE TABLE positions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    account_id INTEGER NOT NULL,
    symbol TEXT NOT NULL,
    side VARCHAR(4) NOT NULL CHECK (side IN ('BUY', 'SELL')),
    volume DOUBLE NOT NULL,
    open_price DOUBLE NOT NULL,
    current_price DOUBLE NOT NULL,
    unrealized_pnl TEXT NOT NULL,
    margin TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    FOREIGN KEY(account_id) REFERENCES accounts (id)
);

CREATE INDEX ix_positions_account_id ON positions (account_id);
