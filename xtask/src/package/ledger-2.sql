-- A ledger as an older program left it: version 2 of the schema, with the events and the key of carol. `cargo xtask package` has
-- the new program take it over. It is history: never change it.
BEGIN TRANSACTION;
CREATE TABLE arrival_cursors (
    peer  TEXT    PRIMARY KEY,
    epoch INTEGER NOT NULL,
    seq   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE cursors (
    peer TEXT    PRIMARY KEY,
    ts   INTEGER NOT NULL,
    id   TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE events (
    seq        INTEGER PRIMARY KEY, -- order of arrival; never used again (see feed)
    id         TEXT    NOT NULL UNIQUE,
    ts         INTEGER NOT NULL,    -- ns
    svc        TEXT    NOT NULL,
    emitter    TEXT    NOT NULL,
    actor      TEXT    NOT NULL,
    target     TEXT    NOT NULL,
    importance INTEGER NOT NULL,    -- of an observation, else 0
    critical   INTEGER NOT NULL,    -- every sample has it
    priority   INTEGER NOT NULL,    -- the lowest are pruned first
    stranger   INTEGER NOT NULL,    -- about an unknown nara when it was last looked at
    json       TEXT    NOT NULL,
    origin     TEXT                 -- the peer that told it
) STRICT;
INSERT INTO "events" VALUES(1,'6366997fed914bf8697f695af9614954',1795885872419067558,'hey-there','carol','carol','carol',0,1,3,0,'{"id":"6366997fed914bf8697f695af9614954","ts":1795885872419067558,"svc":"hey-there","emitter":"carol","sig":"RmfTv99G921In6ZOqvhFgvwolfPveFIPaPB631z1rx403be6UKEPXL6iyoR1ODKxgdPWGiodTdzBZ8mdumLACw==","hey_there":{"From":"carol","PublicKey":"IzHhODCV+uueyILKp3lo7uloGNB+2U4WccCEjWkR2MM=","MeshIP":"127.0.0.1","ID":"ArfEGeoyCjKhUo1gpeLDTQNmngTQ3jaiRiVUHzcqmHLF","Signature":""}}',NULL);
INSERT INTO "events" VALUES(2,'cb3d82ba67b4b7f9399f0050c5c698b9',1795885873444664910,'chau','carol','carol','carol',0,1,3,0,'{"id":"cb3d82ba67b4b7f9399f0050c5c698b9","ts":1795885873444664910,"svc":"chau","emitter":"carol","sig":"V7whpFuG8+edadipQOeQJ2bSKJ+frIvTuH+Z4e0fLoE/J/kloEwgZhrlLhjNyNZI2/Z2ZtKxF8jJpsP6JfW5Dg==","chau":{"From":"carol","PublicKey":"IzHhODCV+uueyILKp3lo7uloGNB+2U4WccCEjWkR2MM=","ID":"ArfEGeoyCjKhUo1gpeLDTQNmngTQ3jaiRiVUHzcqmHLF","Signature":""}}',NULL);
INSERT INTO "events" VALUES(1048579,'0bd0ec28b8a3bf9639bf870ac2d32ad9',1795885874619656104,'hey-there','carol','carol','carol',0,1,3,0,'{"id":"0bd0ec28b8a3bf9639bf870ac2d32ad9","ts":1795885874619656104,"svc":"hey-there","emitter":"carol","sig":"EseUENwF1uFLaVBJcgkHbmjKdOUma1Nh2AiwmZ5OvEKr4hAQiNeeUFEuqzngKch+2ofMskir+RVNigoFyh45Dg==","hey_there":{"From":"carol","PublicKey":"IzHhODCV+uueyILKp3lo7uloGNB+2U4WccCEjWkR2MM=","MeshIP":"127.0.0.1","ID":"ArfEGeoyCjKhUo1gpeLDTQNmngTQ3jaiRiVUHzcqmHLF","Signature":""}}',NULL);
INSERT INTO "events" VALUES(1048580,'3785f7366799c5307c1a743507661c54',1795885875672586162,'chau','carol','carol','carol',0,1,3,0,'{"id":"3785f7366799c5307c1a743507661c54","ts":1795885875672586162,"svc":"chau","emitter":"carol","sig":"QX6RsqHzFbJidOXgv6w1g++dOl3DFjgqnBPS6V1xahm4sU/0PcMAwydu6wk1kFgRqZAwVrv7tTM1DD3OYQg/Bw==","chau":{"From":"carol","PublicKey":"IzHhODCV+uueyILKp3lo7uloGNB+2U4WccCEjWkR2MM=","ID":"ArfEGeoyCjKhUo1gpeLDTQNmngTQ3jaiRiVUHzcqmHLF","Signature":""}}',NULL);
INSERT INTO "events" VALUES(2097157,'4f9fe4fd37a0af90fe0bf6dfeb819acb',1795885876844692683,'hey-there','carol','carol','carol',0,1,3,0,'{"id":"4f9fe4fd37a0af90fe0bf6dfeb819acb","ts":1795885876844692683,"svc":"hey-there","emitter":"carol","sig":"kbjPFZdCpBr0YCWgcKJtgSOQ2GGIXVxPp6g6PrjCUCg3VIWp5rFLoDKVsrUZGR5+Tk7XQiDRC0vxghvEUZA7Bw==","hey_there":{"From":"carol","PublicKey":"IzHhODCV+uueyILKp3lo7uloGNB+2U4WccCEjWkR2MM=","MeshIP":"127.0.0.1","ID":"ArfEGeoyCjKhUo1gpeLDTQNmngTQ3jaiRiVUHzcqmHLF","Signature":""}}',NULL);
INSERT INTO "events" VALUES(2097158,'494fd3e05f55823817c8bd8ef08df6c5',1795885877906570093,'chau','carol','carol','carol',0,1,3,0,'{"id":"494fd3e05f55823817c8bd8ef08df6c5","ts":1795885877906570093,"svc":"chau","emitter":"carol","sig":"hYnP2+fP7z6ej4kT3pf8e5hsNXDqGyDs/jvNxvTULPg/j7+h7b2iVBnpaTfSO4pKdNKuA2mpxe7mdsbyRXL+Dg==","chau":{"From":"carol","PublicKey":"IzHhODCV+uueyILKp3lo7uloGNB+2U4WccCEjWkR2MM=","ID":"ArfEGeoyCjKhUo1gpeLDTQNmngTQ3jaiRiVUHzcqmHLF","Signature":""}}',NULL);
CREATE TABLE feed (
    epoch    INTEGER NOT NULL,
    position INTEGER NOT NULL  -- the place of the newest event, stored or not
) STRICT;
INSERT INTO "feed" VALUES(4711,2097158);
CREATE TABLE peers (
    name           TEXT    PRIMARY KEY,
    id             TEXT,                       -- nara id, if known
    key            TEXT,                       -- base64, if known
    source         TEXT,                       -- how and from where the key was learned
    learned_at     INTEGER,                    -- when, ms
    v2             INTEGER NOT NULL DEFAULT 0, -- what the holder of the key has proven
    tls            INTEGER NOT NULL DEFAULT 0,
    raw_public_key INTEGER NOT NULL DEFAULT 0,
    verdict        TEXT,                       -- what the operator last decided
    decided_at     INTEGER                     -- when, ms
) STRICT, WITHOUT ROWID;
INSERT INTO "peers" VALUES('carol','ArfEGeoyCjKhUo1gpeLDTQNmngTQ3jaiRiVUHzcqmHLF','IzHhODCV+uueyILKp3lo7uloGNB+2U4WccCEjWkR2MM=','ping 127.0.0.1:9634',1769100000000,1,1,1,NULL,NULL);
CREATE TABLE rejected (
    seq  INTEGER PRIMARY KEY,
    peer TEXT NOT NULL,
    item BLOB NOT NULL,
    UNIQUE (peer, item)
) STRICT;
CREATE TABLE totals (priority INTEGER PRIMARY KEY, n INTEGER NOT NULL) STRICT;
INSERT INTO "totals" VALUES(0,0);
INSERT INTO "totals" VALUES(1,0);
INSERT INTO "totals" VALUES(2,0);
INSERT INTO "totals" VALUES(3,6);
INSERT INTO "totals" VALUES(4,0);
INSERT INTO "totals" VALUES(5,0);
INSERT INTO "totals" VALUES(6,0);
CREATE INDEX events_by_time     ON events (ts, id);
CREATE INDEX events_by_service  ON events (svc, ts, id);
CREATE INDEX events_by_actor    ON events (actor, svc, ts, id);
CREATE INDEX events_by_target   ON events (target, svc, ts, id);
CREATE INDEX events_by_pair     ON events (actor, target, priority, ts, id) WHERE svc = 'observation';
CREATE INDEX events_presence    ON events (ts, id) WHERE priority = 3;
CREATE INDEX events_strangers   ON events (ts, id) WHERE stranger = 1;
CREATE INDEX events_checkpoints ON events (priority) WHERE priority = 5;
CREATE TRIGGER events_removed AFTER DELETE ON events
    BEGIN UPDATE totals SET n = n - 1 WHERE priority = old.priority; END;
COMMIT;
PRAGMA application_id = 0x6e617261;
PRAGMA user_version = 2;
