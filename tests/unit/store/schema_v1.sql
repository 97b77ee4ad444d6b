-- What version 1 of the code made of an empty file; migrations start from here.
CREATE TABLE events (
	number INTEGER NOT NULL, 
	kind TEXT NOT NULL, 
	"key" TEXT DEFAULT '' NOT NULL, 
	session_id TEXT DEFAULT '' NOT NULL, 
	run_id TEXT DEFAULT '' NOT NULL, 
	data BLOB NOT NULL, 
	PRIMARY KEY (number)
);
CREATE TABLE meta (
	"key" TEXT NOT NULL, 
	value TEXT NOT NULL, 
	PRIMARY KEY ("key")
);
CREATE TABLE read_files (
	session_id TEXT NOT NULL, 
	path TEXT NOT NULL, 
	sha256 TEXT NOT NULL, 
	read_at_ms INTEGER NOT NULL, 
	PRIMARY KEY (session_id, path)
);
CREATE TABLE reserve (
	id INTEGER NOT NULL, 
	space BLOB, 
	PRIMARY KEY (id)
);
CREATE TABLE runs (
	accept_seq INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	state TEXT NOT NULL, 
	outcome TEXT DEFAULT '' NOT NULL, 
	cause TEXT DEFAULT '' NOT NULL, 
	prompt TEXT NOT NULL, 
	attachments BLOB DEFAULT '[]' NOT NULL, 
	keyed INTEGER NOT NULL, 
	kind TEXT DEFAULT 'prompt' NOT NULL, 
	message_id TEXT DEFAULT '' NOT NULL, 
	folded_into TEXT DEFAULT '' NOT NULL, 
	deaths INTEGER DEFAULT '0' NOT NULL, 
	accepted_at_ms INTEGER NOT NULL, 
	started_at_ms INTEGER DEFAULT '0' NOT NULL, 
	ended_at_ms INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (accept_seq), 
	UNIQUE (id)
);
CREATE TABLE sessions (
	id TEXT NOT NULL, 
	parent_session_id TEXT DEFAULT '' NOT NULL, 
	title TEXT DEFAULT '' NOT NULL, 
	message_count INTEGER DEFAULT '0' NOT NULL, 
	prompt_tokens INTEGER DEFAULT '0' NOT NULL, 
	completion_tokens INTEGER DEFAULT '0' NOT NULL, 
	summary_message_id TEXT DEFAULT '' NOT NULL, 
	cost FLOAT DEFAULT '0' NOT NULL, 
	todos BLOB DEFAULT '[]' NOT NULL, 
	created_at INTEGER NOT NULL, 
	updated_at INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE messages (
	seq INTEGER NOT NULL, 
	id TEXT NOT NULL, 
	session_id TEXT NOT NULL, 
	run_id TEXT DEFAULT '' NOT NULL, 
	role TEXT NOT NULL, 
	parts BLOB NOT NULL, 
	model TEXT DEFAULT '' NOT NULL, 
	provider TEXT DEFAULT '' NOT NULL, 
	is_summary_message INTEGER DEFAULT '0' NOT NULL, 
	created_at INTEGER NOT NULL, 
	updated_at INTEGER NOT NULL, 
	PRIMARY KEY (seq), 
	UNIQUE (id), 
	FOREIGN KEY(session_id) REFERENCES sessions (id) ON DELETE CASCADE
);
CREATE INDEX messages_session ON messages (session_id);
CREATE INDEX sessions_parent ON sessions (parent_session_id);
CREATE INDEX runs_open ON runs (state) WHERE state != 'ended';
CREATE INDEX runs_session ON runs (session_id);
CREATE UNIQUE INDEX events_run_complete ON events (run_id) WHERE kind = 'run_complete';
