PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE answers (
	owner VARCHAR NOT NULL, 
	"key" VARCHAR NOT NULL, 
	session VARCHAR NOT NULL, 
	data JSON NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (owner, "key")
);
INSERT INTO "answers" VALUES('default','o','S1','{"id": "S1"}',1800000000.0);
INSERT INTO "answers" VALUES('default','r','S1','{"rows": 1}',1800000000.0);
INSERT INTO "answers" VALUES('default','u','S1','{"kind": "last", "size": 10, "sha256": "fc11d6f28e59d3cc33c0b14ceb644bf0902ebd63d61218dffe9e7dac7c254542", "kept": true}',1800000000.0);
CREATE TABLE attempts (
	session VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	first_epoch INTEGER NOT NULL, 
	opened_at FLOAT NOT NULL, 
	state VARCHAR NOT NULL, 
	outcome VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	ended_at FLOAT, 
	PRIMARY KEY (session, attempt)
);
INSERT INTO "attempts" VALUES('S1',1,0,1800000000.0,'training','running','',NULL);
CREATE TABLE checkpoints (
	session VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	size INTEGER NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	file VARCHAR NOT NULL, 
	fitness FLOAT, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (session, kind)
);
INSERT INTO "checkpoints" VALUES('S1','last',1,0,10,'fc11d6f28e59d3cc33c0b14ceb644bf0902ebd63d61218dffe9e7dac7c254542','1-0-fc11d6f28e59d3cc-00000000.pt',NULL,1800000000.0);
CREATE TABLE keys (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	name VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	hash VARCHAR NOT NULL, 
	created_at FLOAT NOT NULL, 
	revoked_at FLOAT, 
	UNIQUE (hash)
);
INSERT INTO "keys" VALUES(1,'laptop','default','68162017f17e113c52e4526e056016a1f44f375a14d4f34c89cca4cf4ea49df5',1800000000.0,NULL);
CREATE TABLE problems (
	session VARCHAR NOT NULL, 
	what VARCHAR NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (session, what)
);
CREATE TABLE rows (
	n INTEGER NOT NULL, 
	session VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	step INTEGER, 
	final BOOLEAN NOT NULL, 
	at FLOAT NOT NULL, 
	metrics JSON NOT NULL, 
	nonfinite JSON NOT NULL, 
	digest VARCHAR NOT NULL, 
	PRIMARY KEY (n), 
	UNIQUE (session, attempt, epoch, digest)
);
INSERT INTO "rows" VALUES(1,'S1',1,0,NULL,0,1.0,'{"loss": 1.0}','{}','49a36d35c58a9b9297fe2b59985b4d7c');
CREATE TABLE sessions (
	id VARCHAR NOT NULL, 
	owner VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	own BOOLEAN NOT NULL, 
	body JSON NOT NULL, 
	project VARCHAR, 
	"group" VARCHAR, 
	tags JSON NOT NULL, 
	config JSON NOT NULL, 
	epochs INTEGER, 
	attempt INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	outcome VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	epoch INTEGER, 
	waiting INTEGER, 
	rows_told INTEGER, 
	agent VARCHAR, 
	stop VARCHAR, 
	created_at FLOAT NOT NULL, 
	last_contact FLOAT NOT NULL, 
	ended_at FLOAT, 
	deleted_at FLOAT, 
	PRIMARY KEY (id)
);
INSERT INTO "sessions" VALUES('S1','default','digits',1,'{"meta": {"name": "digits"}}',NULL,NULL,'["a"]','{"lr": 0.1}',5,1,'training','running','',0,NULL,NULL,NULL,NULL,1800000000.0,1800000000.0,NULL,NULL);
CREATE TABLE steps (
	session VARCHAR NOT NULL, 
	n INTEGER NOT NULL, 
	step JSON NOT NULL, 
	PRIMARY KEY (session, n)
);
INSERT INTO "steps" VALUES('S1',0,'{"n": 0}');
CREATE TABLE usage (
	id INTEGER NOT NULL, 
	session VARCHAR NOT NULL, 
	attempt INTEGER NOT NULL, 
	what VARCHAR NOT NULL, 
	at FLOAT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "usage" VALUES(1,'S1',1,'val',1800000000.0);
CREATE INDEX sessions_by_age ON sessions (owner, created_at, id);
CREATE INDEX ix_answers_session ON answers (session);
CREATE INDEX ix_usage_session ON usage (session);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('keys',1);
COMMIT;
