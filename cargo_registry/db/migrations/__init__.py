"""The steps from one schema to the next, run by Alembic. A released step is never edited."""
