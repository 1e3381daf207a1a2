"""How revisions run: in one transaction on both engines, and on SQLite with foreign keys off.

SQLite changes a table by copying it and dropping the old one; with foreign keys on, that drop would delete
every row that refers to it by ON DELETE CASCADE, silently.
"""

from alembic import context

from keap_connect.database import Base, db

engine = db.engine.execution_options(writes=True)
is_sqlite = engine.dialect.name == "sqlite"
if not is_sqlite:
    engine = engine.execution_options(isolation_level="READ COMMITTED")

with engine.connect() as connection:
    driver = connection.connection.dbapi_connection
    if is_sqlite:
        driver.execute("PRAGMA foreign_keys=OFF")
    else:
        driver.answer_seconds = None  # changing a large table takes long
        connection.detach()  # nobody else uses it afterwards
    context.configure(
        connection=connection, target_metadata=Base.metadata, transactional_ddl=True, render_as_batch=True
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
            if is_sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall():
                raise RuntimeError("the migration would leave rows that refer to nothing; it was rolled back")
    finally:
        if is_sqlite:
            driver.execute("PRAGMA foreign_keys=ON")
