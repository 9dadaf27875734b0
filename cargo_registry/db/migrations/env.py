"""What Alembic runs: the steps, in the transaction that `upgrade` opened."""

from alembic import context

from cargo_registry.db.schema import metadata

connection = context.config.attributes["connection"]
# SQLite changes few things about a column in place; batch mode copies the table.
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
context.run_migrations()
