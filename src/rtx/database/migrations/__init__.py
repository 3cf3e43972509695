"""The steps by which the tables came to be what they are, for Alembic.

A step is a file in `versions` with `revision`, `down_revision` and `upgrade(op)`. It gets its
operations as an argument, rather than through `alembic.op`, which is one for the whole process and
would mix up two databases that are opened at the same time. What a step says is never changed after
a release, so it repeats what it needs instead of importing it. After a new step, set
`rtx.database.schema.HEAD`; the tests compare the outcome with `rtx.database.tables`.
"""
