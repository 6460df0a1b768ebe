-- @optional
-- The function that the triggers call. It touches no table, so it needs no rights of its own. It never fails the
-- application's statement: a hint that is not sent costs one sweep.

CREATE OR REPLACE FUNCTION reconciler.announce_row() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path = ''
AS $$
BEGIN
    PERFORM pg_notify('reconciler_generations', json_build_object(
        'id', NEW.id::text,
        'task_id', left(NEW.task_id::text, 200),  -- a payload of 8,000 bytes would abort the application's INSERT
        'status', left(NEW.status::text, 40))::text);
    RETURN NULL;
EXCEPTION WHEN OTHERS THEN
    RAISE WARNING 'generation not announced: %', SQLERRM;
    RETURN NULL;
END
$$;

REVOKE ALL ON FUNCTION reconciler.announce_row() FROM PUBLIC;
