"""A result on its way to our storage: fetched, recognised by its bytes, held in the spool."""
