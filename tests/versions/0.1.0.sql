-- API key: kc_24f29caaf984b248_8d0d6870e73893c0382125326ebe1abb770a627158ec6714fbef5042
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
	refused_at DATETIME, outcome_unknown_since DATETIME, refusals INTEGER DEFAULT '0' NOT NULL, lease_owner VARCHAR, lease_ends DOUBLE, blocked_until DOUBLE, next_refresh_at DATETIME, last_used_at DATETIME, 
	CONSTRAINT ck_account_kind CHECK (kind IN ('oauth', 'access_token_only', 'personal_access_token', 'service_account_key')), 
	CONSTRAINT fk_account_reconnects_account_id_account FOREIGN KEY(reconnects_account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT uq_account_external_id UNIQUE (external_id), 
	CONSTRAINT uq_account_tenant_id_keap_user_id UNIQUE (tenant_id, keap_user_id)
);
INSERT INTO "account" VALUES(1,'ab101','1001','Person 1','person1@example.com','Bright Dental',NULL,'customer-1','2026-11-29 22:59:10.952581','2026-11-29 22:59:11.261879',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab101.infusionsoft.com',1,X'01046727DAD2AFF2126544066A35777B4C974FA23F84F55A9ABB38D939DE132332E2DF4DFCADD5ADEAE34B967BD81E100C1C4012B459F0FBD55F4B498459177D73E599FC',X'01046727DA1165B114F1418A422C0F7B5AEC18623FC1EB03596332CA4DFDBE0E3B7E7EC65C489A058507B77D1D12973A3C6FE8DD6A8DBC75A98E6C35E21CDD8806082FE41A','2026-11-30 22:59:11.261802','2026-11-29 22:59:11.261901',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 18:15:03.736070','2026-11-29 22:59:11.262097');
INSERT INTO "account" VALUES(2,'ab102','1002','Person 2','person2@example.com','Müller & Söhne',NULL,'customer-2','2026-11-29 22:59:11.262271','2026-11-29 22:59:11.336396',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab102.infusionsoft.com',1,X'01046727DA438B4ED0FCC6431D1C7ACE375A9007A10879BCAD2AAD9D89D69DA04BEFCB5B5EFB43A054DDB6A4E6C8A423EC15061A04E6FA82C1C4C1ED5CF27B3CDB1A2A56',X'01046727DABEE5A89245754672A507368C88DC3602E164DD22E80E8BCFDCA5617BA18038BEEC9114E0C820ECBF1F72CF9C069A4D1557ED966A65B5CE94CEA4D53E2A8CDD30','2026-11-30 22:59:11.336337','2026-11-29 22:59:11.336408',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 00:29:43.490796','2026-11-29 22:59:11.336541');
INSERT INTO "account" VALUES(3,'ab103','1003','Person 3','person3@example.com','日本語',NULL,'customer-3','2026-11-29 22:59:11.336668','2026-11-29 22:59:11.338420',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab103.infusionsoft.com',1,X'01046727DA375B12BF8DA328EC505D94ECD7D05087D4A0764392BC8A1DC1901AF904BCD0871C6442DF074D80FE81B75B682B49143B5CD34A9AA80322F3D9EB26434D6125',X'01046727DA77969DBDF10E6AB43F9A6BD5858B67C87441620266CF3AA442C85BC767819AABBE5B2927DE4431972970F0933671807A790FCB3E5A7CA923A3694D9251E2DA52','2026-11-30 22:59:11.338375','2026-11-29 22:59:11.338436',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 02:18:13.598136','2026-11-29 22:59:11.338543');
INSERT INTO "account" VALUES(4,'ab104','1004','Person 4','person4@example.com',NULL,NULL,'customer-4','2026-11-29 22:59:11.338631','2026-11-29 22:59:11.339802',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab104.infusionsoft.com',1,X'01046727DA3773F51A4535FE16833C72724647A0B6CB8408FA7E2554A95936DB50DD44C4F24E2745BB5A384394FF831F9FF82456AAE2DD25C6106114C7BCAE073CF1738C',X'01046727DA0C58BD814B3D8EA47DC60BA08BFC13D91997843BAE6FDCF060E2DE2258F70C3B8DC4BBF9C939500E34FE18186CB6A2589BD093BDC9323ED3A0188D486F6B008E','2026-11-30 22:59:11.339773','2026-11-29 22:59:11.339809',NULL,NULL,NULL,0,NULL,NULL,'2026-11-29 22:59:11.339971',NULL,2,NULL,NULL,NULL,NULL,'2026-11-29 22:59:11.339895');
CREATE TABLE account_event (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at DATETIME NOT NULL, 
	account_id INTEGER, 
	kind VARCHAR NOT NULL, 
	actor VARCHAR NOT NULL, 
	details JSON NOT NULL
, pair_mark VARCHAR);
INSERT INTO "account_event" VALUES(1,'2026-11-29 22:59:11.262111',1,'connected','customer','{}','3adb2e33b41af8ae');
INSERT INTO "account_event" VALUES(2,'2026-11-29 22:59:11.336549',2,'connected','customer','{}','bfc8e8c6d08db98c');
INSERT INTO "account_event" VALUES(3,'2026-11-29 22:59:11.338550',3,'connected','customer','{}','4cf40cede33918e7');
INSERT INTO "account_event" VALUES(4,'2026-11-29 22:59:11.339901',4,'connected','customer','{}','5610d919e030c52d');
INSERT INTO "account_event" VALUES(5,'2026-11-29 22:59:11.663565',NULL,'admin_created','command line','{"email": "admin@example.com", "role": "admin"}',NULL);
INSERT INTO "account_event" VALUES(6,'2026-11-29 22:59:12.112015',NULL,'api_key_issued','test','{"key_id": 1, "name": "nightly", "scopes": "accounts:read tokens:read"}',NULL);
INSERT INTO "account_event" VALUES(7,'2026-11-29 22:59:12.194466',NULL,'admin_signed_in','admin@example.com','{"email": "admin@example.com"}',NULL);
INSERT INTO "account_event" VALUES(8,'2026-11-29 22:59:12.254064',1,'reconnect_link_made','test','{"until": "2026-12-06 22:59 UTC"}',NULL);
CREATE TABLE "admin" (
	id INTEGER NOT NULL, 
	email VARCHAR NOT NULL, 
	password_hash VARCHAR NOT NULL, 
	created_at DATETIME NOT NULL, 
	role VARCHAR DEFAULT 'admin' NOT NULL, 
	totp_seed_sealed BLOB, 
	totp_on_at DATETIME, 
	totp_step INTEGER, 
	CONSTRAINT pk_admin PRIMARY KEY (id), 
	CONSTRAINT uq_admin_email UNIQUE (email), 
	CONSTRAINT ck_admin_role CHECK (role IN ('admin', 'viewer'))
);
INSERT INTO "admin" VALUES(1,'admin@example.com','$argon2id$v=19$m=19456,t=2,p=1$y+oCaR0n5gIfPb+16UN68Q$FPbqVKdHZ8ufKBqgvKJa5F5zZg5UC+21bMlZTxAJj8M','2026-11-29 22:59:11.663410','admin',NULL,NULL,NULL);
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
INSERT INTO "alembic_version" VALUES('0014');
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
INSERT INTO "api_key" VALUES(1,'24f29caaf984b248','ae73bb37fa95d95c876ebaecfefa98538f5c341e16429171d5400b21f1305e2d','nightly','accounts:read tokens:read',NULL,'2026-11-29 22:59:12.104643','test',NULL,NULL,NULL);
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
	reconnect_link_id INTEGER, 
	CONSTRAINT pk_authorization_flow PRIMARY KEY (id), 
	CONSTRAINT fk_authorization_flow_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT fk_authorization_flow_reconnects_account_id_account FOREIGN KEY(reconnects_account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT uq_authorization_flow_ref UNIQUE (ref), 
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
INSERT INTO "confirmation" VALUES(1,'341835018751d446','2026-11-29 22:59:12.034622',NULL,'localhost',NULL,NULL,'5808368','1795993149.602747209');
CREATE TABLE counter_of_0_1 (
	instance_id VARCHAR NOT NULL, 
	stored_pairs INTEGER NOT NULL, 
	CONSTRAINT pk_counter_of_0_1 PRIMARY KEY (instance_id)
);
CREATE TABLE key_check (
	id INTEGER NOT NULL, 
	sealed BLOB NOT NULL, 
	CONSTRAINT pk_key_check PRIMARY KEY (id)
);
INSERT INTO "key_check" VALUES(1,X'01046727DAC9335BAB71C3A5F6F6461CB35831CD52794B938CA5295D2A55D4029E9928E6833468E339F757B16FBB83F7BBE3DEE1EB7648F98573E146DD868199EFA3F5FE606A61B76703B18EF70AA3');
CREATE TABLE one_time_token (
	token_hash VARCHAR NOT NULL, 
	purpose VARCHAR NOT NULL, 
	admin_id INTEGER NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_one_time_token PRIMARY KEY (token_hash), 
	CONSTRAINT ck_one_time_token_purpose CHECK (purpose IN ('new_password', 'second_step')), 
	CONSTRAINT fk_one_time_token_admin_id_admin FOREIGN KEY(admin_id) REFERENCES admin (id) ON DELETE CASCADE
);
CREATE TABLE pending_file (
	admin_id INTEGER NOT NULL, 
	until DATETIME NOT NULL, 
	sealed BLOB NOT NULL, 
	CONSTRAINT pk_pending_file PRIMARY KEY (admin_id)
);
CREATE TABLE reconnect_link (
	id INTEGER NOT NULL, 
	account_id INTEGER NOT NULL, 
	token_hash VARCHAR NOT NULL, 
	made_by VARCHAR NOT NULL, 
	made_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	used_at DATETIME, 
	revoked_at DATETIME, 
	CONSTRAINT pk_reconnect_link PRIMARY KEY (id), 
	CONSTRAINT uq_reconnect_link_token_hash UNIQUE (token_hash), 
	CONSTRAINT fk_reconnect_link_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
INSERT INTO "reconnect_link" VALUES(1,1,'a3337cc71aeb8b38c2f8d5a2281583af55016bfa89b77724b5c0d32dc6dc5372','test','2026-11-29 22:59:12.204194','2026-12-06 22:59:12.204194',NULL,NULL);
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
INSERT INTO "sign_in" VALUES('5322e553bbb72c20554d8b00bd4bacade4729c81ba8285d6b3a5b983ef943e17',1,NULL,NULL,'2026-11-29 22:59:12.140369','2026-11-29 22:59:12.140369','2026-11-30 10:59:12.140369','127.0.0.1',NULL);
CREATE TABLE sign_in_attempt (
	id INTEGER NOT NULL, 
	subject VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_sign_in_attempt PRIMARY KEY (id)
);
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
CREATE INDEX ix_account_event_at ON account_event (at);
CREATE INDEX ix_recovery_code_admin_id ON recovery_code (admin_id);
CREATE INDEX ix_reconnect_link_account_id ON reconnect_link (account_id);
CREATE INDEX ix_authorization_flow_browser_hash ON authorization_flow (browser_hash);
CREATE INDEX ix_authorization_flow_expires_at ON authorization_flow (expires_at);
CREATE INDEX ix_account_waits ON account (id) WHERE lease_owner IS NOT NULL OR blocked_until IS NOT NULL;
CREATE INDEX ix_one_time_token_admin_id ON one_time_token (admin_id);
CREATE INDEX ix_account_event_pairs ON account_event (id) WHERE pair_mark IS NOT NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('account',4);
INSERT INTO "sqlite_sequence" VALUES('account_event',8);
INSERT INTO "sqlite_sequence" VALUES('confirmation',1);
INSERT INTO "sqlite_sequence" VALUES('api_key',1);
COMMIT;
