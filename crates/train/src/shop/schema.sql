-- What the shop stands on: `today` never moves, so that every run sees the same ages.
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE customers (
    id INTEGER PRIMARY KEY,
    first TEXT NOT NULL,
    last TEXT NOT NULL,
    email TEXT NOT NULL UNIQUE,
    city TEXT NOT NULL,
    phone TEXT NOT NULL
);

CREATE TABLE orders (
    number INTEGER PRIMARY KEY,
    customer INTEGER NOT NULL REFERENCES customers (id),
    item TEXT NOT NULL,
    cents INTEGER NOT NULL CHECK (cents > 0),
    state TEXT NOT NULL CHECK (state IN ('processing', 'shipped', 'delivered', 'refunded', 'cancelled')),
    placed TEXT NOT NULL,
    shipped TEXT,
    delivered TEXT,
    refunded TEXT,
    cancelled TEXT
);

CREATE TABLE shipments (
    order_number INTEGER PRIMARY KEY REFERENCES orders (number),
    carrier TEXT NOT NULL,
    status TEXT NOT NULL,
    eta TEXT
);

-- Money paid back. Neither an effect nor an order can stand here twice.
CREATE TABLE refunds (
    effect TEXT NOT NULL UNIQUE,
    order_number INTEGER PRIMARY KEY REFERENCES orders (number),
    cents INTEGER NOT NULL CHECK (cents > 0),
    day TEXT NOT NULL
);

-- Mails that wait to be sent. One effect writes one mail at most.
CREATE TABLE mails (
    id INTEGER PRIMARY KEY,
    effect TEXT NOT NULL UNIQUE,
    recipient TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL
);

-- What a colleague has to look at.
CREATE TABLE tickets (
    id INTEGER PRIMARY KEY,
    effect TEXT NOT NULL UNIQUE,
    sender TEXT NOT NULL,
    order_number INTEGER REFERENCES orders (number),
    reason TEXT NOT NULL
);
