-- Records, by month of their receipt. `body` is the record byte for byte as it was chained; the columns are copies of its members.
CREATE TABLE events (
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    received_at timestamptz NOT NULL,
    occurred_at timestamptz,
    kind text NOT NULL,
    action text NOT NULL,
    category text,
    service text,
    severity text,
    outcome text,
    actor_type text,
    actor_id text,
    entity_type text,
    entity_id text,
    request_id text,
    trace_id text,
    chain_id text,
    chain_epoch bigint,
    chain_seq bigint,
    hash bytea,
    body bytea NOT NULL
) PARTITION BY RANGE (received_at);
-- Where no partition of the month was made in time.
CREATE TABLE events_other PARTITION OF events DEFAULT;
CREATE INDEX events_id ON events (tenant_id, event_id);
CREATE INDEX events_received ON events (received_at);
CREATE INDEX events_occurred ON events (tenant_id, occurred_at);
CREATE INDEX events_service ON events (service, received_at);
CREATE INDEX events_entity ON events (entity_id, received_at) WHERE entity_id IS NOT NULL;
CREATE INDEX events_request ON events (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX events_chain ON events (chain_id, chain_epoch, chain_seq);

-- What makes an id unique over all partitions. `fingerprint`: SHA-256 of what the client sent, as far as the record has it.
CREATE TABLE event_ids (
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    fingerprint bytea NOT NULL,
    received_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);

-- Records whose id another one has already, with other contents. The first one stays in `events`.
CREATE TABLE event_conflicts (
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    fingerprint bytea NOT NULL,
    received_at timestamptz NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (tenant_id, event_id, fingerprint)
);
