-- Places in chains whose records are not in `events`: the same event came before, from another sidecar, or another one has its id (`is_conflict`). So a query
-- over chains finds no hole: `hash` links the record before it and the one behind.
CREATE TABLE event_repeats (
    chain_id text NOT NULL,
    chain_epoch bigint NOT NULL,
    chain_seq bigint NOT NULL,
    hash bytea,
    received_at timestamptz NOT NULL,
    same_as_tenant_id text NOT NULL,
    same_as_event_id text NOT NULL,
    is_conflict boolean NOT NULL,
    PRIMARY KEY (chain_id, chain_epoch, chain_seq)
);
