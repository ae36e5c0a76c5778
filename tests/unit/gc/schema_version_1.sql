-- A metadata database as schema version 1 made it, with a little in it. Never changed: it stands for what
-- people have on their disks.
PRAGMA application_id = 0x4F524C50;
PRAGMA user_version = 1;

CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counters VALUES ('id', 0);

CREATE TABLE namespaces (name TEXT PRIMARY KEY, labels TEXT NOT NULL DEFAULT '') WITHOUT ROWID;

CREATE TABLE contents (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, digest)
) WITHOUT ROWID;
CREATE INDEX contents_by_digest ON contents (digest);

CREATE TABLE ingests (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    ref TEXT NOT NULL,
    backend_ref TEXT NOT NULL UNIQUE,
    -- Set while no byte came and the blob is there for another namespace.
    expected TEXT NOT NULL DEFAULT '',
    started_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, ref)
) WITHOUT ROWID;
CREATE INDEX ingests_by_expected ON ingests (expected);

CREATE TABLE snapshots (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    snapshotter TEXT NOT NULL,
    key TEXT NOT NULL,
    backend_key TEXT NOT NULL,
    kind TEXT NOT NULL,
    parent TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, snapshotter, key)
) WITHOUT ROWID;
CREATE INDEX snapshots_by_parent ON snapshots (namespace, snapshotter, parent);
CREATE UNIQUE INDEX snapshots_by_backend_key ON snapshots (snapshotter, backend_key);

-- Commits that have begun: the backend may or may not have done its part when the daemon died.
CREATE TABLE snapshot_commits (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    snapshotter TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    parent TEXT NOT NULL,
    backend_name TEXT NOT NULL,
    labels TEXT NOT NULL,
    PRIMARY KEY (namespace, snapshotter, name)
) WITHOUT ROWID;

CREATE TABLE images (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    name TEXT NOT NULL,
    media_type TEXT NOT NULL,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    annotations TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, name)
) WITHOUT ROWID;

CREATE TABLE containers (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    id TEXT NOT NULL,
    image TEXT NOT NULL,
    runtime TEXT NOT NULL,
    runtime_options_type TEXT NOT NULL,
    runtime_options BLOB,
    spec_type TEXT NOT NULL,
    spec BLOB,
    snapshotter TEXT NOT NULL,
    snapshot_key TEXT NOT NULL,
    sandbox TEXT NOT NULL,
    extensions TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;

CREATE TABLE leases (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    id TEXT NOT NULL,
    labels TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (namespace, id)
) WITHOUT ROWID;

CREATE TABLE lease_resources (
    namespace TEXT NOT NULL,
    lease TEXT NOT NULL,
    type TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (namespace, lease, type, id),
    FOREIGN KEY (namespace, lease) REFERENCES leases ON DELETE CASCADE
) WITHOUT ROWID;

-- The reference graph that garbage collection walks. Each object owns its root and its edges.
CREATE TABLE roots (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    node TEXT NOT NULL,
    expires_at INTEGER,
    PRIMARY KEY (namespace, node)
) WITHOUT ROWID;

CREATE TABLE edges (
    namespace TEXT NOT NULL REFERENCES namespaces ON DELETE CASCADE,
    source TEXT NOT NULL,
    target TEXT NOT NULL,
    owner TEXT NOT NULL,
    PRIMARY KEY (namespace, source, target, owner)
) WITHOUT ROWID;
CREATE INDEX edges_by_owner ON edges (namespace, owner);
CREATE INDEX edges_by_target ON edges (namespace, target);

-- Data whose metadata is gone and that the stores still have to delete.
CREATE TABLE garbage (
    store TEXT NOT NULL,
    item TEXT NOT NULL,
    size INTEGER NOT NULL,
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    UNIQUE (store, item)
);

INSERT INTO namespaces VALUES ('testing', '{"team":"old"}');
INSERT INTO contents VALUES ('testing', 'sha256:79f076abdd19a752db7267bfff2f9022161d120dea919fdaca2ffdfc24ca8c96', 4, '', 1000, 1000);
INSERT INTO contents VALUES ('testing', 'sha256:b5e0eee6e28efca6d6ad05d7b8a94631576037ec9e5ff6d305fe89faa0e1032e', 5, '', 1000, 1000);
INSERT INTO images VALUES ('testing', 'old', 'application/octet-stream', 'sha256:79f076abdd19a752db7267bfff2f9022161d120dea919fdaca2ffdfc24ca8c96', 4, '', '', 1000, 1000);
INSERT INTO roots VALUES ('testing', 'i:old', NULL);
INSERT INTO edges VALUES ('testing', 'i:old', 'c:sha256:79f076abdd19a752db7267bfff2f9022161d120dea919fdaca2ffdfc24ca8c96', 'i:old');
INSERT INTO edges VALUES ('testing', 'I:old', 'C:sha256:79f076abdd19a752db7267bfff2f9022161d120dea919fdaca2ffdfc24ca8c96', 'i:old');
UPDATE counters SET value = 7 WHERE name = 'id';
