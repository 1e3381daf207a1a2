-- API key: kc_23dd133806e17bf1_a992209e0a2f5cf15115635c2fa7fccbf6f16a956996a5c58652504c
BEGIN TRANSACTION;
CREATE TABLE account (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	tenant_id VARCHAR, 
	keap_user_id VARCHAR, 
	person_name VARCHAR, 
	person_email VARCHAR, 
	business_name VARCHAR, 
	label VARCHAR, 
	external_id VARCHAR(200), 
	created_at DATETIME NOT NULL, 
	connected_at DATETIME NOT NULL, 
	disconnected_at DATETIME, 
	reconnects_account_id INTEGER, 
	kind VARCHAR NOT NULL, 
	client_id VARCHAR NOT NULL, 
	token_url VARCHAR NOT NULL, 
	scope VARCHAR, 
	generation INTEGER NOT NULL, 
	access_token_sealed BLOB, 
	refresh_token_sealed BLOB, 
	access_token_expires_at DATETIME, 
	refresh_token_issued_at DATETIME, 
	refreshed_at DATETIME, 
	attempt_fingerprint VARCHAR, 
	attempted_at DATETIME, 
	failures INTEGER NOT NULL, 
	failed_at DATETIME, 
	failure_reason VARCHAR, 
	refused_at DATETIME, outcome_unknown_since DATETIME, refusals INTEGER DEFAULT '0' NOT NULL, lease_owner VARCHAR, lease_ends DOUBLE, blocked_until DOUBLE, next_refresh_at DATETIME, last_used_at DATETIME, needs_first_refresh BOOLEAN DEFAULT 0 NOT NULL, claimed_until DATETIME, state VARCHAR, state_cause VARCHAR, state_since DATETIME, state_changes_at DATETIME DEFAULT '1970-01-01 00:00:00', title_key VARCHAR, 
	CONSTRAINT ck_account_kind CHECK (kind IN ('oauth', 'access_token_only', 'personal_access_token', 'service_account_key')), 
	CONSTRAINT fk_account_reconnects_account_id_account FOREIGN KEY(reconnects_account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT uq_account_external_id UNIQUE (external_id), 
	CONSTRAINT uq_account_tenant_id_keap_user_id UNIQUE (tenant_id, keap_user_id)
);
INSERT INTO "account" VALUES(1,'ab101','1001',NULL,NULL,'Bright Dental',NULL,'customer-1','2026-11-29 23:01:49.314446','2026-11-29 23:01:49.359909',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab101.infusionsoft.com',1,X'01046727DA26574CBEFBF29F5EAFD214C863CFD297463F59D285D2434669734EC6368543705D0D2E63FB357A0B3843',X'01046727DA9249AB90F8667391A0D9EE1424B497CBF079FCE86A669E4C626FBEE5BA6BD643B73C0D973A17DA58A6F48C','2026-11-30 23:01:49.340591','2026-11-29 23:01:49.359940',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 00:16:30.120246',NULL,0,NULL,'active',NULL,'2026-11-29 23:01:49.490438','2026-12-29 00:26:30.120246','bright dental');
INSERT INTO "account" VALUES(2,'ab102','1002',NULL,NULL,'Müller & Söhne',NULL,'customer-2','2026-11-29 23:01:49.427829','2026-11-29 23:01:49.428963',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab102.infusionsoft.com',1,X'01046727DA67CE3BC43CE9A96D286CBD6238C45755A9D40462A963B7C27C8B7CFA0462D46957AB70AE8FEFE00B61DC',X'01046727DAF7301AA7EA2195A0BCF1520E24EFE4D9E13236A6CCF219EAD312D51D8902C99F53964F5F4A5DB725D58B2F','2026-11-30 23:01:49.428930','2026-11-29 23:01:49.428975',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 15:27:21.652446',NULL,0,NULL,'active',NULL,'2026-11-29 23:01:49.490482','2026-12-29 15:37:21.652446','muller & sohne');
INSERT INTO "account" VALUES(3,'ab103','1003',NULL,NULL,'日本語',NULL,'customer-3','2026-11-29 23:01:49.438470','2026-11-29 23:01:49.439139',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab103.infusionsoft.com',1,X'01046727DA63F6B60BEDBE043EAA897BF64F998C1373D7A70145D33BE82A56EB2A4EE5F4B32E904FC3C43040C7BC2F',X'01046727DA52CB9BB97968BF0EA45840C212DBB3BDC284B376E2E832F2E8879414D48CF020C5FCD08BE9A27944764538','2026-11-30 23:01:49.439114','2026-11-29 23:01:49.439149',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 18:06:09.201279',NULL,0,NULL,'active',NULL,'2026-11-29 23:01:49.490513','2026-12-29 18:16:09.201279','日本語');
INSERT INTO "account" VALUES(4,'ab104','1004',NULL,NULL,NULL,NULL,'customer-4','2026-11-29 23:01:49.440176','2026-11-29 23:01:49.440733',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab104.infusionsoft.com',1,X'01046727DAAA5B640FFF5CCA2E26F84C3B6F822C6B1C14B50AEF396AFD5E037EB8B666745A459817481B9B43BFCB2C',X'01046727DACDF6A99C2719326D223D5A71B05F02213D5199B1C57480B8B0098E5529E004B1F72189912FD3D4827F01ED','2026-11-30 23:01:49.440710','2026-11-29 23:01:49.440741',NULL,NULL,NULL,0,NULL,NULL,'2026-11-29 23:01:49.476762',NULL,2,NULL,NULL,NULL,NULL,NULL,0,NULL,'reconnect_required','refused','2026-11-29 23:01:49.476762',NULL,'ab104');
CREATE TABLE account_event (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at DATETIME NOT NULL, 
	account_id INTEGER, 
	kind VARCHAR NOT NULL, 
	actor VARCHAR NOT NULL, 
	details JSON NOT NULL
, pair_mark VARCHAR);
INSERT INTO "account_event" VALUES(1,'2026-11-29 23:01:49.360161',1,'connected','customer','{}','139389c924cb6b1c');
INSERT INTO "account_event" VALUES(2,'2026-11-29 23:01:49.429122',2,'connected','customer','{}','01f14b4cb05b5bac');
INSERT INTO "account_event" VALUES(3,'2026-11-29 23:01:49.439237',3,'connected','customer','{}','ce9a061c41887dcf');
INSERT INTO "account_event" VALUES(4,'2026-11-29 23:01:49.475490',4,'connected','customer','{}','220483712d3d4aec');
INSERT INTO "account_event" VALUES(5,'2026-11-29 23:01:50.483771',NULL,'admin_created','command line','{"email": "admin@example.com", "role": "admin"}',NULL);
INSERT INTO "account_event" VALUES(6,'2026-11-29 23:01:51.233256',NULL,'api_key_issued','test','{"key_id": 1, "name": "nightly", "scopes": "accounts:read tokens:read"}',NULL);
INSERT INTO "account_event" VALUES(7,'2026-11-29 23:01:51.355230',NULL,'admin_signed_in','admin@example.com','{"email": "admin@example.com"}',NULL);
INSERT INTO "account_event" VALUES(8,'2026-11-29 23:01:51.385002',1,'reconnect_link_made','test','{"until": "2026-12-06 23:01 UTC"}',NULL);
CREATE TABLE account_word (
	word VARCHAR NOT NULL, 
	account_id INTEGER NOT NULL, 
	CONSTRAINT pk_account_word PRIMARY KEY (word, account_id), 
	CONSTRAINT fk_account_word_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "account_word" VALUES('1',1);
INSERT INTO "account_word" VALUES('ab101',1);
INSERT INTO "account_word" VALUES('bright',1);
INSERT INTO "account_word" VALUES('customer',1);
INSERT INTO "account_word" VALUES('dental',1);
INSERT INTO "account_word" VALUES('2',2);
INSERT INTO "account_word" VALUES('ab102',2);
INSERT INTO "account_word" VALUES('customer',2);
INSERT INTO "account_word" VALUES('muller',2);
INSERT INTO "account_word" VALUES('sohne',2);
INSERT INTO "account_word" VALUES('3',3);
INSERT INTO "account_word" VALUES('ab103',3);
INSERT INTO "account_word" VALUES('customer',3);
INSERT INTO "account_word" VALUES('日本語',3);
INSERT INTO "account_word" VALUES('本語',3);
INSERT INTO "account_word" VALUES('語',3);
INSERT INTO "account_word" VALUES('4',4);
INSERT INTO "account_word" VALUES('ab104',4);
INSERT INTO "account_word" VALUES('customer',4);
CREATE TABLE "admin" (
	id INTEGER NOT NULL, 
	email VARCHAR NOT NULL, 
	password_hash VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	role VARCHAR DEFAULT 'admin' NOT NULL, 
	totp_seed_sealed BLOB, 
	totp_on_at DATETIME, 
	totp_step INTEGER, has_alarm_mails BOOLEAN DEFAULT 1 NOT NULL, has_digest_mails BOOLEAN DEFAULT 1 NOT NULL, 
	CONSTRAINT pk_admin PRIMARY KEY (id), 
	CONSTRAINT uq_admin_email UNIQUE (email), 
	CONSTRAINT ck_admin_role CHECK (role IN ('admin', 'viewer'))
);
INSERT INTO "admin" VALUES(1,'admin@example.com','$argon2id$v=19$m=19456,t=2,p=1$CniVSEGxVobz+jLuceHIyA$RLjl6gwLK4Y/CUuEwoLQoWN9Iyh4JvCISdmIZEilRN0','2026-11-29 23:01:50.483587','admin',NULL,NULL,NULL,1,1);
CREATE TABLE alarm (
	name VARCHAR NOT NULL, 
	raised_at DATETIME NOT NULL, 
	reason VARCHAR NOT NULL, 
	CONSTRAINT pk_alarm PRIMARY KEY (name)
);
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0024');
CREATE TABLE api_key (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	public_id VARCHAR NOT NULL, 
	secret_hash VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	scopes VARCHAR NOT NULL, 
	account_ids JSON, 
	created_at DATETIME NOT NULL, 
	created_by VARCHAR NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	last_used_at DATETIME, 
	CONSTRAINT uq_api_key_public_id UNIQUE (public_id)
);
INSERT INTO "api_key" VALUES(1,'23dd133806e17bf1','30a86b68679c4892f89534f6a57ed312ddcd8d06aef9b20b2cd8f78f659d8204','nightly','accounts:read tokens:read',NULL,'2026-11-29 23:01:51.196762','test',NULL,NULL,NULL);
CREATE TABLE "authorization_flow" (
	id INTEGER NOT NULL, 
	ref VARCHAR NOT NULL, 
	state_hash VARCHAR NOT NULL, 
	browser_hash VARCHAR NOT NULL, 
	code_verifier_sealed BLOB, 
	reconnects_account_id INTEGER, 
	started_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	consumed_at DATETIME, 
	ending VARCHAR, 
	ended_at DATETIME, 
	keap_said VARCHAR, 
	account_id INTEGER, 
	person_signed_in_at DATETIME, 
	pending_grant_sealed BLOB, 
	pending_until DATETIME, 
	reconnect_link_id INTEGER, invitation_id INTEGER, 
	CONSTRAINT pk_authorization_flow PRIMARY KEY (id), 
	CONSTRAINT fk_authorization_flow_reconnects_account_id_account FOREIGN KEY(reconnects_account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT uq_authorization_flow_ref UNIQUE (ref), 
	CONSTRAINT fk_authorization_flow_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT uq_authorization_flow_state_hash UNIQUE (state_hash), 
	CONSTRAINT fk_authorization_flow_reconnect_link_id_reconnect_link FOREIGN KEY(reconnect_link_id) REFERENCES reconnect_link (id) ON DELETE SET NULL
);
CREATE TABLE checked_client (
	id INTEGER NOT NULL, 
	registration VARCHAR NOT NULL, 
	standing VARCHAR NOT NULL, 
	reason VARCHAR NOT NULL, 
	checked_at DATETIME NOT NULL, 
	CONSTRAINT pk_checked_client PRIMARY KEY (id)
);
CREATE TABLE confirmation (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	value VARCHAR NOT NULL, 
	confirmed_at DATETIME NOT NULL, 
	instance_id VARCHAR, 
	public_url VARCHAR NOT NULL, 
	system_identifier VARCHAR, 
	account_table_oid VARCHAR, 
	file_inode VARCHAR, 
	file_born_at VARCHAR, 
	CONSTRAINT uq_confirmation_value UNIQUE (value)
);
INSERT INTO "confirmation" VALUES(1,'25a5ee44baf3af4a','2026-11-29 23:01:51.111299',NULL,'localhost',NULL,NULL,'5816353','1795993305.938754457');
CREATE TABLE counter (
	name VARCHAR NOT NULL, 
	labels VARCHAR NOT NULL, 
	value DOUBLE NOT NULL, 
	CONSTRAINT pk_counter PRIMARY KEY (name, labels)
);
CREATE TABLE counter_of_0_1 (
	instance_id VARCHAR NOT NULL, 
	stored_pairs INTEGER NOT NULL, 
	CONSTRAINT pk_counter_of_0_1 PRIMARY KEY (instance_id)
);
CREATE TABLE delivery (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	event_id INTEGER, 
	account_id INTEGER, 
	channel VARCHAR NOT NULL, 
	recipient VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	payload JSON NOT NULL, 
	message_id VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	due_at DATETIME NOT NULL, 
	attempts INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	tried_at DATETIME, 
	answer VARCHAR, 
	answer_code INTEGER, 
	finished_at DATETIME
, failing_since DATETIME);
CREATE TABLE imported_token (
	fingerprint VARCHAR NOT NULL, 
	account_id INTEGER NOT NULL, 
	generation INTEGER NOT NULL, 
	CONSTRAINT pk_imported_token PRIMARY KEY (fingerprint)
);
CREATE TABLE invitation (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	token_hash VARCHAR NOT NULL, 
	state VARCHAR NOT NULL, 
	label VARCHAR, 
	external_id VARCHAR(200), 
	email VARCHAR, 
	note VARCHAR, 
	return_url VARCHAR, 
	expected_tenant_id VARCHAR, 
	needs_confirmation BOOLEAN NOT NULL, 
	is_mailed BOOLEAN NOT NULL, 
	made_by VARCHAR NOT NULL, 
	made_at DATETIME NOT NULL, 
	sent_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	opened_at DATETIME, 
	account_id INTEGER, 
	CONSTRAINT uq_invitation_token_hash UNIQUE (token_hash), 
	CONSTRAINT ck_invitation_state CHECK (state IN ('sent', 'opened', 'waiting', 'connected', 'expired', 'withdrawn')), 
	CONSTRAINT fk_invitation_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
CREATE TABLE job (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	kind VARCHAR NOT NULL, 
	made_by VARCHAR NOT NULL, 
	made_at DATETIME NOT NULL, 
	next_at DATETIME NOT NULL, 
	trouble VARCHAR, 
	finished_at DATETIME
, rest JSON);
CREATE TABLE job_item (
	ref VARCHAR NOT NULL, 
	job_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	work_sealed BLOB, 
	tries INTEGER NOT NULL, 
	outcome VARCHAR, 
	account_id INTEGER, 
	details JSON NOT NULL, 
	CONSTRAINT pk_job_item PRIMARY KEY (ref), 
	CONSTRAINT fk_job_item_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE, 
	CONSTRAINT fk_job_item_job_id_job FOREIGN KEY(job_id) REFERENCES job (id) ON DELETE CASCADE, 
	CONSTRAINT uq_job_item_job_id_number UNIQUE (job_id, number)
);
CREATE TABLE key_check (
	id INTEGER NOT NULL, 
	sealed BLOB NOT NULL, 
	CONSTRAINT pk_key_check PRIMARY KEY (id)
);
INSERT INTO "key_check" VALUES(1,X'01046727DA5962F0A38EFF5F6228AD4BE49A65CEE6DB81A04F1418E4F470A0E845DB51CA32EF32E8196FD2EDDCA488534B6A501451F3C7D58A484702DC54588B956B68BC907469B3FE845F1DE19F11');
CREATE TABLE "one_time_token" (
	token_hash VARCHAR NOT NULL, 
	purpose VARCHAR NOT NULL, 
	admin_id INTEGER NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_one_time_token PRIMARY KEY (token_hash), 
	CONSTRAINT fk_one_time_token_admin_id_admin FOREIGN KEY(admin_id) REFERENCES admin (id) ON DELETE CASCADE, 
	CONSTRAINT ck_one_time_token_purpose CHECK (purpose IN ('new_password', 'second_step', 'sign_in'))
);
CREATE TABLE process (
	name VARCHAR NOT NULL, 
	beat_at DATETIME NOT NULL, 
	sealing_key VARCHAR NOT NULL, 
	CONSTRAINT pk_process PRIMARY KEY (name)
);
CREATE TABLE reconnect_link (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	token_hash VARCHAR NOT NULL, 
	made_by VARCHAR NOT NULL, 
	made_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	used_at DATETIME, 
	revoked_at DATETIME, opened_at DATETIME, 
	CONSTRAINT pk_reconnect_link PRIMARY KEY (id), 
	CONSTRAINT uq_reconnect_link_token_hash UNIQUE (token_hash), 
	CONSTRAINT fk_reconnect_link_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
INSERT INTO "reconnect_link" VALUES(1,1,'394b4a3ada74fa863d43edbe0189f2c77e8021bcc3522cbb0ebbe5a505f91cb8','test','2026-11-29 23:01:51.384807','2026-12-06 23:01:51.384807',NULL,NULL,NULL);
CREATE TABLE recovery_code (
	code_hash VARCHAR NOT NULL, 
	admin_id INTEGER NOT NULL, 
	CONSTRAINT pk_recovery_code PRIMARY KEY (code_hash), 
	CONSTRAINT fk_recovery_code_admin_id_admin FOREIGN KEY(admin_id) REFERENCES admin (id) ON DELETE CASCADE
);
CREATE TABLE refresh_budget (
	id INTEGER NOT NULL, 
	next_call DOUBLE NOT NULL, 
	CONSTRAINT pk_refresh_budget PRIMARY KEY (id)
);
CREATE TABLE registration (
	id INTEGER NOT NULL, 
	client_id VARCHAR NOT NULL, 
	token_url VARCHAR NOT NULL, worked_at DATETIME, working_since DATETIME, 
	CONSTRAINT pk_registration PRIMARY KEY (id)
);
INSERT INTO "registration" VALUES(1,'client-of-the-versions','http://127.0.0.1:1/token',NULL,NULL);
CREATE TABLE sign_in (
	id_hash VARCHAR NOT NULL, 
	admin_id INTEGER, 
	account_id INTEGER, 
	keap_user_id VARCHAR, 
	created_at DATETIME NOT NULL, 
	last_seen_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, address VARCHAR, browser VARCHAR, 
	CONSTRAINT pk_sign_in PRIMARY KEY (id_hash), 
	CONSTRAINT ck_sign_in_somebody CHECK (admin_id IS NOT NULL OR account_id IS NOT NULL), 
	CONSTRAINT fk_sign_in_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE, 
	CONSTRAINT fk_sign_in_admin_id_admin FOREIGN KEY(admin_id) REFERENCES admin (id) ON DELETE CASCADE
);
INSERT INTO "sign_in" VALUES('c73e7df97448d6a28f566689078e71ff6da07567e5fee0193ec3fc4841408367',1,NULL,NULL,'2026-11-29 23:01:51.255463','2026-11-29 23:01:51.255463','2026-11-30 11:01:51.255463','127.0.0.1',NULL);
CREATE TABLE sign_in_attempt (
	id INTEGER NOT NULL, 
	subject VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_sign_in_attempt PRIMARY KEY (id)
);
CREATE TABLE state_count (
	id INTEGER NOT NULL, 
	state VARCHAR NOT NULL, 
	cause VARCHAR, 
	accounts INTEGER NOT NULL, 
	CONSTRAINT pk_state_count PRIMARY KEY (id)
);
INSERT INTO "state_count" VALUES(1,'active',NULL,3);
INSERT INTO "state_count" VALUES(2,'reconnect_required','refused',1);
CREATE TABLE webhook_endpoint (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	url VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	types JSON, 
	secret_sealed BLOB, 
	old_secret_sealed BLOB, 
	old_secret_until DATETIME, 
	created_at DATETIME NOT NULL, 
	created_by VARCHAR NOT NULL, 
	failing_since DATETIME, 
	switched_off_at DATETIME, 
	switched_off_because VARCHAR
, tried_at DATETIME);
CREATE TABLE worker (
	name VARCHAR NOT NULL, 
	started_at DATETIME NOT NULL, 
	beat_at DATETIME NOT NULL, 
	refreshed INTEGER NOT NULL, 
	failed INTEGER NOT NULL, 
	lag_seconds DOUBLE NOT NULL, 
	paused_until DATETIME, 
	pause_reason VARCHAR, 
	CONSTRAINT pk_worker PRIMARY KEY (name)
);
CREATE INDEX ix_account_event_account_id_id ON account_event (account_id, id);
CREATE INDEX ix_sign_in_attempt_subject_at ON sign_in_attempt (subject, at);
CREATE INDEX ix_sign_in_expires_at ON sign_in (expires_at);
CREATE INDEX ix_account_next_refresh_at ON account (next_refresh_at);
CREATE INDEX ix_recovery_code_admin_id ON recovery_code (admin_id);
CREATE INDEX ix_reconnect_link_account_id ON reconnect_link (account_id);
CREATE INDEX ix_authorization_flow_browser_hash ON authorization_flow (browser_hash);
CREATE INDEX ix_authorization_flow_expires_at ON authorization_flow (expires_at);
CREATE INDEX ix_account_waits ON account (id) WHERE lease_owner IS NOT NULL OR blocked_until IS NOT NULL;
CREATE INDEX ix_account_event_pairs ON account_event (id) WHERE pair_mark IS NOT NULL;
CREATE INDEX ix_one_time_token_admin_id ON one_time_token (admin_id);
CREATE INDEX ix_job_item_account_id ON job_item (account_id);
CREATE INDEX ix_account_unproven ON account (next_refresh_at) WHERE needs_first_refresh = 1;
CREATE INDEX ix_account_state ON account (state, id);
CREATE INDEX ix_account_by_title ON account (state, title_key, id);
CREATE INDEX ix_account_by_expiry ON account (state, access_token_expires_at, id);
CREATE INDEX ix_account_by_use ON account (state, last_used_at, id);
CREATE INDEX ix_account_state_changes_at ON account (state_changes_at);
CREATE INDEX ix_account_broken ON account (state, state_since, id) WHERE state IN ('at_risk', 'reconnect_required');
CREATE INDEX ix_account_word_account_id ON account_word (account_id);
CREATE INDEX ix_delivery_order ON delivery (recipient, account_id, id) WHERE finished_at IS NULL;
CREATE INDEX ix_delivery_recipient_id ON delivery (recipient, id);
CREATE INDEX ix_delivery_account_id ON delivery (account_id);
CREATE INDEX ix_delivery_mails ON delivery (id) WHERE channel <> 'webhook';
CREATE INDEX ix_account_event_kind ON account_event (kind, id) WHERE kind <> 'refreshed';
CREATE INDEX ix_account_event_at_id ON account_event (at, id);
CREATE INDEX ix_delivery_recipient_status_id ON delivery (recipient, status, id);
CREATE INDEX ix_delivery_recipient_due ON delivery (channel, recipient, due_at, id) WHERE finished_at IS NULL;
CREATE INDEX ix_delivery_channel_due ON delivery (channel, due_at) WHERE channel <> 'webhook' AND finished_at IS NULL;
CREATE INDEX ix_delivery_finished_at ON delivery (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX ix_invitation_state_id ON invitation (state, id);
CREATE INDEX ix_invitation_state_expires_at ON invitation (state, expires_at);
CREATE INDEX ix_invitation_external_id ON invitation (external_id);
CREATE INDEX ix_invitation_account_id ON invitation (account_id);
CREATE INDEX ix_authorization_flow_invitation_id ON authorization_flow (invitation_id);
CREATE INDEX ix_job_item_outcome ON job_item (job_id, outcome, number);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('account',4);
INSERT INTO "sqlite_sequence" VALUES('account_event',8);
INSERT INTO "sqlite_sequence" VALUES('confirmation',1);
INSERT INTO "sqlite_sequence" VALUES('api_key',1);
COMMIT;
