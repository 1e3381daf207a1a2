-- API key: kc_d21b95eb3d8d8e3d_8d448689be99bfde02adfc07b32b6ed3ab32dccd33f3bc2738e7400b
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
INSERT INTO "account" VALUES(1,'ab101','1001',NULL,NULL,'Bright Dental',NULL,'customer-1','2026-11-29 23:56:03.705431','2026-11-29 23:56:03.727332',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab101.infusionsoft.com',1,X'01046727DA9E30410CF6236F9449F7F95ABA570D014780FB3FE7EAB5AD8E9DDC263C040DC4D61560B6CF257562AC63',X'01046727DA0FFC73A7A089A94F4AB1961FA56548D8789430CAAE2FCD38F8D498C55FAFC892F48EE7E4A241193EB45460','2026-11-30 23:56:03.727250','2026-11-29 23:56:03.727361',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 15:36:50.139168',NULL,0,NULL,'active',NULL,'2026-11-29 23:56:03.800999','2026-12-29 15:46:50.139168','bright dental');
INSERT INTO "account" VALUES(2,'ab102','1002',NULL,NULL,'Müller & Söhne',NULL,'customer-2','2026-11-29 23:56:03.755860','2026-11-29 23:56:03.757440',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab102.infusionsoft.com',1,X'01046727DAD2F0CD73DF418BD47940EEC092DA07E42EDC7E5AE5A816DF7290435F4B4356C580B3036748DDA02323ED',X'01046727DA27F87E0480C6268DE6F48C7A9B6E4D57FE2463D8A7EAF30C659B2849401C4DDA1081C9401048C8729620A0','2026-11-30 23:56:03.757378','2026-11-29 23:56:03.757458',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 19:42:10.210780',NULL,0,NULL,'active',NULL,'2026-11-29 23:56:03.801052','2026-12-29 19:52:10.210780','muller & sohne');
INSERT INTO "account" VALUES(3,'ab103','1003',NULL,NULL,'日本語',NULL,'customer-3','2026-11-29 23:56:03.772493','2026-11-29 23:56:03.786142',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab103.infusionsoft.com',1,X'01046727DA38D90E03779C9E5F5A635A2A069305E9507264053E1844EE9AA16C1C6D45B731E92BBD088E806C41B685',X'01046727DA8A666D785A4A57653EB7B37ED65E9718F97383BCBDAE7AC5A7EEE28629A009196734076E79215505070564','2026-11-30 23:56:03.786081','2026-11-29 23:56:03.786158',NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,'2026-12-29 14:20:24.268632',NULL,0,NULL,'active',NULL,'2026-11-29 23:56:03.801091','2026-12-29 14:30:24.268632','日本語');
INSERT INTO "account" VALUES(4,'ab104','1004',NULL,NULL,NULL,NULL,'customer-4','2026-11-29 23:56:03.788580','2026-11-29 23:56:03.797802',NULL,NULL,'oauth','client-of-the-versions','http://127.0.0.1:1/token','full|ab104.infusionsoft.com',1,X'01046727DADF2BF90F59ACA4C17DB4F84D90E5ED8E41182A25EBD4E84FA4A3881C64EF2D301D2B07A5176E7CD0AFE4',X'01046727DADF9F6E915F798AD05D1E8CEA32F5B20BA5F20A2BA18BB24B0E463733A76131938257765FD4765D3F546C9C','2026-11-30 23:56:03.797731','2026-11-29 23:56:03.797819',NULL,NULL,NULL,0,NULL,NULL,'2026-11-29 23:56:03.799804',NULL,2,NULL,NULL,NULL,NULL,NULL,0,NULL,'reconnect_required','refused','2026-11-29 23:56:03.799804',NULL,'ab104');
CREATE TABLE account_event (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	at DATETIME NOT NULL, 
	account_id INTEGER, 
	kind VARCHAR NOT NULL, 
	actor VARCHAR NOT NULL, 
	details JSON NOT NULL
, pair_mark VARCHAR);
INSERT INTO "account_event" VALUES(1,'2026-11-29 23:56:03.727592',1,'connected','customer','{}','51c66e2809491a81');
INSERT INTO "account_event" VALUES(2,'2026-11-29 23:56:03.769877',2,'connected','customer','{}','c653d39b6a5555e1');
INSERT INTO "account_event" VALUES(3,'2026-11-29 23:56:03.786319',3,'connected','customer','{}','46de3b04dc30de24');
INSERT INTO "account_event" VALUES(4,'2026-11-29 23:56:03.797989',4,'connected','customer','{}','861a77aeb33444aa');
INSERT INTO "account_event" VALUES(5,'2026-11-29 23:56:04.067097',NULL,'admin_created','command line','{"email": "admin@example.com", "role": "admin"}',NULL);
INSERT INTO "account_event" VALUES(6,'2026-11-29 23:56:04.218940',NULL,'api_key_issued','test','{"key_id": 1, "name": "nightly", "scopes": "accounts:read tokens:read"}',NULL);
INSERT INTO "account_event" VALUES(7,'2026-11-29 23:56:04.274627',NULL,'admin_signed_in','admin@example.com','{"email": "admin@example.com"}',NULL);
INSERT INTO "account_event" VALUES(8,'2026-11-29 23:56:04.310415',1,'reconnect_link_made','test','{"until": "2026-12-06 23:56 UTC"}',NULL);
INSERT INTO "account_event" VALUES(9,'2026-11-29 23:56:04.342715',NULL,'admin_invited','test','{"email": "invited@example.com", "role": "viewer", "until": "2026-12-02 23:56 UTC"}',NULL);
INSERT INTO "account_event" VALUES(10,'2026-11-29 23:56:04.423793',NULL,'invitation_made','test','{"invitation": 1, "external_id": "customer-5", "until": "2026-12-13 23:56 UTC"}',NULL);
INSERT INTO "account_event" VALUES(11,'2026-11-29 23:56:04.437460',NULL,'invitation_made','test','{"invitation": 2, "external_id": null, "until": "2026-12-13 23:56 UTC"}',NULL);
INSERT INTO "account_event" VALUES(12,'2026-11-29 23:56:04.631382',NULL,'invitation.waiting','customer','{"invitation": 2, "external_id": null, "tenant_id": "ab109", "until": "2026-12-06 23:56 UTC"}',NULL);
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
INSERT INTO "admin" VALUES(1,'admin@example.com','$argon2id$v=19$m=19456,t=2,p=1$4uPxavf3mwA2H51GyL/h5w$umj5FMD7CCwDjqV/+OGlmGm/sBVkpnAnbk8FpVt23dE','2026-11-29 23:56:04.052476','admin',NULL,NULL,NULL,1,1,NULL);
INSERT INTO "admin" VALUES(2,'invited@example.com','','2026-11-29 23:56:04.336787','viewer',NULL,NULL,NULL,1,1,'test');
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
INSERT INTO "alembic_version" VALUES('0028');
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
INSERT INTO "api_key" VALUES(1,'d21b95eb3d8d8e3d','ff9cd1378dcb84f3aef4dc2ffe4fbdee841d021842adbcebc82a1875557dd029','nightly','accounts:read tokens:read',NULL,'2026-11-29 23:56:04.216769','test',NULL,NULL,NULL);
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
	CONSTRAINT uq_authorization_flow_ref UNIQUE (ref), 
	CONSTRAINT uq_authorization_flow_state_hash UNIQUE (state_hash), 
	CONSTRAINT fk_authorization_flow_reconnects_account_id_account FOREIGN KEY(reconnects_account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT fk_authorization_flow_account_id_account FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE SET NULL, 
	CONSTRAINT fk_authorization_flow_reconnect_link_id_reconnect_link FOREIGN KEY(reconnect_link_id) REFERENCES reconnect_link (id) ON DELETE SET NULL
);
INSERT INTO "authorization_flow" VALUES(1,'rwLlrWtlgo3P9sGK','807f2ccf817da5a3772a1c59b03a9f920342f7c9c105a4c3b2e0ea33ead8d302','d4c3e8a11256ab82a4fc72560eb4a2b0e87bad820c290dd9b03616de240aa6db',NULL,NULL,'2026-11-29 23:56:04.472023','2026-11-30 00:06:04.472023',NULL,'confirmation_pending','2026-11-29 23:56:04.594603',NULL,NULL,NULL,X'01046727DA8CA05FB47125E173F8B9F5DB40C7E6707E2D55675080E668EC39CB75A3EE57C4B0A8B997773F4BA494583CB0E3EC010A82E1FD343382BF66A9D636FE87E10FD74E385E1EA53CF7BA63F1906CF69AD8DC3181553B9564C8A085ED7A69C12F5C5B6143BA76A3B5D3E6AF65CEFD0D0404489997D474DB6979C46D28C2CAA4BA72AA520D913DADD951D6630957005CD9CE9A479F6714C82AFB4107342C9986B0E045F3927D1EE2F65F755B299FD926EE468FC8250A5B224F863EEFFEB34C1045EE243858EDA1F212E0B996B023A7A2B8CBE166C0F59236F50F36D485A733380F4C1C429F7202E2F9E7790216A011E3D1D4B71E80DE231ACA637F039551870885F9A241769891B52880AECDE7E813003C3E37F683B5952E2524033878FB1A08629057374CB87BFE8001F16B53D56F3F1A1841D3D6C0A33AEA713B06D8FFB17D63914C6CF7CA8F878ADFE4FC58881B962887B2FF21408266902C4778C384AF2A2CA05883DF5CFD','2026-12-06 23:56:04.582024',NULL,2);
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
INSERT INTO "confirmation" VALUES(1,'27a5adff8ee39113','2026-11-29 23:56:04.164956',NULL,'localhost',NULL,NULL,'4325782','1795996562.570905426');
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
INSERT INTO "invitation" VALUES(1,'16c4234337511ba99e60e25f344d437ac1d2081c2fb0884d613c2aacde6211a5','sent','Harbor Yoga','customer-5',NULL,NULL,NULL,NULL,0,0,'test','2026-11-29 23:56:04.390141','2026-11-29 23:56:04.390141','2026-12-13 23:56:04.390141',NULL,NULL);
INSERT INTO "invitation" VALUES(2,'88bb28e1a59d40c4ff3e48aec9162098d74e353a201ec0000f134704832e8fe1','waiting','Elm Clinic',NULL,NULL,NULL,NULL,NULL,1,0,'test','2026-11-29 23:56:04.434569','2026-11-29 23:56:04.434569','2026-12-13 23:56:04.434569',NULL,NULL);
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
INSERT INTO "key_check" VALUES(1,X'01046727DA6570C887ADCE8A008DEEA31A46D5330B316B2083C685CA916F07BC00865D1AAC34ABA4E3AF11A3386BC15B4968B346F915616B605103FD80038AA7A9AA2B240844A332DB640C3E58BCE6');
CREATE TABLE "one_time_token" (
	token_hash VARCHAR NOT NULL, 
	purpose VARCHAR NOT NULL, 
	admin_id INTEGER NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_one_time_token PRIMARY KEY (token_hash), 
	CONSTRAINT fk_one_time_token_admin_id_admin FOREIGN KEY(admin_id) REFERENCES admin (id) ON DELETE CASCADE, 
	CONSTRAINT ck_one_time_token_purpose CHECK (purpose IN ('new_password', 'second_step', 'sign_in'))
);
INSERT INTO "one_time_token" VALUES('fa8910c3a447fadff745691a4e1489d0ce8b76c03ed09a4e314ed5c5474bc407','new_password',2,'2026-12-02 23:56:04.342891');
CREATE TABLE period (
	span VARCHAR NOT NULL, 
	starts_at DATETIME NOT NULL, 
	figures JSON NOT NULL, 
	CONSTRAINT pk_period PRIMARY KEY (span, starts_at)
);
INSERT INTO "period" VALUES('hour','2026-11-29 23:00:00.000000','{"refreshes stored": 4.0}');
INSERT INTO "period" VALUES('day','2026-11-29 00:00:00.000000','{"gained connected": 3.0, "accounts active": 3.0, "accounts at_risk": 0.0, "accounts reconnect_required": 1.0, "accounts disconnected": 0.0}');
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
INSERT INTO "reconnect_link" VALUES(1,1,'84ab5bffdcd8789acef4284ad1dd09318a6353451c460c74bbea799f00f502d7','test','2026-11-29 23:56:04.310223','2026-12-06 23:56:04.310223',NULL,NULL,NULL);
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
INSERT INTO "sign_in" VALUES('f036d14069ff06b9d7b710c717f75f4f2cc26a2a0d51a16f22a678af2b89a00b',1,NULL,NULL,'2026-11-29 23:56:04.230946','2026-11-29 23:56:04.230946','2026-11-30 11:56:04.230946','127.0.0.1',NULL);
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
INSERT INTO "state_change" VALUES(1,'2026-11-29 23:56:04.745912','lost gone');
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
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('account',4);
INSERT INTO "sqlite_sequence" VALUES('account_event',12);
INSERT INTO "sqlite_sequence" VALUES('confirmation',1);
INSERT INTO "sqlite_sequence" VALUES('api_key',1);
INSERT INTO "sqlite_sequence" VALUES('invitation',2);
COMMIT;
