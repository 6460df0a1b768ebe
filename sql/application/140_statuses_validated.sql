-- A transaction of its own: validating reads the whole table, and does not keep the application from writing.

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_constraint
                WHERE conrelid = to_regclass('public.generations') AND conname = 'generations_status_check'
                  AND NOT convalidated) THEN
        ALTER TABLE public.generations VALIDATE CONSTRAINT generations_status_check;
    END IF;
END
$$;
