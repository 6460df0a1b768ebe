"""Everything about PostgreSQL: the pool, our statements, the application's table as it is, migrations.

Outside this folder only `doctor` and the demo send SQL. It raises the errors of `reconciler.errors` and asyncpg's
for a refused row. Decisions about a generation do not live here. It has many modules because each small table of ours
has one.
"""
