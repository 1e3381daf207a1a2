-- API key: kc_b9f6a08cb4e7a72e_fcb3ea62fc1657a1d0d29cb9287b933aa7d4f90d6568feae56f02129
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
INSERT INTO "account" VALUES(1,'ab101','1001',NULL,NULL,'Bright Dental',NULL,'customer-1','2026-11-30 06:56:51.039120','2026-11-30 06:56:51.044625',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab101.infusionsoft.com',1,X'01046727DAE4CDB0C5BC0BC765DD1B31104ACD0CA2A79B710F27613BA81EEB9214526F9F9C820DB9EE80C92E30500B',X'01046727DAF7FAE907BD04832861BD3CBD7DD997173196F0EDC976C116F71FA6EA05B4C3EE6C8CA972C042BDFB8664C0','2026-12-01 06:56:51.044568','2026-11-30 06:56:51.044643',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 19:31:34.174396',NULL,0,NULL,'active',NULL,'2026-11-30 06:56:51.062572','2026-12-29 19:41:34.174396','bright dental');
INSERT INTO "account" VALUES(2,'ab102','1002',NULL,NULL,'Müller & Söhne',NULL,'customer-2','2026-11-30 06:56:51.049187','2026-11-30 06:56:51.055694',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab102.infusionsoft.com',1,X'01046727DA46F8567F5CFF91C992B6E3CE249AAAAB3FA2113EF4F485741C9C559331E5507029907EAC8486933BABAE',X'01046727DA15B7EB71667ED9A2FBE4567EE10896B6C9EC46F9E2118E251164823622C2CDB60F6B983B79807B52885342','2026-12-01 06:56:51.051527','2026-11-30 06:56:51.055720',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-30 02:34:49.597928',NULL,0,NULL,'active',NULL,'2026-11-30 06:56:51.062631','2026-12-30 02:44:49.597928','muller & sohne');
INSERT INTO "account" VALUES(3,'ab103','1003',NULL,NULL,'日本語',NULL,'customer-3','2026-11-30 06:56:51.057498','2026-11-30 06:56:51.058211',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab103.infusionsoft.com',1,X'01046727DA2ED5B7BC89FB57CC7615715BB1D98DB16196BCA7C72FFA20F93E90FCACF3D8B33BEE6B94668987801DC7',X'01046727DA6578E7B6301B92F01A7233730A16AB710EC11D02A95D3495F24C0C7D0A213DF960EBEED7141E586BAFDF29','2026-12-01 06:56:51.058185','2026-11-30 06:56:51.058220',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-30 01:03:37.305169',NULL,0,NULL,'active',NULL,'2026-11-30 06:56:51.062670','2026-12-30 01:13:37.305169','日本語');
INSERT INTO "account" VALUES(4,'ab104','1004',NULL,NULL,NULL,NULL,'customer-4','2026-11-30 06:56:51.059416','2026-11-30 06:56:51.060071',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab104.infusionsoft.com',1,X'01046727DA5622023798A01BE96E9F703F865A398030C01E92461C7AE7924685E7FF41383CC2F0316E064A99FB23E1',X'01046727DA178852667A3B69D061DA46DB984E2E2529830A6E9B1F7CDCDF87BCC62EA8B152CBA9B98E3ECDD94041B2ED','2026-12-01 06:56:51.060048','2026-11-30 06:56:51.060079',NULL,NULL,NULL,0,NULL,NULL,'2026-11-30 06:56:51.061245',NULL,2,NULL,NULL,NULL,NULL,NULL,0,NULL,'reconnect_required','refused','2026-11-30 06:56:51.061245',NULL,'ab104');
CREATE TABLE account_event (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at DATETIME NOT NULL, 
	account_id INTEGER, 
	kind VARCHAR NOT NULL, 
	actor VARCHAR NOT NULL, 
	details JSON NOT NULL
, pair_mark VARCHAR);
INSERT INTO "account_event" VALUES(1,'2026-11-30 06:56:51.044813',1,'connected','customer','{}','62383fd6996ee8e0');
INSERT INTO "account_event" VALUES(2,'2026-11-30 06:56:51.055900',2,'connected','customer','{}','f260abf9cf8ba948');
INSERT INTO "account_event" VALUES(3,'2026-11-30 06:56:51.058316',3,'connected','customer','{}','7a89e4888429c178');
INSERT INTO "account_event" VALUES(4,'2026-11-30 06:56:51.060160',4,'connected','customer','{}','8c0dffc1237af366');
INSERT INTO "account_event" VALUES(5,'2026-11-30 06:56:51.128037',NULL,'admin_created','command line','{"email": "admin@example.com", "role": "admin"}',NULL);
INSERT INTO "account_event" VALUES(6,'2026-11-30 06:56:51.172104',NULL,'api_key_issued','test','{"key_id": 1, "name": "nightly", "scopes": "accounts:read tokens:read"}',NULL);
INSERT INTO "account_event" VALUES(7,'2026-11-30 06:56:51.184024',NULL,'admin_signed_in','admin@example.com','{"email": "admin@example.com"}',NULL);
INSERT INTO "account_event" VALUES(8,'2026-11-30 06:56:51.190661',1,'reconnect_link_made','test','{"until": "2026-12-07 06:56 UTC"}',NULL);
INSERT INTO "account_event" VALUES(9,'2026-11-30 06:56:51.196496',NULL,'admin_invited','test','{"email": "invited@example.com", "role": "viewer", "until": "2026-12-03 06:56 UTC"}',NULL);
INSERT INTO "account_event" VALUES(10,'2026-11-30 06:56:51.209062',NULL,'invitation_made','test','{"invitation": 1, "external_id": "customer-5", "until": "2026-12-14 06:56 UTC"}',NULL);
INSERT INTO "account_event" VALUES(11,'2026-11-30 06:56:51.212921',NULL,'invitation_made','test','{"invitation": 2, "external_id": null, "until": "2026-12-14 06:56 UTC"}',NULL);
INSERT INTO "account_event" VALUES(12,'2026-11-30 06:56:51.240163',NULL,'invitation.waiting','customer','{"invitation": 2, "external_id": null, "tenant_id": "ab109", "until": "2026-12-07 06:56 UTC"}',NULL);
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
	totp_step INTEGER, has_alarm_mails BOOLEAN DEFAULT 1 NOT NULL, has_digest_mails BOOLEAN DEFAULT 1 NOT NULL, invited_by VARCHAR, 
	CONSTRAINT pk_admin PRIMARY KEY (id), 
	CONSTRAINT uq_admin_email UNIQUE (email), 
	CONSTRAINT ck_admin_role CHECK (role IN ('admin', 'viewer'))
);
INSERT INTO "admin" VALUES(1,'admin@example.com','$argon2id$v=19$m=19456,t=2,p=1$pAax1pfQeqS3mhBltzxx1A$WSeVWOZbHuaTLDZa/fEXjNAcWxKOhAQ1vr4B2oz9oMs','2026-11-30 06:56:51.126353','admin',NULL,NULL,NULL,1,1,NULL);
INSERT INTO "admin" VALUES(2,'invited@example.com','','2026-11-30 06:56:51.195494','viewer',NULL,NULL,NULL,1,1,'test');
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
INSERT INTO "alembic_version" VALUES('0029');
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
INSERT INTO "api_key" VALUES(1,'b9f6a08cb4e7a72e','df422fa8c9bfc50ba90ce8fe889ea6d082a376bc5c1470fa1eef9f196c1ef794','nightly','accounts:read tokens:read',NULL,'2026-11-30 06:56:51.168951','test',NULL,NULL,NULL);
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
	CONSTRAINT uq_authorization_flow_state_hash UNIQUE (state_hash), 
	CONSTRAINT fk_authorization_flow_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT fk_authorization_flow_reconnects_account_id_account FOREIGN KEY(reconnects_account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT uq_authorization_flow_ref UNIQUE (ref), 
	CONSTRAINT fk_authorization_flow_reconnect_link_id_reconnect_link FOREIGN KEY(reconnect_link_id) REFERENCES reconnect_link (id) ON DELETE SET NULL
);
INSERT INTO "authorization_flow" VALUES(1,'V2IsaT2JUC-k6X6e','cd86dd67c12cdf9ae2890c1aa9f23e6cc94826dab58fd6255b2fc57511261fc0','d4c3e8a11256ab82a4fc72560eb4a2b0e87bad820c290dd9b03616de240aa6db',NULL,NULL,'2026-11-30 06:56:51.217386','2026-11-30 07:06:51.217386',NULL,'confirmation_pending','2026-11-30 06:56:51.234662',NULL,NULL,NULL,X'01046727DA7CDAA859983C3091CC49F2D7DF66924E15458D75E9C3EB11CACDC540C6BB0E3846698A77B9337A60EA2743FE63A3F3B228B9622DD977B6027843609722BA7F5A7FEDAE2DBC46D3E64A8B76067474C8E1A9332CF37E71743D15CF4D497549E5BF2A2CB0A491B6431C16C0D6489195FBF9EB07FBA9E1CDD0B2E82266BC55CBC21452193243FAA95E3CE422D7379A76BE7D149037C679B542E6C7270FC094226E068293A8C7B60606E89AFCA16CCECD8F427573D081A16EBF5638206083AAD5124A258B950241132D811B72ED97BAC163B41B1BE2E1E3E3D88C93A7F0B968BB863BAC69D491795FD7B8947999348FD0486C3CCA8D542246854F4FBD778A743E46692AA0F016C166A9C9B4828911A3812173B06637F145E6A43A5F04A54DE6C5A422AEA82F8906B8FEDE058FC46C538D0701BAD81CBE427330210BA1598EF4E39F0A39FD9A002CFE34485538C28B573BA91B822366EE7EC5B3668E3A651B7826C7E801F1D4D6A39705DC91BF0FACE79EBC5B56FB11F9CFF19A241FE308B962B2624E8A8DF7E8ED29D875A3E56D2EFDA97B01FF1A70','2026-12-07 06:56:51.233197',NULL,2);
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
INSERT INTO "confirmation" VALUES(1,'3fd4c521dd6ad255','2026-11-30 06:56:51.156342',NULL,'localhost',NULL,NULL,'2223805','1796021810.613721163');
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
INSERT INTO "invitation" VALUES(1,'4b4f35bbdabc6428cb36c07e94b6252d2c2f585bb1574869e3971fc1db402c84','sent','Harbor Yoga','customer-5',NULL,NULL,NULL,NULL,0,0,'test','2026-11-30 06:56:51.202842','2026-11-30 06:56:51.202842','2026-12-14 06:56:51.202842',NULL,NULL);
INSERT INTO "invitation" VALUES(2,'4f927e30017d33ad0bfb1ff4db37955dd04c98cb42769e45e9e0d734838848e9','waiting','Elm Clinic',NULL,NULL,NULL,NULL,NULL,1,0,'test','2026-11-30 06:56:51.210938','2026-11-30 06:56:51.210938','2026-12-14 06:56:51.210938',NULL,NULL);
CREATE TABLE invitation_word (
	word VARCHAR NOT NULL, 
	invitation_id INTEGER NOT NULL, 
	CONSTRAINT pk_invitation_word PRIMARY KEY (word, invitation_id), 
	CONSTRAINT fk_invitation_word_invitation_id_invitation FOREIGN KEY(invitation_id) REFERENCES invitation (id) ON DELETE CASCADE
)
 WITHOUT ROWID

;
INSERT INTO "invitation_word" VALUES('5',1);
INSERT INTO "invitation_word" VALUES('customer',1);
INSERT INTO "invitation_word" VALUES('harbor',1);
INSERT INTO "invitation_word" VALUES('yoga',1);
INSERT INTO "invitation_word" VALUES('clinic',2);
INSERT INTO "invitation_word" VALUES('elm',2);
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
INSERT INTO "key_check" VALUES(1,X'01046727DA6C171B5C0677A8C770096D88BE385F5EA7B03975EBF05CDE5259468BE6CF60E8AA594EEA55DE998E7C0DDD7A99E10562C07795C07119CE5BACA097A08DAE33BD93563DD5293B2F801068');
CREATE TABLE "one_time_token" (
	token_hash VARCHAR NOT NULL, 
	purpose VARCHAR NOT NULL, 
	admin_id INTEGER NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_one_time_token PRIMARY KEY (token_hash), 
	CONSTRAINT fk_one_time_token_admin_id_admin FOREIGN KEY(admin_id) REFERENCES admin (id) ON DELETE CASCADE, 
	CONSTRAINT ck_one_time_token_purpose CHECK (purpose IN ('new_password', 'second_step', 'sign_in'))
);
INSERT INTO "one_time_token" VALUES('4b24175e3c8817c3237915c0032ad540462fae987427feb320b93dec77a11d6a','new_password',2,'2026-12-03 06:56:51.196606');
CREATE TABLE period (
	span VARCHAR NOT NULL, 
	starts_at DATETIME NOT NULL, 
	figures JSON NOT NULL, 
	CONSTRAINT pk_period PRIMARY KEY (span, starts_at)
);
INSERT INTO "period" VALUES('hour','2026-11-30 06:00:00.000000','{"refreshes stored": 4.0}');
INSERT INTO "period" VALUES('day','2026-11-30 00:00:00.000000','{"gained connected": 3.0, "accounts active": 3.0, "accounts at_risk": 0.0, "accounts reconnect_required": 1.0, "accounts disconnected": 0.0}');
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
INSERT INTO "reconnect_link" VALUES(1,1,'56a03949c6442d8223bb35d3153c284b64e36a079fcbd01367b09cbd45892570','test','2026-11-30 06:56:51.190437','2026-12-07 06:56:51.190437',NULL,NULL,NULL);
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
INSERT INTO "sign_in" VALUES('159cd6314eaa933e5f8919e6f68393c61609c1583092d793f5aa965591609685',1,NULL,NULL,'2026-11-30 06:56:51.175078','2026-11-30 06:56:51.175078','2026-11-30 18:56:51.175078','127.0.0.1',NULL);
CREATE TABLE sign_in_attempt (
	id INTEGER NOT NULL, 
	subject VARCHAR NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_sign_in_attempt PRIMARY KEY (id)
);
CREATE TABLE state_change (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	change VARCHAR NOT NULL, 
	CONSTRAINT pk_state_change PRIMARY KEY (id)
);
INSERT INTO "state_change" VALUES(1,'2026-11-30 06:56:51.272165','lost gone');
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
CREATE INDEX ix_invitation_word_invitation_id ON invitation_word (invitation_id);
CREATE INDEX ix_account_event_kind_at ON account_event (kind, at, id) WHERE kind <> 'refreshed';
CREATE INDEX ix_account_word_account_id_word ON account_word (account_id, word);
CREATE INDEX ix_account_keap_user_id ON account (keap_user_id, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('account',4);
INSERT INTO "sqlite_sequence" VALUES('account_event',12);
INSERT INTO "sqlite_sequence" VALUES('confirmation',1);
INSERT INTO "sqlite_sequence" VALUES('api_key',1);
INSERT INTO "sqlite_sequence" VALUES('invitation',2);
COMMIT;
